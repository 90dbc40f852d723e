"""A policy's limits on speed, held against the load tests of a run.

A load test is one measurement without confidence bounds. A limit must be kept with every number of requests at a time,
so the slowest one decides. A variant over a limit is rejected, whatever its answers are. If its speed or the baseline's
is not known, it is not comparable.
"""

from collections.abc import Sequence

from quantgate.components.evidence.next_steps import NEXT_STEPS
from quantgate.components.policies.policy import SpeedLimits, UseCase, side
from quantgate.components.run.load_results import LoadTest, SpeedRatio, speed_ratios
from quantgate.components.run.verdicts import Decision, LimitEvidence, Verdict

TOO_SLOW = "Try another variant, or hardware with faster kernels for it; until then keep serving the current model."
SPEEDUP, FIRST_TOKEN = "speedup", "first_token"
"""The kinds of a limit on output tokens/s, and on the time to the first token."""


def with_speed(decision: Decision, load_tests: Sequence[LoadTest]) -> Decision:
    """The decision with its load tests, and with its verdicts by the policy's limits on speed if it has any."""
    by_variant = {test.variant: test for test in load_tests}
    names = [verdict.variant for verdict in decision.verdicts]
    in_order = tuple(by_variant[name] for name in names if name in by_variant)
    verdicts, baseline = decision.verdicts, by_variant.get(names[0])
    if decision.limits.speed:
        judged = (by_speed(verdict, decision.limits, baseline, by_variant.get(verdict.variant)) for verdict in verdicts)
        verdicts = tuple(judged)
    return decision.model_copy(update={"load_tests": in_order, "verdicts": verdicts})


def by_speed(verdict: Verdict, use_case: UseCase, baseline: LoadTest | None, variant: LoadTest | None) -> Verdict:
    """The verdict by the policy's limits on speed, if it has any, and these load tests."""
    rejected = verdict.verdict == "reject"
    if use_case.speed is None or verdict.verdict in ("reference", "skipped", "failed", "not_comparable"):
        return verdict
    if reason := unmeasured(verdict.variant, baseline, variant):
        sentence = f"Not comparable for {use_case.name}: its limits on speed need a load test, and {reason}."
        step = NEXT_STEPS["failed"]
        return verdict if rejected else _ruled(verdict, "not_comparable", _before(sentence, verdict), step)
    rows = tuple(limit_rows(use_case.speed, speed_ratios(baseline, variant)))
    verdict = verdict.model_copy(update={"limits": (*verdict.limits, *rows)})
    missed = "; ".join(_describe(row) for row in rows if row.outcome == "exceeded")
    if missed and not rejected:
        return _ruled(verdict, "reject", _before(f"Rejected for {use_case.name}: {missed}.", verdict), TOO_SLOW)
    if missed:
        return verdict.model_copy(update={"sentence": f"{verdict.sentence} It is too slow as well: {missed}."})
    kept = "; ".join(map(_describe, rows))
    return verdict.model_copy(update={"sentence": f"{verdict.sentence} In the load test {kept}."})


def _before(sentence: str, verdict: Verdict) -> str:
    return f"{sentence} Without the limits on speed: {verdict.sentence}"


def _ruled(verdict: Verdict, ruling: str, sentence: str, next_step: str) -> Verdict:
    return verdict.model_copy(update={"verdict": ruling, "sentence": sentence, "next_step": next_step})


def unmeasured(name: str, baseline: LoadTest | None, variant: LoadTest | None) -> str:
    """Why the variant's speed relative to the baseline's is not known; empty if it is."""
    for subject, test in (("the baseline", baseline), (name, variant)):
        if test is None:
            return f"{subject} has none"
        if test.failure:
            return f"that of {subject} failed: {test.failure.strip().partition(chr(10))[0].rstrip('.')}"
        for level in test.levels:
            if level.failed:
                return f"{level.failed} of {level.requests} requests to {subject} failed"
    if baseline and variant and (devices := baseline.other_device(variant)):
        return f"those of the baseline and {name} ran on different devices, {devices}"
    if not speed_ratios(baseline, variant):
        return f"those of the baseline and {name} sent different requests"
    return ""


def limit_rows(limits: SpeedLimits, ratios: Sequence[SpeedRatio]) -> list[LimitEvidence]:
    """Each limit with the ratio that decides it: the smallest speedup, the largest time to the first token."""
    rows = []
    if limits.min_speedup is not None:
        slowest = min(ratios, key=lambda ratio: ratio.speedup)
        missed = side(slowest.speedup, limits.min_speedup) < 0
        rows.append(_row(SPEEDUP, limits.min_speedup, slowest.concurrency, slowest.speedup, missed=missed))
    if limits.max_ttft_ratio is not None:
        slowest = max(ratios, key=lambda ratio: ratio.first_token)
        missed = side(slowest.first_token, limits.max_ttft_ratio) > 0
        rows.append(_row(FIRST_TOKEN, limits.max_ttft_ratio, slowest.concurrency, slowest.first_token, missed=missed))
    return rows


def _row(kind: str, limit: float, concurrency: int, measured: float, *, missed: bool) -> LimitEvidence:
    return LimitEvidence(
        what=f"{concurrency} at a time",
        kind=kind,
        limit=limit,
        estimate=measured,
        lower=None,
        upper=None,
        outcome="exceeded" if missed else "passed",
    )


def _describe(row: LimitEvidence) -> str:
    """`with 4 at a time it writes 1.05 times the baseline's output tokens/s, the limit is at least 1.2 times`."""
    times = ratio_words(row.estimate or 0.0, row.limit)
    if row.kind == SPEEDUP:
        measured, bound = f"it writes {times} times the baseline's output tokens/s", "at least"
    else:
        measured, bound = f"its median time to the first token is {times} times the baseline's", "at most"
    return f"with {row.what} {measured}, the limit is {bound} {row.limit:g} times"


def ratio_words(ratio: float, limit: float) -> str:
    """The ratio with three digits, or with more where rounding would move it onto the limit."""
    texts = (f"{ratio:.{digits}g}" for digits in range(3, 17))
    return next((text for text in texts if side(float(text), limit) == side(ratio, limit)), f"{ratio!r}")
