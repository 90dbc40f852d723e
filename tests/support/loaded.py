"""Load tests of a run's servers, and a decision that has them."""

from collections.abc import Mapping

from quantgate.components.evidence.speed_limits import with_speed
from quantgate.components.policies.policy import UseCase
from quantgate.components.run.load_results import LoadLevel, LoadTest
from quantgate.components.run.verdicts import Decision

BASELINE = {1: 40.0, 4: 100.0}
"""Output tokens/s by requests at a time."""


def load_test_of(
    variant: str, tokens_per_s: Mapping[int, float], *, first_token_ms: float = 30.0, failed: int = 0
) -> LoadTest:
    """The load test of a server with this speed, and this median time to the first token."""
    levels = tuple(
        LoadLevel(
            concurrency=concurrency,
            requests=8,
            failed=failed,
            output_tokens_per_s=speed,
            first_token_ms=first_token_ms,
            first_token_p95_ms=2 * first_token_ms,
            between_tokens_ms=1000 * concurrency / speed,
            between_tokens_p95_ms=2000 * concurrency / speed,
        )
        for concurrency, speed in tokens_per_s.items()
    )
    return LoadTest(
        variant=variant, prompt_tokens=64, answer_tokens=16, levels=levels, memory_bytes=2_000_000_000 // len(variant)
    )


def by_policy(decision: Decision, limits: Mapping[str, float], *tests: LoadTest) -> Decision:
    """The decision of a policy that also limits speed so, if it limits anything, with these load tests."""
    speed = {"speed": dict(limits)} if limits else {}
    policy = UseCase.model_validate(decision.limits.model_dump() | {"name": "fast"} | speed)
    return with_speed(decision.model_copy(update={"limits": policy}), tests)
