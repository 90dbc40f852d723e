"""Start and stop a variant's server: on this machine, or on a cluster when QUANTGATE_SERVING says so.

The modules `local_vllm`, `local_llama` and `kserve` do the work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.artifacts import Server, Weights
from quantgate.components.run.results import RunResults
from quantgate.components.run.server_identity import ServerIdentity
from quantgate.components.servers.cluster_settings import KSERVE, LOCAL, ServingSettings, from_environment


def deploy(weights: Weights, model_path: Path, results: str, window: int) -> Server:
    """Start a server for the weights and wait until it answers; the Server has a `failure` when it does not.

    `model_path` is the model's folder on this machine: with the tokenizer, and with the weights if `reads_weights()`.
    `window` is the most tokens of a prompt and its answer.
    Raises PrerequisiteError when something that a server needs is missing.
    """
    settings = from_environment()
    if settings.kind == LOCAL:
        from quantgate.components.servers import local_llama, local_vllm

        folder, options = local_folder(results), weights.server_options
        if local_llama.serves(model_path):
            return local_llama.deploy(weights.variant, model_path, folder, weights.digest, window)
        return local_vllm.deploy(weights.variant, model_path, folder, weights.digest, options, window)
    from quantgate.components.servers import kserve

    if settings.kind == KSERVE and not weights.is_gguf:
        return _deploy_checked(weights, model_path, results, settings, window)
    return kserve.deploy(weights, model_path, results, settings, window)  # its init container checks what it fetches


def _deploy_checked(weights: Weights, model_path: Path, results: str, settings: ServingSettings, window: int) -> Server:
    """Serve through KServe what has the weights' digest: KServe fetches by itself and compares nothing.

    The stored bytes are read before the start. If an object was written until the server answers, it is stopped.
    """
    from quantgate.components.models.digest import check_stored, stored_state
    from quantgate.components.servers import kserve
    from quantgate.components.storage.cache import cache_dir

    before = stored_state(weights.uri)
    check_stored(weights.uri, weights.digest, cache_dir())
    server = kserve.deploy(weights, model_path, results, settings, window)
    if server.failure or stored_state(weights.uri) == before:
        return server.model_copy(update={"weights_state": before})
    kserve.undeploy(weights.variant, results, settings)
    changed = (
        f"{weights.uri} was written to while KServe fetched it, so the server may have other weights; it is stopped. "
        "Find out who writes there, and run again."
    )
    return server.model_copy(update={"failure": changed})


def reads_weights() -> bool:
    """Whether `deploy` needs the weights on this machine; for a cluster, configuration and tokenizer are enough."""
    return from_environment().kind == LOCAL


def identity_here(weights: Weights, model_path: Path, window: int) -> ServerIdentity:
    """The identity of the server that `deploy` would start."""
    settings = from_environment()
    if settings.kind == LOCAL:
        from quantgate.components.servers import local_llama, local_vllm

        if local_llama.serves(model_path):
            return local_llama.identity_here(weights.digest, window)
        return local_vllm.identity_here(model_path, weights.digest, window, weights.server_options)
    from quantgate.components.servers import kserve

    return kserve.identity_here(weights, settings, window)


@contextmanager
def kept_alive(server: Server, results: str) -> Iterator[None]:
    """Renew the server's lease during the block; raises PrerequisiteError when the server was removed."""
    settings = from_environment()
    if settings.kind == LOCAL:  # the lease is a file that the run keeps locked, see guard.py
        yield
        return
    from quantgate.components.servers import kserve

    with kserve.kept_alive(server, results, settings):
        yield


def server_again(server: Server, results: str, cause: str = "") -> Server:
    """The server as it answers now, after a wait if Kubernetes replaces its pod; `cause` is why a call failed.

    Raises PrerequisiteError when the server is lost, or another one answers in its place.
    """
    settings = from_environment()
    if settings.kind == LOCAL or server.failure or not server.url:
        if cause:
            raise PrerequisiteError(cause)
        return server
    from quantgate.components.servers import replaced_pod

    return replaced_pod.server_again(server, results, settings, cause)


def undeploy(variant: str, results: str) -> None:
    """Stop the variant's server; do nothing when there is none."""
    settings = from_environment()
    if settings.kind != LOCAL:  # this also removes a server whose start was killed before it was recorded
        from quantgate.components.servers import kserve

        kserve.undeploy(variant, results, settings)
    elif (server := RunResults(results).server(variant).read(Server)) is not None:
        from quantgate.components.servers import local_server

        local_server.undeploy(server)


def local_folder(results: str) -> Path:
    """The results' folder on this machine; raises PrerequisiteError when the results are in a store elsewhere."""
    if "://" in results:
        raise PrerequisiteError(
            f"A server on this machine needs the results on this machine, but they are at {results}. Give a local"
            " folder for `results`, or serve on a cluster: QUANTGATE_SERVING=kserve."
        )
    return Path(results)
