"""The pod in which llama.cpp serves a variant that is a GGUF file: a plain Deployment on CPUs.

KServe has no runtime for it: vLLM reads such a file with other kernels than llama.cpp, so it would judge another server
than the one that the file is made for.
"""

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import JSON
from quantgate.components.run.server_identity import LLAMA_CPP
from quantgate.components.servers import llama_options, vllm_pod
from quantgate.components.servers.cluster_settings import ServingSettings
from quantgate.components.servers.vllm_pod import FETCHED, PORT, Runtime, Served

LLAMA_CONTAINER = "llama"
ASK_FOR_LESS = ", or change QUANTGATE_SERVING_LLAMA_CPU, _LLAMA_MEMORY or _LLAMA_NODE_SELECTOR"
LLAMA_COMMAND = ("python", "-m", "quantgate.components.servers.llama_server")


def llama_runtime(settings: ServingSettings) -> Runtime:
    """llama.cpp's image and options; the settings are those of `of_llama`."""
    args = ("--folder", FETCHED, "--host", "0.0.0.0", "--port", str(PORT))
    return Runtime(settings.image, args, (), PORT, package=LLAMA_CPP)


def answering(settings: ServingSettings, window: int) -> tuple[str, ...]:
    """llama.cpp's options that can change an answer: by itself it would start a thread for each core of the node."""
    return (*llama_options.answering(window), "--threads", str(max(1, int(amount(settings.cpu)))))


def check_memory(size_bytes: int, settings: ServingSettings) -> None:
    """Raise PrerequisiteError for a file that is larger than the pod's memory."""
    if size_bytes > amount(settings.memory):
        raise PrerequisiteError(
            f"The GGUF file has {size_bytes / 2**30:.1f} GiB, and its server gets {settings.memory} of memory. Raise"
            " QUANTGATE_SERVING_LLAMA_MEMORY in the ConfigMap quantgate-serving."
        )


def amount(quantity: str) -> float:
    """The number that Kubernetes writes as `16Gi` or `500m`; raises PrerequisiteError for what is none."""
    from kubernetes.utils.quantity import parse_quantity

    try:
        return float(parse_quantity(quantity))
    except ValueError:
        raise PrerequisiteError(
            f"{quantity!r} is not an amount as Kubernetes writes it, such as 4 or 16Gi. Correct QUANTGATE_SERVING_* in"
            " the ConfigMap quantgate-serving."
        ) from None


def server(served: Served, runtime: Runtime, settings: ServingSettings) -> JSON:
    """llama.cpp's container."""
    return {
        "name": LLAMA_CONTAINER,
        "image": runtime.image,
        "command": list(LLAMA_COMMAND),
        "args": [*runtime.args, "--alias", served.served_name, *served.options],
        "env": [vllm_pod.key_reference(served, llama_options.KEY_VARIABLE)],
        "resources": vllm_pod.resources(settings),
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": vllm_pod.readiness(),
        "securityContext": vllm_pod.confined(),
        "volumeMounts": [
            {"name": "weights", "mountPath": vllm_pod.MODELS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
