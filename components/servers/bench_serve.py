"""vLLM's own load test, `vllm bench serve`, against a running server: on this machine, or on a cluster.

Each concurrency has prompts of its own, so that none is in the server's prefix cache. Before them, some requests that
are not counted warm the server up.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.artifacts import Server
from quantgate.components.run.load_results import LoadLevel, LoadSettings, LoadTest
from quantgate.components.servers import local_server
from quantgate.components.servers.bench_command import WITHIN_S
from quantgate.components.servers.cluster_settings import LOCAL, from_environment


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
        """The speed with so many requests at a time; raises PrerequisiteError if the results are of other requests."""
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
    """The speed of a running server of this run; a LoadTest with a `failure` when the test has no valid result."""
    settings = settings.within(server.max_model_len)
    if not settings.fits:
        reason = f"A window of {server.max_model_len} tokens is too small for a load test: raise --max-model-len."
        return LoadTest(variant=server.variant, failure=reason)
    try:
        saved, memory_bytes = measured(server, settings, results, within_s)
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


def measured(server: Server, settings: LoadSettings, results: str, within_s: float) -> tuple[dict[int, str], int]:
    """What vLLM saved by the seed of the run, and the most memory that the server had; 0 where it is not known."""
    if from_environment().kind == LOCAL:
        from quantgate.components.servers.bench_process import measured_here

        return measured_here(server, settings, results, within_s)
    from quantgate.components.servers.bench_job import measured_in_job

    return measured_in_job(server, settings, results, within_s), 0


def level_in(saved: Mapping[int, str], concurrency: int, settings: LoadSettings) -> LoadLevel:
    """The saved speed with so many requests at a time; raises PrerequisiteError if it is missing or invalid."""
    if concurrency not in saved:
        raise PrerequisiteError(f"The log of the load test lacks vLLM's results at concurrency {concurrency}.")
    try:
        return Saved.model_validate_json(saved[concurrency]).level(concurrency, settings.requests(concurrency))
    except ValidationError as error:
        reason = " ".join(str(error).split())
        raise PrerequisiteError(f"vLLM's results at concurrency {concurrency} are invalid: {reason}") from None
