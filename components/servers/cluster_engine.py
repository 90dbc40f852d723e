"""The engine that serves a variant on a cluster: vLLM, or llama.cpp for a GGUF file; with its image and settings."""

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import SERVING_RUNTIME, ClusterClient
from quantgate.components.run.artifacts import Weights
from quantgate.components.servers import llama_pod, objects
from quantgate.components.servers.access import sets_key
from quantgate.components.servers.cluster_settings import KSERVE, ServingSettings
from quantgate.components.servers.vllm_pod import Runtime


def engine_for(weights: Weights, cluster: ClusterClient, settings: ServingSettings) -> tuple[ServingSettings, Runtime]:
    """The settings and the engine of a server for the weights; raises PrerequisiteError if the cluster has none."""
    settings, runtime = engine_of(cluster, settings, gguf=weights.is_gguf)
    if weights.is_gguf:
        llama_pod.check_memory(weights.size_bytes, settings)
        return settings, runtime
    return settings.with_options(weights.server_options), runtime


def engine_of(cluster: ClusterClient, settings: ServingSettings, *, gguf: bool) -> tuple[ServingSettings, Runtime]:
    """The same for the servers of all GGUF files, or of all other weights, without a variant's own options."""
    if not gguf:
        return settings, find_runtime(cluster, settings)
    settings = settings.of_llama()
    return settings, llama_pod.llama_runtime(settings)


def find_runtime(cluster: ClusterClient, settings: ServingSettings) -> Runtime:
    """vLLM's image and options on this cluster; raises PrerequisiteError when the ServingRuntime does not exist."""
    if settings.kind != KSERVE:
        return objects.own_runtime(settings)
    if (serving_runtime := cluster.get(SERVING_RUNTIME, settings.runtime)) is None:
        raise PrerequisiteError(
            f"There is no ServingRuntime {settings.runtime} in the namespace {settings.namespace}. Apply manifests/, "
            "name another one in QUANTGATE_SERVING_RUNTIME, or serve without KServe: QUANTGATE_SERVING=deployment."
        )
    runtime = objects.runtime_of(serving_runtime, settings)
    if sets_key(runtime.args, dict(runtime.env)):
        raise PrerequisiteError(
            f"The ServingRuntime {settings.runtime} sets vLLM's API key. Remove it: each start of a server gets a "
            "fresh key by itself."
        )
    return runtime
