"""How many requests settle an A/B test: the variant's answers to live traffic, scored good or bad by the team.

The test asks what the policy asks of benchmarks: whether the share of good answers falls by less than the policy's
last limit. Two designs:

    split       each request is answered by one of the two: two independent shares (z-test, unpooled)
    mirrored    each request is answered by both: a paired test, where only answers that differ count (z-test)

Both are counted as the gate counts further questions: with the policy's confidence, so that four of five tests reach it
if the loss is the measured one. The baseline's benchmark score stands for the unknown share of good answers.
"""

import math

from scipy.special import ndtr

from quantgate.components.evidence.further_items import further, with_power
from quantgate.components.run.artifacts import is_flow_task
from quantgate.components.run.verdicts import Decision, Verdict
from quantgate.components.storage.artifact import Artifact

FEWEST = 100
"""No test is planned with fewer requests."""


class LiveTest(Artifact):
    """The size of an A/B test; a number is None if no number of requests below ten million settles it."""

    margin: float
    """The loss that the test excludes: a share of the baseline's score, or points, as the policy has it."""
    expected: float
    """The measured loss."""
    baseline_share: float
    """The assumed share of good answers of the baseline."""
    confidence: float
    split: int | None
    """Requests in all, at the rollout's split."""
    mirrored: int | None = None
    """Requests that both answer; None also without per-item answers."""


def live_test(decision: Decision, verdict: Verdict, percent: int) -> LiveTest | None:
    """The test for this variant with `percent` of the traffic; None without a measured average drop."""
    limits, baseline = decision.limits, decision.verdicts[0]
    shares = {score.task for row in decision.scores for score in row.tasks if score.is_averaged}
    measured = {task: score for task, score in baseline.scores.items() if task in shares}
    if verdict.average_drop is None or not measured:
        return None
    before, edge = limits.average.of(measured), limits.bands.ab_test
    margin = edge if limits.max_average_drop is None else min(limits.max_average_drop, edge)
    unit = before if limits.relative else 1.0
    gap = (margin - verdict.average_drop) * unit
    after = before - verdict.average_drop * unit
    variant = percent / 100
    split = before * (1 - before) / (1 - variant) + after * (1 - after) / variant
    paired = _paired_variance(verdict, before - after)
    return LiveTest(
        margin=margin,
        expected=verdict.average_drop,
        baseline_share=before,
        confidence=limits.confidence,
        split=_requests(gap, split, limits.alpha),
        mirrored=None if paired is None else _requests(gap, paired, limits.alpha),
    )


def _paired_variance(verdict: Verdict, lost: float) -> float | None:
    """The variance of the difference of two answers to one request, from the benchmark's flips; None without them."""
    tasks = [task for task in verdict.tasks if not is_flow_task(task.task)]
    items = sum(task.items for task in tasks)
    flips = sum(task.lost + task.gained for task in tasks)
    return flips / items - lost * lost if items and flips else None


def _requests(gap: float, variance: float, alpha: float) -> int | None:
    """The requests after which a gap of that size is shown; `variance` is that of one request's estimate."""
    if gap <= 0:
        return None
    if variance <= 0:  # every answer is right, or every one is wrong
        return FEWEST

    def decides(multiple: float) -> bool:
        return float(ndtr(-gap / math.sqrt(variance / (FEWEST * multiple)))) <= with_power(alpha)

    more = further(decides, FEWEST)
    return None if more is None else FEWEST + more
