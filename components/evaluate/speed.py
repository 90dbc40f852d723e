"""How fast a server answers, by its own count: the Prometheus counters of vLLM's `/metrics`."""

import re
import time

import httpx

COUNTER = re.compile(r"^vllm:(?:prompt|generation)_tokens_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
TIMEOUT_S = 5.0


class Speed:
    """Tokens a second from its making on."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.before = tokens_counted(url)
        self.started = time.monotonic()

    def tokens_per_s(self) -> float:
        """Tokens of prompts (cached ones too) and answers a second until now; 0 where the server does not count."""
        took_s, now = time.monotonic() - self.started, tokens_counted(self.url)
        return (now - self.before) / took_s if now and self.before is not None and took_s else 0.0


def tokens_counted(url: str) -> float | None:
    """Tokens that the server has read and written since it started; None where it does not tell."""
    try:
        answer = httpx.get(f"{url.rstrip('/').removesuffix('/v1')}/metrics", timeout=TIMEOUT_S)
    except httpx.HTTPError:
        return None
    found = COUNTER.findall(answer.text) if answer.status_code == httpx.codes.OK else []
    return sum(map(float, found)) if found else None
