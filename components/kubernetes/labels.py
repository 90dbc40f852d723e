"""The labels by which our objects are known on a cluster."""

MANAGED_BY, MANAGER = "app.kubernetes.io/managed-by", "quantgate"
RUN, VARIANT = "quantgate.dev/run", "quantgate.dev/variant"
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}
"""In a namespace of Kubeflow's, Istio puts a proxy beside each pod: it refuses what a step asks, and never ends."""
INSTANCE = "app.kubernetes.io/instance"
