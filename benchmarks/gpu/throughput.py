"""(d) Each variant's generation speed: output tokens a second and time to the first token, at 1, 8 and 64 requests.

Every request has its own prompt of random tokens and generates a fixed number of tokens. Llama-3.1-8B's shape is
served with random weights in each variant's format.
"""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp

from benchmarks.gpu import setting, shapes
from benchmarks.gpu.machine import watched
from benchmarks.gpu.scoring import DUMMY, EIGHT
from benchmarks.gpu.setting import NOT_RUN, Setting, Table, seconds
from components.models.variants import BASELINE
from components.processes import lease
from components.run.artifacts import Server
from components.servers import local_vllm

REQUESTS = (1, 8, 64)
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128
REHEARSED_TOKENS = 8
GRAPHS = (
    "--compilation-config",
    json.dumps({"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": list(REQUESTS)}),
)


@dataclass(frozen=True)
class Streamed:
    """The measurements of one answered request."""

    first_s: float
    """Seconds to the first token."""
    tokens: int


def main() -> None:
    """Serve each variant and fill the table."""
    chosen = setting.parse(__doc__)
    columns = (
        "model",
        "variant",
        "seconds to ready",
        "requests at a time",
        "output tokens/s",
        "median time to first token, ms",
        "GPU busy",
    )
    title = f"Writing: prompts of {PROMPT_TOKENS} tokens, answers of {OUTPUT_TOKENS}"
    table = Table(chosen.out, "speed", title, columns)
    demo = shapes.demo(chosen.out, cut=chosen.rehearse)
    for variant in (BASELINE, "int4-g64") if chosen.rehearse else shapes.VARIANTS:
        if chosen.is_late(45):
            table.add(EIGHT, variant, NOT_RUN, "–", "–", "–", "no time left")
        elif chosen.rehearse:
            folder = demo if variant == BASELINE else chosen.out / "weights" / shapes.DEMO / variant
            measure(chosen, table, shapes.DEMO, variant, folder, ())
        else:
            folder = shapes.weightless(shapes.SHAPES[EIGHT], variant, chosen.out, demo)
            measure(chosen, table, EIGHT, variant, folder, (*DUMMY, *GRAPHS))


def measure(chosen: Setting, table: Table, name: str, variant: str, folder: Path, options: tuple[str, ...]) -> None:
    """Add the rows of one variant."""
    results = chosen.out / "speed" / variant
    with lease.hold(results / "lease"):
        server = local_vllm.deploy(variant, folder, results, options=options)
        if server.failure:
            reason = (local_vllm.why_it_ended(server) or server.failure.splitlines()[0])[:250]
            table.add(name, variant, seconds(server.startup_s), "–", NOT_RUN, "–", reason)
            return
        try:
            for count in (1, 8) if chosen.rehearse else REQUESTS:
                row(chosen, table, name, variant, server, count)
        finally:
            local_vllm.undeploy(server)


def row(chosen: Setting, table: Table, name: str, variant: str, server: Server, count: int) -> None:
    """Add one row: a pass that is not counted, then the measured one."""
    tokens = REHEARSED_TOKENS if chosen.rehearse else OUTPUT_TOKENS
    try:
        asyncio.run(ask_all(server, count, tokens))
        with watched() as watch:
            began = time.monotonic()
            answered = asyncio.run(ask_all(server, count, tokens))
            took_s = time.monotonic() - began
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        table.add(name, variant, seconds(server.startup_s), count, "failed", "–", f"{error!r}"[:200])
        return
    written = sum(request.tokens for request in answered) / took_s
    first_ms = median(request.first_s for request in answered) * 1000
    cells = (f"{written:.0f}", f"{first_ms:.0f}", watch.busy_share)
    table.add(name, variant, seconds(server.startup_s), count, *cells)


async def ask_all(server: Server, count: int, tokens: int) -> list[Streamed]:
    """Send `count` requests at once and wait for all of them."""
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        return list(await asyncio.gather(*(ask(session, server, tokens) for _ in range(count))))


async def ask(session: aiohttp.ClientSession, server: Server, tokens: int) -> Streamed:
    """Send one streamed request; raises ValueError if it generates another number of tokens."""
    body = {
        "model": server.served_name,
        "prompt": [random.randrange(100, 40000) for _ in range(PROMPT_TOKENS)],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first_s, written = time.monotonic(), 0.0, 0
    async with session.post(f"{server.url}/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            first_s = first_s or time.monotonic() - began
            usage = json.loads(line[6:]).get("usage")
            written = usage["completion_tokens"] if usage else written
    if written != tokens:
        raise ValueError(f"the server generated {written} tokens instead of {tokens}")
    return Streamed(first_s, written)


if __name__ == "__main__":
    main()
