"""The objects by which a variant is served on a cluster, as the API takes them.

    Workflow (of the run) owns Lease owns InferenceService, ConfigMap          (KServe)
                                          Deployment, Service, ConfigMap       (without)

The Lease comes first and owns the rest, so whatever is left of an interrupted start goes with it. It is an object of
its own and no annotation of the server's: KServe copies annotations into the pods' template, and each renewal would
restart the server that it is to keep alive.
"""

import hashlib
import json
import re

from components.kubernetes import cluster_client
from components.kubernetes.cluster_client import JSON, ObjectKind
from components.kubernetes.labels import INSTANCE, NO_SIDECAR, RUN
from components.servers import vllm_pod
from components.servers.cluster_settings import KSERVE, ServingSettings
from components.servers.vllm_pod import KSERVE_CONTAINER, PLUGIN, PORT, Runtime, Served

SPEC = "quantgate.dev/spec"
KSERVE_LABEL = "serving.kserve.io/inferenceservice"
VLLM_IMAGE = "docker.io/vllm/vllm-openai:v0.32.0"
GPU = re.compile(r"(nvidia\.com|amd\.com|gpu\.intel\.com|habana\.ai)/")
"""What GPUs are called as a resource, by their makers' device plugins."""


def own_runtime(settings: ServingSettings) -> Runtime:
    """vLLM as a plain Deployment starts it."""
    return Runtime(
        settings.image or VLLM_IMAGE, ("--model", vllm_pod.FETCHED, "--host", "0.0.0.0", "--port", str(PORT)), (), PORT
    )


def runtime_of(serving_runtime: JSON, settings: ServingSettings) -> Runtime:
    """What a ServingRuntime starts, with the image of the settings where they have one."""
    spec = serving_runtime["spec"]
    containers = spec.get("containers", [])
    container: JSON = next((each for each in containers if each.get("name") == KSERVE_CONTAINER), {})
    ports = container.get("ports") or [{"containerPort": PORT}]
    formats = spec.get("supportedModelFormats") or [{"name": "vLLM"}]
    return Runtime(
        image=settings.image or container.get("image", ""),
        args=(*container.get("command", ()), *container.get("args", ())),
        env=tuple((each["name"], each["value"]) for each in container.get("env", ()) if "value" in each),
        port=ports[0]["containerPort"],
        model_format=formats[0]["name"],
        gpus=tuple(sorted(name for name in container.get("resources", {}).get("limits", {}) if GPU.match(name))),
    )


def answering(settings: ServingSettings, max_model_len: int) -> tuple[str, ...]:
    """The options of vLLM's that can change an answer, besides the runtime's own; the last one of a name counts."""
    spread = ("--tensor-parallel-size", str(settings.tensor_parallel_size))
    return ("--max-model-len", str(max_model_len), *spread, *settings.options)


def identity(digest: str, runtime: Runtime, settings: ServingSettings, max_model_len: int) -> str:
    """Whose answers a server's are: the weights', the image's, the GPUs', and those of all options and variables.

    An image under a tag that moves makes it a lie: name it by digest. Which GPU it is, only a node selector says.
    """
    gpus = f"{settings.gpus} {settings.gpu_resource}" if settings.gpus else "CPU"
    node = " ".join(f"{name}={value}" for name, value in sorted(settings.node_selector))
    variables = " ".join(
        f"{name}={value}" for name, value in sorted({**dict(runtime.env), **dict(settings.env)}.items())
    )
    options = " ".join((*runtime.args, *answering(settings, max_model_len)))
    return f"{digest} on {runtime.image}, {' '.join(filter(None, [gpus, node, variables]))}, {options}"


def lease(name: str, labels: dict[str, str], now: str, length_s: int, owner: JSON | None, spec: str = "") -> JSON:
    """The object that owns the others and says until when they may stay; `spec`, where it is kept, tells which others.

    `labels` are those of everything that is made, its run's among them.
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
    """What the lease owns, in the order to create it: the one that becomes ready comes last."""
    plugin = (cluster_client.CONFIG_MAP, config_map(served))
    if settings.kind == KSERVE:
        return [plugin, (cluster_client.INFERENCE_SERVICE, inference_service(served, runtime, settings))]
    return [
        plugin,
        (cluster_client.SERVICE, service(served)),
        (cluster_client.DEPLOYMENT, deployment(served, runtime, settings)),
    ]


def digest(made: list[tuple[ObjectKind, JSON]]) -> str:
    """By which one start is told from another with other settings."""
    return hashlib.sha256(json.dumps([body for _, body in made], sort_keys=True).encode()).hexdigest()


def config_map(served: Served) -> JSON:
    """Our plugin of vLLM's, from which the server's pod mounts it: the one of this code, whatever the image holds."""
    data = {key: (PLUGIN / file).read_text(encoding="utf-8") for key, file in vllm_pod.plugin_files().items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(served), "data": data}


def metadata(served: Served) -> JSON:
    """Name and labels."""
    return {"name": served.name, "labels": served.labels}


def inference_service(served: Served, runtime: Runtime, settings: ServingSettings) -> JSON:
    """KServe's object: its storage initializer fetches the weights to /mnt/models, the runtime serves them."""
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
        "serving.kserve.io/autoscalerClass": "external",  # one replica: no autoscaler is made
    }
    # else KServe gives it an address outside the cluster
    labels = {**served.labels, "networking.kserve.io/visibility": "cluster-local", **NO_SIDECAR}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": served.name, "labels": labels, "annotations": annotations},
        "spec": {
            "predictor": {**predictor, **vllm_pod.placed(settings), "volumes": vllm_pod.volumes(served, settings)}
        },
    }


def deployment(served: Served, runtime: Runtime, settings: ServingSettings) -> JSON:
    """vLLM without KServe.

    An init container of the project image fetches the weights: it checks every file's sha256, as all our steps do,
    and works with any S3 and any vLLM image, where vLLM's own S3 loading needs an extra that an image may lack, and
    reads tensors that nobody has checked.
    """
    labels = {**served.labels, INSTANCE: served.name}
    spec = {
        **vllm_pod.placed(settings),
        "automountServiceAccountToken": False,
        "securityContext": vllm_pod.unprivileged(settings.run_as_user),
        "initContainers": [vllm_pod.fetcher(served, settings)],
        "containers": [vllm_pod.server(served, runtime, settings)],
        "volumes": [*vllm_pod.volumes(served, settings), *vllm_pod.scratch(settings)],
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
    """By which a step finds the Deployment's pod."""
    port = {"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(served),
        "spec": {"selector": {INSTANCE: served.name}, "ports": [port]},
    }
