"""The labels of quantgate's objects on a cluster."""

MANAGED_BY, MANAGER = "app.kubernetes.io/managed-by", "quantgate"
RUN, VARIANT = "quantgate.dev/run", "quantgate.dev/variant"
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}
"""In a Kubeflow namespace Istio adds a proxy to each pod. It blocks a step's requests, and it never ends."""
INSTANCE = "app.kubernetes.io/instance"
RUN_NAME = "QUANTGATE_RUN"
"""The variable of a step with the name of the run's workflow, as in the label RUN; pipelines/cluster.py sets it."""
