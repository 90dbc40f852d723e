"""The pod in which vLLM serves a variant: what KServe's pod and a plain Deployment's have in common."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quantgate.components.kubernetes.cluster_client import JSON
from quantgate.components.kubernetes.labels import MANAGED_BY, MANAGER, RUN, VARIANT
from quantgate.components.servers.access import KEY_VARIABLE
from quantgate.components.servers.cluster_settings import ServingSettings
from quantgate.components.servers.vllm_options import OFFLINE

PORT = 8080
MODELS, FETCHED = "/mnt/models", "/mnt/models/model"
FETCH_COMMAND = ("python", "-m", "quantgate.components.servers.fetch_model")
VLLM_COMMAND = ("python3", "-m", "vllm.entrypoints.openai.api_server")
KSERVE_CONTAINER, VLLM_CONTAINER = "kserve-container", "vllm"
KSERVE_FETCHER, FETCHER = "storage-initializer", "weights"
ENVIRONMENT = {
    **OFFLINE,
    # vLLM, Triton and torch write below the home folder, and torch reads the user's name ("getpwuid(): uid not found"):
    # OpenShift runs a pod under a user id that the image does not know, without either
    "HOME": "/tmp",
    "USER": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor",
}
"""No PYTHONPATH: KServe's webhook refuses it. Our plugin of vLLM's is in the image (manifests/images)."""


@dataclass(frozen=True)
class Runtime:
    """An engine's image, options and port: those of KServe's ServingRuntime, or our own without KServe."""

    image: str
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    port: int
    model_format: str = ""
    gpus: tuple[str, ...] = ()
    """The GPU resources that a ServingRuntime itself asks for."""
    package: str = ""
    """`llama.cpp` for its server; empty for vLLM's."""


@dataclass(frozen=True)
class Served:
    """One variant of a run, and the options that its server gets."""

    run: str
    """The workflow's name."""
    variant: str
    uri: str
    """The address of its weights in the store."""
    options: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    """The environment variables that this model needs."""
    digest: str = ""
    """The weights' digest, with which a pod that fetches them compares their bytes."""
    key_secret: str = ""
    """The name of the Secret with the API key of this start; empty before the start's Lease exists."""

    @property
    def name(self) -> str:
        """A DNS label, the same for the same run and variant: a step that runs again finds its own objects."""
        variant = self.variant.replace(".", "--")  # of int8.seed1; no row's name has two hyphens together
        return f"qg-{hashlib.sha256(self.run.encode()).hexdigest()[:10]}-{variant}"[:53].rstrip("-")

    @property
    def served_name(self) -> str:
        """The model's name in the API."""
        return f"quantgate-{self.variant}"

    @property
    def labels(self) -> dict[str, str]:
        """The labels of all objects of this server."""
        return {MANAGED_BY: MANAGER, RUN: self.run, VARIANT: self.variant}


def vllm(served: Served, runtime: Runtime, settings: ServingSettings) -> JSON:
    """The part of vLLM's container that is the same with and without KServe."""
    # adds the endpoint that scores a continuation after a cached prefix; our plugin leaves out the cached tokens' rows
    options = ["--served-model-name", served.served_name, *served.options, "--enable-scale-out"]
    return {
        "args": [*options, "--disable-uvicorn-access-log"],
        "env": [*environment(settings, dict(served.variables)), key_reference(served)],
        "resources": resources(settings, runtime.gpus),
        "volumeMounts": shared_memory_mount(),
    }


def environment(settings: ServingSettings, variables: Mapping[str, str]) -> list[JSON]:
    """vLLM's environment variables: ours, the model's and those of the settings, each before the next."""
    return [
        {"name": name, "value": value} for name, value in {**ENVIRONMENT, **variables, **dict(settings.env)}.items()
    ]


def resources(settings: ServingSettings, runtime_gpus: Iterable[str] = ()) -> JSON:
    """CPU, memory and GPUs; `runtime_gpus` are the GPU resources that the ServingRuntime asks for."""
    # KServe merges these into the runtime's resources by name, so a GPU resource of the runtime must be set to 0
    gpus = dict.fromkeys(runtime_gpus, "0") | ({settings.gpu_resource: str(settings.gpus)} if settings.gpus else {})
    return {
        "requests": {"cpu": settings.cpu, "memory": settings.memory, **gpus},
        "limits": {"memory": settings.memory, **gpus},
    }


def shared_memory_mount() -> list[JSON]:
    """Where vLLM's processes share memory."""
    return [{"name": "shm", "mountPath": "/dev/shm"}]


def key_reference(served: Served, variable: str = KEY_VARIABLE) -> JSON:
    """The variable with the API key that the server demands; only the kubelet reads its value."""
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": served.key_secret, "key": KEY_VARIABLE}}}


def server(served: Served, runtime: Runtime, settings: ServingSettings) -> JSON:
    """vLLM's container in a plain Deployment."""
    container = vllm(served, runtime, settings)
    return container | {
        "name": VLLM_CONTAINER,
        "image": runtime.image,
        "command": list(VLLM_COMMAND),
        "args": [*runtime.args, *container["args"]],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": readiness(),
        "securityContext": confined(),
        "volumeMounts": [
            *container["volumeMounts"],
            {"name": "weights", "mountPath": MODELS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def readiness() -> JSON:
    """The probe of a server that answers at /health as soon as it has loaded its weights."""
    return {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 5, "failureThreshold": 3}


def fetcher(served: Served, settings: ServingSettings, *options: str) -> JSON:
    """The init container that fetches the model for the server to read; `options` are fetch_model's."""
    return {
        "name": FETCHER,
        "image": settings.weights_image,
        "command": [*FETCH_COMMAND, served.uri, FETCHED, served.digest, *options],
        "envFrom": [
            {"configMapRef": {"name": settings.storage, "optional": True}},  # AWS's own S3 needs no endpoint
            {"secretRef": {"name": settings.storage}},
        ],
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "securityContext": confined(),
        "volumeMounts": [{"name": "weights", "mountPath": MODELS}, {"name": "tmp", "mountPath": "/tmp"}],
    }


def unprivileged(user_id: int = 0) -> JSON:
    """A pod's security context for Kubernetes' standard `restricted`; user 0 is the image's or the cluster's own."""
    user = {"runAsUser": user_id} if user_id else {}
    return {"runAsNonRoot": True, **user, "seccompProfile": {"type": "RuntimeDefault"}}


def confined() -> JSON:
    """A container's security context for the standard `restricted`, with a file system that is read-only."""
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def placed(settings: ServingSettings) -> JSON:
    """The pod's service account, priority class, node selector and tolerations."""
    spec: JSON = {"serviceAccountName": settings.service_account}
    if settings.priority_class:
        spec["priorityClassName"] = settings.priority_class
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if tolerated := [taint for taint in settings.tolerations if settings.gpus or taint.key != settings.gpu_resource]:
        spec["tolerations"] = [
            {"key": taint.key, "effect": taint.effect}
            | ({"operator": "Equal", "value": taint.value} if taint.value else {"operator": "Exists"})
            for taint in tolerated
        ]
    return spec


def volumes(settings: ServingSettings) -> list[JSON]:
    """The volume for the memory that vLLM's processes share."""
    return [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}}]


def scratch(settings: ServingSettings) -> list[JSON]:
    """The volumes for the weights and for the server's temporary files."""
    return [{"name": "weights", "emptyDir": {"sizeLimit": settings.scratch}}, {"name": "tmp", "emptyDir": {}}]
