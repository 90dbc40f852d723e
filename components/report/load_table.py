"""The load tests as rows of a table, the baseline's first."""

from dataclasses import dataclass

from quantgate.components.report.formats import milliseconds_text, rate_text, ratio_text, size_text
from quantgate.components.run.load_results import LoadLevel, LoadTest, SpeedRatio, speed_ratios
from quantgate.components.run.verdicts import Decision

LEGEND = (
    "Measured with vLLM's bench serve after the full stage: output tokens/s of all answers together; the time to the"
    " first token and between tokens as median / 95th percentile; × is the ratio to the baseline's in this run. A load"
    " test is one measurement, without confidence bounds."
)
HEADINGS = ("At a time", "Output tokens/s", "First token", "Between tokens", "Failed", "Memory")
"""Of `LoadRow.texts`."""


@dataclass(frozen=True)
class LoadRow:
    """One variant's speed with so many requests at a time."""

    variant: str
    level: LoadLevel
    ratio: SpeedRatio | None
    """None for the baseline, and where the baseline's speed is unknown."""
    memory_bytes: int
    """0 where it was not measured."""
    memory_ratio: float | None

    @property
    def texts(self) -> tuple[str, ...]:
        """The row's numbers as text."""
        level, ratio = self.level, self.ratio
        speedup, first, between = (ratio.speedup, ratio.first_token, ratio.between_tokens) if ratio else (None,) * 3
        return (
            f"{level.concurrency:,}",
            f"{rate_text(level.output_tokens_per_s)} {ratio_text(speedup)}".rstrip(),
            _time(level.first_token_ms, level.first_token_p95_ms, first),
            _time(level.between_tokens_ms, level.between_tokens_p95_ms, between),
            f"{level.failed:,} of {level.requests:,}",
            f"{size_text(self.memory_bytes or None)} {ratio_text(self.memory_ratio)}".rstrip(),
        )


def _time(median_ms: float, p95_ms: float, ratio: float | None) -> str:
    return f"{milliseconds_text(median_ms, p95_ms)} {ratio_text(ratio)}".rstrip()


def load_rows(decision: Decision) -> tuple[LoadRow, ...]:
    """A row for each load-tested variant and number of requests at a time."""
    tests = {test.variant: test for test in decision.load_tests}
    reference = decision.verdicts[0].variant if decision.verdicts else ""
    rows: list[LoadRow] = []
    for variant, test in tests.items():
        baseline = tests.get(reference) if variant != reference else None
        ratios = {ratio.concurrency: ratio for ratio in speed_ratios(baseline, test)}
        memory_ratio = _memory_ratio(baseline, test)
        rows += (
            LoadRow(variant, level, ratios.get(level.concurrency), test.memory_bytes, memory_ratio)
            for level in test.levels
        )
    return tuple(rows)


def _memory_ratio(baseline: LoadTest | None, test: LoadTest) -> float | None:
    if baseline is None or not baseline.memory_bytes or not test.memory_bytes:
        return None
    return test.memory_bytes / baseline.memory_bytes


def without_speed(decision: Decision) -> tuple[str, ...]:
    """In a run with load tests, the reason for each variant without a speed, or without one to compare."""
    tests = {test.variant: test for test in decision.load_tests}
    baseline = tests.get(decision.verdicts[0].variant) if decision.verdicts else None
    sentences = []
    for verdict in decision.verdicts if tests else ():
        test, failed = tests.get(verdict.variant), verdict.verdict == "failed"
        if verdict.verdict == "skipped":
            continue
        if test is None:
            reason = "it failed before." if failed else "its evaluation ended after the first few questions."
            sentences.append(f"{verdict.variant} was not load-tested: {reason}")
        elif test.failure:
            sentences.append(f"The load test of {verdict.variant} failed: {test.failure}")
        elif baseline and baseline.levels and (devices := baseline.other_device(test)):
            sentences.append(
                f"The speeds of {baseline.variant} and {verdict.variant} are not compared: they were measured on"
                f" different devices, {devices}."
            )
    return tuple(sentences)


def busiest(rows: tuple[LoadRow, ...], variant: str) -> LoadRow | None:
    """The variant's row with the most requests at a time, which the decision matrix shows; None without one."""
    return next((row for row in reversed(rows) if row.variant == variant), None)
