"""The Kubernetes objects that serve a variant on a cluster, as the API accepts them.

    Workflow (of the run) owns Lease owns InferenceService          (KServe)
                                          Deployment, Service       (without)
                                          Secret                    (both: the API key of this start)

The Lease is created first and owns the other objects, so deleting it removes everything that an interrupted start left.
It is a separate object, not an annotation of the server: KServe copies annotations into the pod template, so each
renewal would restart the server.
"""

import hashlib
import json
import re

from quantgate.components.kubernetes import cluster_client
from quantgate.components.kubernetes.cluster_client import JSON, ObjectKind
from quantgate.components.kubernetes.labels import INSTANCE, NO_SIDECAR, RUN
from quantgate.components.run.server_identity import LLAMA_CPP, ServerIdentity
from quantgate.components.servers import llama_pod, vllm_pod
from quantgate.components.servers.access import KEY_VARIABLE
from quantgate.components.servers.cluster_settings import KSERVE, ServingSettings
from quantgate.components.servers.vllm_options import CPU_OPTIONS, NEUTRAL, VLLM_CPU_IMAGE, VLLM_IMAGE
from quantgate.components.servers.vllm_pod import KSERVE_CONTAINER, PORT, Runtime, Served

SPEC = "quantgate.dev/spec"
KSERVE_LABEL = "serving.kserve.io/inferenceservice"
GPU = re.compile(r"(nvidia\.com|amd\.com|gpu\.intel\.com|habana\.ai)/")
"""The resource names of GPUs in their makers' device plugins."""


def own_runtime(settings: ServingSettings) -> Runtime:
    """vLLM's image and options in a plain Deployment."""
    image = settings.image or (VLLM_IMAGE if settings.gpus else VLLM_CPU_IMAGE)
    return Runtime(image, ("--model", vllm_pod.FETCHED, "--host", "0.0.0.0", "--port", str(PORT)), (), PORT)


def runtime_of(serving_runtime: JSON, settings: ServingSettings) -> Runtime:
    """The image and options of a ServingRuntime; an image in the settings replaces the runtime's."""
    spec = serving_runtime["spec"]
    containers = spec.get("containers", [])
    container: JSON = next((entry for entry in containers if entry.get("name") == KSERVE_CONTAINER), {})
    ports = container.get("ports") or [{"containerPort": PORT}]
    formats = spec.get("supportedModelFormats") or [{"name": "vLLM"}]
    return Runtime(
        image=settings.image or container.get("image", ""),
        args=(*container.get("command", ()), *container.get("args", ())),
        env=tuple((entry["name"], entry["value"]) for entry in container.get("env", ()) if "value" in entry),
        port=ports[0]["containerPort"],
        model_format=formats[0]["name"],
        gpus=tuple(sorted(name for name in container.get("resources", {}).get("limits", {}) if GPU.match(name))),
    )


def answering(settings: ServingSettings, max_model_len: int) -> tuple[str, ...]:
    """vLLM's options that can change an answer, besides the runtime's own; the last option of a name counts."""
    parallel = ("--tensor-parallel-size", str(settings.tensor_parallel_size))
    on_cpu = () if settings.gpus else CPU_OPTIONS
    return ("--max-model-len", str(max_model_len), *NEUTRAL, *parallel, *on_cpu, *settings.options)


def options_of(runtime: Runtime, settings: ServingSettings, max_model_len: int) -> tuple[str, ...]:
    """The engine's options that can change an answer, besides the runtime's own."""
    is_llama = runtime.package == LLAMA_CPP
    return llama_pod.answering(settings, max_model_len) if is_llama else answering(settings, max_model_len)


def identity_of(digest: str, runtime: Runtime, settings: ServingSettings, max_model_len: int) -> ServerIdentity:
    """The identity of the cluster's server for the weights with this digest."""
    return ServerIdentity(
        weights=digest,
        package=runtime.package,
        image=runtime.image,
        place=f"{settings.gpus} {settings.gpu_resource}" if settings.gpus else "CPU",
        node_selector=tuple(sorted(settings.node_selector)),
        environment=tuple(sorted({**dict(runtime.env), **dict(settings.env)}.items())),
        options=(*runtime.args, *options_of(runtime, settings, max_model_len)),
    )


def lease(name: str, labels: dict[str, str], now: str, length_s: int, owner: JSON | None, spec: str = "") -> JSON:
    """The Lease, which owns the other objects and limits their lifetime; `spec` is the digest of those objects.

    `labels` are on all objects of the server; the run's label is among them.
    """
    metadata: JSON = {"name": name, "labels": labels}
    if spec:
        metadata["annotations"] = {SPEC: spec}
    if owner:
        metadata["ownerReferences"] = [owner]
    spec_of_lease = {
        "holderIdentity": labels[RUN],
        "leaseDurationSeconds": length_s,
        "acquireTime": now,
        "renewTime": now,
    }
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec_of_lease}


def manifests(served: Served, runtime: Runtime, settings: ServingSettings) -> list[tuple[ObjectKind, JSON]]:
    """The objects that the lease owns, in the order to create them: the one that becomes ready is the last."""
    if settings.kind == KSERVE:
        return [(cluster_client.INFERENCE_SERVICE, inference_service(served, runtime, settings))]
    return [
        (cluster_client.SERVICE, service(served)),
        (cluster_client.DEPLOYMENT, deployment(served, runtime, settings)),
    ]


def key_secret(served: Served, key: str) -> JSON:
    """The Secret with the API key of one start."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": served.key_secret, "labels": served.labels},
        "type": "Opaque",
        "immutable": True,
        "stringData": {KEY_VARIABLE: key},
    }


def digest(owned: list[tuple[ObjectKind, JSON]]) -> str:
    """The sha256 of the objects; starts with different settings have different digests."""
    return hashlib.sha256(json.dumps([body for _, body in owned], sort_keys=True).encode()).hexdigest()


def metadata(served: Served) -> JSON:
    """The name and labels of an object."""
    return {"name": served.name, "labels": served.labels}


def inference_service(served: Served, runtime: Runtime, settings: ServingSettings) -> JSON:
    """The InferenceService. KServe's storage initializer fetches the weights to /mnt/models; the runtime serves them"""
    model = {
        "modelFormat": {"name": runtime.model_format},
        "runtime": settings.runtime,
        "storageUri": served.uri,
        **vllm_pod.vllm(served, runtime, settings),  # into the runtime's container, `args` after the runtime's own
        **({"image": settings.image} if settings.image else {}),
    }
    predictor = {"minReplicas": 1, "maxReplicas": 1, "deploymentStrategy": {"type": "Recreate"}, "model": model}
    annotations = {
        "serving.kserve.io/deploymentMode": "RawDeployment",
        "serving.kserve.io/autoscalerClass": "external",  # one replica: KServe creates no autoscaler
    }
    # without the visibility label KServe gives the server an address outside the cluster
    labels = {**served.labels, "networking.kserve.io/visibility": "cluster-local", **NO_SIDECAR}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": served.name, "labels": labels, "annotations": annotations},
        "spec": {"predictor": {**predictor, **vllm_pod.placed(settings), "volumes": vllm_pod.volumes(settings)}},
    }


def deployment(served: Served, runtime: Runtime, settings: ServingSettings) -> JSON:
    """The Deployment that serves the variant without KServe.

    An init container of the project image fetches the weights: it checks every file's sha256, as all our steps do, and
    works with any S3 and any vLLM image. vLLM's own S3 loading needs an extra that an image may lack, and it does not
    check the weights.
    """
    labels = {**served.labels, INSTANCE: served.name}
    if runtime.package == LLAMA_CPP:
        container, shared = llama_pod.server(served, runtime, settings), []
    else:
        container, shared = vllm_pod.server(served, runtime, settings), vllm_pod.volumes(settings)
    spec = {
        **vllm_pod.placed(settings),
        "automountServiceAccountToken": False,
        "securityContext": vllm_pod.unprivileged(settings.run_as_user),
        "initContainers": [vllm_pod.fetcher(served, settings)],
        "containers": [container],
        "volumes": [*shared, *vllm_pod.scratch(settings)],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": served.name, "labels": labels},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {INSTANCE: served.name}},
            "template": {"metadata": {"labels": {**labels, **NO_SIDECAR}}, "spec": spec},
        },
    }


def service(served: Served) -> JSON:
    """The Service through which a step reaches the Deployment's pod."""
    port = {"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(served),
        "spec": {"selector": {INSTANCE: served.name}, "ports": [port]},
    }
