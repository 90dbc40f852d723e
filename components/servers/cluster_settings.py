"""How variants are served on a cluster: one frozen value, read from QUANTGATE_SERVING and QUANTGATE_SERVING_*."""

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.servers.access import sets_key

LOCAL, KSERVE, DEPLOYMENT = "local", "kserve", "deployment"
KINDS = (LOCAL, KSERVE, DEPLOYMENT)
PREFIX = "QUANTGATE_SERVING"
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
OWN_IMAGE = "QUANTGATE_IMAGE"
"""The variable with the image of the step's own pod; pipelines/cluster.py sets it."""
NAMESPACE = "quantgate"
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


@dataclass(frozen=True)
class Toleration:
    """A taint that the server's pod tolerates."""

    key: str
    value: str
    """Empty for any value."""
    effect: str


@dataclass(frozen=True)
class ServingSettings:
    """Where a variant is served, on what, and how long one waits; each field is QUANTGATE_SERVING_<FIELD>."""

    kind: str = LOCAL
    """QUANTGATE_SERVING itself: local, kserve (an InferenceService), deployment (a Deployment and a Service)."""
    namespace: str = NAMESPACE
    """Of the server [the step's own]."""
    runtime: str = "quantgate-vllm"
    """KServe: the ServingRuntime."""
    image: str = ""
    """vLLM's image, by digest in production [KServe: the runtime's own; deployment: vLLM's own image, for GPUs or not].

    manifests/images sets it to vLLM's image with our plugin; without the plugin, scoring is slower."""
    weights_image: str = "quantgate:0.1.0"
    """Deployment, load test: the project image, which fetches the model before the start [the step's own image]."""
    llama_image: str = ""
    """The image of llama.cpp's server, for variants that are GGUF files [none: such a variant is refused].

    manifests/images/llama.Containerfile builds it."""
    llama_cpu: str = ""
    """CPUs of a GGUF file's server, and its threads [`cpu`]."""
    llama_memory: str = ""
    """Main memory of a GGUF file's server; it holds the whole file [`memory`]."""
    llama_node_selector: tuple[tuple[str, str], ...] = ()
    """Labels of the nodes for GGUF files [without GPUs `node_selector`, else none: that names the nodes with GPUs]."""
    service_account: str = "quantgate-serving"
    priority_class: str = ""
    """PriorityClass of the server's pod [none]."""
    run_as_user: int = 1000
    """Deployment, load test: the user id; 0 where the cluster chooses one (OpenShift)."""
    storage: str = "quantgate-s3"
    """Deployment, load test: the Secret with the S3 credentials, and the ConfigMap with endpoint and region."""
    gpus: int = 1
    gpu_resource: str = "nvidia.com/gpu"
    tensor_parallel: int = 0
    """GPUs that one model is spread over [all of them]."""
    cpu: str = "4"
    memory: str = "16Gi"
    """Main memory: what is asked for, and the limit."""
    shared_memory: str = "2Gi"
    """Size of /dev/shm, by which vLLM's processes talk; the container runtime's default of 64 MiB is too small."""
    scratch: str = "64Gi"
    """Deployment, load test: the most disk that the fetched files may take."""
    node_selector: tuple[tuple[str, str], ...] = ()
    """Labels that the node must have: `nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3,disk=ssd`."""
    tolerations: tuple[Toleration, ...] = (Toleration("nvidia.com/gpu", "", "NoSchedule"),)
    """As kubectl writes taints: `nvidia.com/gpu:NoSchedule,team=a:NoExecute`. That of `gpu_resource` only with GPUs."""
    options: tuple[str, ...] = ()
    """More options of vLLM's, as on a command line."""
    env: tuple[tuple[str, str], ...] = ()
    """More environment variables of vLLM's: `VLLM_CPU_KVCACHE_SPACE=4`."""
    ready_within_s: int = 1800
    lease_s: int = 1800
    """How long a server outlives the last renewal: longer than a step's pod may wait for its node."""
    address: str = "http://{service}.{namespace}.svc:{port}"
    """How a step reaches a server; for another cluster domain or a gateway."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PrerequisiteError(f"QUANTGATE_SERVING is {self.kind!r}. Valid: {', '.join(KINDS)}.")
        if "PYTHONPATH" in dict(self.env):
            raise PrerequisiteError(
                f"{PREFIX}_ENV sets PYTHONPATH, which KServe's webhook refuses. Install what vLLM must find in an "
                "image, as manifests/images/vllm.Containerfile does."
            )
        if sets_key(self.options, dict(self.env)):
            raise PrerequisiteError(
                f"{PREFIX}_OPTIONS or {PREFIX}_ENV sets vLLM's API key. Remove it: each start of a server gets a fresh "
                "key by itself, and what is set here is recorded with the run."
            )
        try:
            self.address.format(service="", namespace="", port=0)
        except (KeyError, IndexError, ValueError) as error:
            example = type(self).address
            raise PrerequisiteError(f"{PREFIX}_ADDRESS is {self.address!r}. Write it like {example}") from error

    def with_options(self, options: tuple[str, ...]) -> "ServingSettings":
        """The settings with more options of vLLM's, which are worth more than those before."""
        return replace(self, options=(*self.options, *options))

    def of_llama(self) -> "ServingSettings":
        """The settings of a GGUF file's server: a plain Deployment on CPUs, whichever way vLLM's variants use.

        Raises PrerequisiteError if no image is named.
        """
        if not self.llama_image:
            raise PrerequisiteError(
                f"A GGUF file needs the image of llama.cpp's server, and {PREFIX}_LLAMA_IMAGE is not set. Build it"
                " (make images), and name it in the ConfigMap quantgate-serving, as manifests/ do; or leave the file"
                " out."
            )
        return replace(
            self,
            kind=DEPLOYMENT,
            image=self.llama_image,
            gpus=0,
            cpu=self.llama_cpu or self.cpu,
            memory=self.llama_memory or self.memory,
            node_selector=self.llama_node_selector or (() if self.gpus else self.node_selector),
            options=(),
            env=(),
        )

    @property
    def tensor_parallel_size(self) -> int:
        """Over how many GPUs vLLM spreads the model; 1 where there are none."""
        return self.tensor_parallel or max(self.gpus, 1)


def from_environment(
    environment: Mapping[str, str] = os.environ, own_namespace: Path = OWN_NAMESPACE
) -> ServingSettings:
    """The settings of this process; raises PrerequisiteError for an invalid value."""
    values: dict[str, object] = {}
    if own_namespace.exists():
        values["namespace"] = own_namespace.read_text(encoding="utf-8").strip()
    if own_image := environment.get(OWN_IMAGE):
        values["weights_image"] = own_image
    for field in fields(ServingSettings):
        name = PREFIX if field.name == "kind" else f"{PREFIX}_{field.name.upper()}"
        if text := environment.get(name, "").strip():
            try:
                values[field.name] = READERS.get(str(field.type), str)(text)
            except ValueError as error:
                raise PrerequisiteError(f"{name} is {text!r}: {error}") from None
    settings = ServingSettings(**values)  # type: ignore[arg-type]
    if settings.lease_s < 1:  # the API would refuse it only after the run has started
        raise PrerequisiteError(f"{PREFIX}_LEASE_S is {settings.lease_s}: a lease lasts at least a second.")
    return settings


def whole_number(text: str) -> int:
    """A number that is not negative."""
    if not text.isdecimal():
        raise ValueError("give a whole number")
    return int(text)


def pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Parse `a=b,c=d`."""
    parts = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if any(not name or not equals for name, equals, _ in parts):
        raise ValueError("write it like name=value,other=value")
    return tuple((name, value) for name, _, value in parts)


def tolerations(text: str) -> tuple[Toleration, ...]:
    """Parse `key=value:effect,key:effect`; `none` is no toleration."""
    parsed = []
    for part in [] if text == "none" else text.split(","):
        taint, _, effect = part.strip().rpartition(":")
        key, _, value = taint.partition("=")
        if not key or effect not in EFFECTS:
            raise ValueError(
                f"write it like nvidia.com/gpu:NoSchedule or team=a:NoExecute; effects: {', '.join(EFFECTS)}"
            )
        parsed.append(Toleration(key, value, effect))
    return tuple(parsed)


READERS: dict[str, Callable[[str], object]] = {
    str(int): whole_number,
    str(tuple[str, ...]): lambda text: tuple(shlex.split(text)),
    str(tuple[tuple[str, str], ...]): pairs,
    str(tuple[Toleration, ...]): tolerations,
}
"""The parser of a field's text, by the field's type."""
