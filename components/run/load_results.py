"""A load test of a variant's server: how the option `--speed` names it, and what vLLM's `bench serve` measured.

The speeds of two variants may be compared when their tests had the same settings, and the same kind of device: see
`LoadTest.is_like`.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Self

from pydantic import Field, model_validator

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.artifact import Artifact

OFF, QUICK, FULL_TEST = "off", "quick", "full"
MOST_AT_A_TIME = 1024
LEAST_TOKENS = 8
"""A shorter prompt, or answer, has no speed that can be measured."""
SPARE_TOKENS = 8
"""Of the window: the server may add tokens to a prompt, such as one that marks its beginning."""


@dataclass(frozen=True)
class LoadSettings:
    """How a server is loaded: with how many requests at a time, one number after the other, and with which requests."""

    concurrencies: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: int
    least_requests: int
    """Of each concurrency."""
    requests_each: int
    """For each request at a time; more than `least_requests` in all where many are sent at a time."""

    def requests(self, concurrency: int) -> int:
        """How many requests are sent at this concurrency."""
        return max(self.least_requests, self.requests_each * concurrency)

    def within(self, window: int) -> Self:
        """The settings with prompts and answers that fit the server's window of tokens."""
        answer = min(self.answer_tokens, window // 2)
        prompt = min(self.prompt_tokens, window - answer - SPARE_TOKENS)
        return replace(self, answer_tokens=answer, prompt_tokens=prompt)

    @property
    def fits(self) -> bool:
        """Whether prompts and answers are long enough to measure a speed."""
        return min(self.prompt_tokens, self.answer_tokens) >= LEAST_TOKENS


ON_CPU = {
    QUICK: LoadSettings((1, 4), prompt_tokens=64, answer_tokens=16, least_requests=8, requests_each=2),
    FULL_TEST: LoadSettings((1, 4), prompt_tokens=256, answer_tokens=64, least_requests=16, requests_each=4),
}
ON_GPU = {
    QUICK: LoadSettings((1, 16), prompt_tokens=512, answer_tokens=64, least_requests=16, requests_each=2),
    FULL_TEST: LoadSettings((1, 8, 64), prompt_tokens=1024, answer_tokens=128, least_requests=32, requests_each=4),
}


def load_settings(speed: str, *, on_cpu: bool) -> LoadSettings | None:
    """The settings that the option `--speed` names; None for `off`. Raises PrerequisiteError with the valid values."""
    known = ON_CPU if on_cpu else ON_GPU
    if speed == OFF or speed in known:
        return known.get(speed)
    parts = [part.strip() for part in speed.split(",")]
    numbers = {int(part) for part in parts if part.isdecimal() and len(part) <= len(str(MOST_AT_A_TIME))}
    if len(numbers) < len(parts) or not all(1 <= number <= MOST_AT_A_TIME for number in numbers):
        raise PrerequisiteError(
            f"--speed is {speed!r}. Choose {OFF}, {QUICK} or {FULL_TEST}, or give different numbers of requests at a"
            f" time from 1 to {MOST_AT_A_TIME:,}, as 1,16."
        )
    return replace(known[FULL_TEST], concurrencies=tuple(sorted(numbers)))


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class LoadLevel(Artifact):
    """The server's speed with so many requests at a time."""

    concurrency: Count
    requests: Count
    failed: Annotated[int, Field(ge=0)] = 0
    output_tokens_per_s: Positive
    """Of all answers together."""
    first_token_ms: Positive
    """Median time from the request to the answer's first token."""
    first_token_p95_ms: Positive
    between_tokens_ms: Positive
    """Median time between two tokens of an answer."""
    between_tokens_p95_ms: Positive

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.failed >= self.requests:
            raise ValueError(f"{self.failed} of {self.requests} requests failed, so it has no speed")
        return self


class LoadTest(Artifact):
    """The load test of one variant's server, or the reason why it has no result."""

    variant: str
    prompt_tokens: int = 0
    answer_tokens: int = 0
    levels: tuple[LoadLevel, ...] = ()
    """By ascending concurrency."""
    memory_bytes: int = 0
    """Most memory that the server's processes had during the test; 0 on a cluster, where it is not measured, and on a
    GPU, where vLLM reserves it in advance."""
    ended_at: float = 0.0
    """Unix time in seconds; 0 in artifacts of an earlier version."""
    device: str = ""
    """What the server computed on, see `ServerIdentity.device`; empty in artifacts of an earlier version."""
    failure: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.levels) == bool(self.failure):
            raise ValueError("a load test has either levels or the reason of a failure")
        numbers = [level.concurrency for level in self.levels]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"the concurrencies {numbers} do not ascend")
        return self

    def describe(self) -> str:
        """The output tokens/s by concurrency, for a step's note."""
        return ", ".join(
            f"{level.output_tokens_per_s:,.1f} output tokens/s with {level.concurrency} at a time"
            for level in self.levels
        )

    def is_like(self, other: "LoadTest") -> bool:
        """Whether both have results of the same requests, from the same kind of device."""
        same = self._settings() == other._settings() and not self.other_device(other)
        return bool(self.levels) and same

    def other_device(self, other: "LoadTest") -> str:
        """How the devices of the two differ, as `GPU and CPU`; empty if they are alike, or one is not known."""
        known = self.device and other.device
        return f"{self.device} and {other.device}" if known and self.device != other.device else ""

    def _settings(self) -> tuple[object, ...]:
        levels = tuple((level.concurrency, level.requests) for level in self.levels)
        return self.prompt_tokens, self.answer_tokens, levels


@dataclass(frozen=True)
class SpeedRatio:
    """A variant's speed with so many requests at a time, relative to the baseline's in the same run."""

    concurrency: int
    speedup: float
    """Output tokens/s divided by the baseline's: more is better."""
    first_token: float
    """Median time to the first token divided by the baseline's: less is better."""
    between_tokens: float


def speed_ratios(baseline: LoadTest | None, variant: LoadTest | None) -> tuple[SpeedRatio, ...]:
    """The variant's speed relative to the baseline's by concurrency; empty if they cannot be compared."""
    if baseline is None or variant is None or not variant.is_like(baseline):
        return ()
    return tuple(
        SpeedRatio(
            concurrency=after.concurrency,
            speedup=after.output_tokens_per_s / before.output_tokens_per_s,
            first_token=after.first_token_ms / before.first_token_ms,
            between_tokens=after.between_tokens_ms / before.between_tokens_ms,
        )
        for before, after in zip(baseline.levels, variant.levels, strict=True)
    )
