"""Serve a variant where this run serves: on this machine, or on a cluster as QUANTGATE_SERVING says.

`local` and `kserve` are behind the same verbs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import PrerequisiteError
from components.run.artifacts import Server, Weights
from components.run.results import RunResults
from components.servers.cluster_settings import LOCAL, from_environment


def deploy(made: Weights, model_path: Path, results: str) -> Server:
    """Start a server of the weights and wait until it answers; a server that does not has a `failure`.

    `model_path` is their folder on this machine, with the tokenizer, and with the weights where `reads_weights`. Raises
    PrerequisiteError where none can start.
    """
    settings = from_environment()
    if settings.kind == LOCAL:
        from components.servers import local_vllm

        return local_vllm.deploy(made.variant, model_path, local_folder(results), made.digest)
    from components.servers import kserve

    return kserve.deploy(made, model_path, results, settings)


def reads_weights() -> bool:
    """Whether `deploy` needs the weights on this machine; on a cluster it needs the configuration and tokenizer."""
    return from_environment().kind == LOCAL


def identity_here(model_path: Path, digest: str) -> str:
    """The identity of the server that `deploy` would start."""
    settings = from_environment()
    if settings.kind == LOCAL:
        from components.servers import local_vllm

        return local_vllm.identity_here(model_path, digest)
    from components.servers import kserve

    return kserve.identity_here(model_path, digest, settings)


@contextmanager
def kept_alive(server: Server, results: str) -> Iterator[None]:
    """Keep the server's lease renewed for the time of the block; raises PrerequisiteError when it was removed."""
    settings = from_environment()
    if settings.kind == LOCAL:  # its lease is a file that the run holds, see guard.py
        yield
        return
    from components.servers import kserve

    with kserve.kept_alive(server, results, settings):
        yield


def undeploy(variant: str, results: str) -> None:
    """Stop the variant's server; nothing where there is none."""
    settings = from_environment()
    if settings.kind != LOCAL:  # also one that its start did not live to record
        from components.servers import kserve

        kserve.undeploy(variant, results, settings)
    elif (server := RunResults(results).server(variant).read(Server)) is not None:
        from components.servers import local_vllm

        local_vllm.undeploy(server)


def local_folder(results: str) -> Path:
    """The results' folder on this machine; raises PrerequisiteError when they are not on it."""
    if "://" in results:
        raise PrerequisiteError(
            f"A server on this machine works beside the results, and they are at {results}. Give a local folder for"
            " `results`, or serve on a cluster: QUANTGATE_SERVING=kserve."
        )
    return Path(results)
