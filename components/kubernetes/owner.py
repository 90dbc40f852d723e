"""Which run this process is a step of, by what Kubeflow Pipelines and Argo tell its pod."""

import hashlib
import os

from components.errors import PrerequisiteError
from components.kubernetes.cluster_client import JSON, POD, ClusterClient

WORKFLOW_LABEL = "workflows.argoproj.io/workflow"


def run_name(cluster: ClusterClient, results: str) -> str:
    """The workflow's name: $QUANTGATE_RUN, or what the own pod's label says; outside of one a name by the results.

    All steps of a run come to the same, which is how each of them finds what another one made.
    """
    if told := os.environ.get("QUANTGATE_RUN"):
        return told
    pod = own_pod(cluster)
    label: str = pod["metadata"].get("labels", {}).get(WORKFLOW_LABEL, "") if pod else ""
    return label or f"results-{hashlib.sha256(results.encode()).hexdigest()[:12]}"


def workflow(cluster: ClusterClient) -> JSON | None:
    """The run's Workflow as the owner of what it makes; None, with a line in the log, where it cannot be known."""
    pod = own_pod(cluster)
    owners = pod["metadata"].get("ownerReferences", []) if pod else []
    found = next((each for each in owners if each["kind"] == "Workflow"), None)
    if found is None:
        why = "its pod has no owner of that kind" if pod else "this is no pod of a run, or it may not read itself"
        print(f"quantgate: no Workflow owns the server ({why}): the lease alone removes it.", flush=True)
        return None
    return reference({"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": found})


def own_pod(cluster: ClusterClient) -> JSON | None:
    """The pod that this process runs in; None outside of one, and where it may not be read."""
    name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
    if not os.environ.get("KUBERNETES_SERVICE_HOST") or not name:
        return None
    try:
        return cluster.get(POD, name)
    except PrerequisiteError as error:
        print(f"quantgate: {error}", flush=True)
        return None


def reference(owner: JSON) -> JSON:
    """What an object says of its owner.

    It does not block the owner's deletion: OpenShift lets only those say so who may change the owner's finalizers.
    """
    metadata = owner["metadata"]
    return {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": metadata["name"], "uid": metadata["uid"]}
