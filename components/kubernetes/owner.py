"""The run that this process is a step of, from what Kubeflow Pipelines and Argo set on its pod."""

import hashlib
import os

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import JSON, POD, ClusterClient
from quantgate.components.kubernetes.labels import RUN_NAME

WORKFLOW_LABEL = "workflows.argoproj.io/workflow"


def run_name(cluster: ClusterClient, results: str) -> str:
    """The workflow's name: $QUANTGATE_RUN, or the label of this pod; outside a pod a name made from the results.

    All steps of a run get the same name, by which each step finds the objects of the others.
    """
    if name := os.environ.get(RUN_NAME):
        return name
    pod = own_pod(cluster)
    label: str = pod["metadata"].get("labels", {}).get(WORKFLOW_LABEL, "") if pod else ""
    return label or f"results-{hashlib.sha256(results.encode()).hexdigest()[:12]}"


def workflow(cluster: ClusterClient) -> JSON | None:
    """The run's Workflow as the owner of its objects; None, with a line in the log, if it is unknown."""
    pod = own_pod(cluster)
    owners = pod["metadata"].get("ownerReferences", []) if pod else []
    owner = next((owner for owner in owners if owner["kind"] == "Workflow"), None)
    if owner is None:
        reason = "its pod has no such owner" if pod else "this is not a pod of a run, or it may not read its own pod"
        print(f"quantgate: no Workflow owns the server ({reason}): only its lease removes it.", flush=True)
        return None
    return reference({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "metadata": owner})


def own_pod(cluster: ClusterClient) -> JSON | None:
    """The pod that this process runs in; None outside a pod, or if this account may not read it."""
    name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
    if not os.environ.get("KUBERNETES_SERVICE_HOST") or not name:
        return None
    try:
        return cluster.get(POD, name)
    except PrerequisiteError as error:
        print(f"quantgate: {error}", flush=True)
        return None


def reference(owner: JSON) -> JSON:
    """The owner reference for an object.

    It does not set blockOwnerDeletion: on OpenShift that requires the right to change the owner's finalizers.
    """
    metadata = owner["metadata"]
    return {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": metadata["name"], "uid": metadata["uid"]}
