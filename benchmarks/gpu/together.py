"""Several vLLM servers at the same time on one GPU, because starting them one after another takes minutes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantgate.components.processes import lease
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import local_server, local_vllm


@dataclass(frozen=True)
class Wanted:
    """A server to start."""

    name: str
    """Names its folder, e.g. `int8-eager`."""
    variant: str
    model: Path
    options: tuple[str, ...] = ()
    """Added to vLLM's."""


def share_of_memory(cache_bytes: int) -> tuple[str, ...]:
    """vLLM's options for a server beside others: a cache of this size. By default it would take 90 % of the memory.

    With a fixed size it does not measure how much memory is free, which changes while the others start.
    """
    return ("--gpu-memory-utilization", "0.05", "--kv-cache-memory-bytes", str(cache_bytes))


@contextmanager
def started(results: Path, wanted: list[Wanted]) -> Iterator[dict[str, Server]]:
    """The servers by name, some perhaps with a `failure`; all are stopped at the end."""
    with ExitStack() as stack:
        for one in wanted:
            stack.enter_context(lease.hold(results / one.name / "lease"))
        with ThreadPoolExecutor(max_workers=max(1, len(wanted))) as pool:
            starting = {one.name: pool.submit(start, results, one) for one in wanted}
            servers = {name: future.result() for name, future in starting.items()}
        for server in servers.values():
            stack.callback(local_server.undeploy, server)
        yield servers


def start(results: Path, wanted: Wanted) -> Server:
    """Start one and wait until it is ready."""
    return local_vllm.deploy(wanted.variant, wanted.model, results / wanted.name, options=wanted.options)
