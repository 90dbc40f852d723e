"""(d) Each variant's generation speed: output tokens a second and time to the first token, at 1, 8 and 64 requests.

Every request has its own prompt of random tokens and generates a fixed number of tokens. Llama-3.1-8B's shape is
served with random weights in each variant's format. All servers start at the same time on the one GPU, which takes as
long as the slowest; then one after the other is asked, while the others have nothing to do.
"""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from statistics import median

import aiohttp

from benchmarks.gpu import setting, shapes
from benchmarks.gpu.machine import watched
from benchmarks.gpu.scoring import DUMMY, EIGHT
from benchmarks.gpu.setting import NOT_RUN, Setting, Table, seconds
from benchmarks.gpu.together import Wanted, share_of_memory, started
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import access, local_server

REQUESTS = (1, 8, 64)
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128
REHEARSED_TOKENS = 8
GRAPHS = (
    "--compilation-config",
    json.dumps({"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": list(REQUESTS)}),
)
CACHE_BYTES = 5_500_000_000
"""The keys and values of the most requests at a time, 128 KiB a token, in bytes."""
SHARED = (*share_of_memory(CACHE_BYTES), "--max-num-seqs", str(max(REQUESTS)), "--max-num-batched-tokens", "4096")


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
    with started(chosen.out / "speed", wanted(chosen)) as servers:
        for variant, server in servers.items():
            model = shapes.DEMO if chosen.rehearse else EIGHT
            if server.failure:
                reason = (local_server.why_it_ended(server) or server.failure.splitlines()[0])[:250]
                table.add(model, variant, seconds(server.startup_s), "–", NOT_RUN, "–", reason)
                continue
            for count in (1, 8) if chosen.rehearse else REQUESTS:
                row(chosen, table, model, variant, server, count)


def wanted(chosen: Setting) -> list[Wanted]:
    """The variants' servers."""
    if chosen.rehearse:
        return [Wanted("int4-g64", "int4-g64", chosen.out / "weights" / shapes.DEMO / "int4-g64")]
    shape, tokenizer = shapes.SHAPES[EIGHT], shapes.tokenizer(chosen.data)
    return [
        Wanted(variant, variant, shapes.weightless(shape, variant, chosen.out, tokenizer), (*DUMMY, *GRAPHS, *SHARED))
        for variant in filter(chosen.wants, shapes.variants(chosen.models))
    ]


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
    headers = access.headers(access.key_of(server))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
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
