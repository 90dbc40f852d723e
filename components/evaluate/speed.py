"""A server's throughput, from the Prometheus counters of vLLM's `/metrics`."""

import re
import time

import httpx

from quantgate.components.run.artifacts import Server
from quantgate.components.servers.access import headers, key_of

COUNTER = re.compile(r"^vllm:(?:prompt|generation)_tokens_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
TIMEOUT_S = 5.0


class Speed:
    """The server's tokens a second since this object was created."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tokens_before = tokens_counted(server)
        self.started = time.monotonic()

    def tokens_per_s(self) -> float:
        """Tokens of prompts (cached ones too) and answers a second until now; 0 when the server has no counters."""
        took_s, tokens_now = time.monotonic() - self.started, tokens_counted(self.server)
        if not tokens_now or self.tokens_before is None or not took_s:
            return 0.0
        return (tokens_now - self.tokens_before) / took_s


def tokens_counted(server: Server) -> float | None:
    """Tokens that the server has read and written since it started; None when the server has no counters."""
    try:
        url = f"{server.url.rstrip('/').removesuffix('/v1')}/metrics"
        answer = httpx.get(url, headers=headers(key_of(server)), timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError:
        return None
    counts = COUNTER.findall(answer.text) if answer.status_code == httpx.codes.OK else []
    return sum(map(float, counts)) if counts else None
