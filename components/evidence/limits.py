"""The limits of a policy as statistical tests on one variant's and the baseline's answers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from scipy.special import ndtr, ndtri

from components.evidence import flips, margin
from components.evidence.choice_margins import Smoothed
from components.evidence.looks import SCREEN_ALLOWANCE
from components.evidence.margin import ABSOLUTE, Pairs, Scale
from components.evidence.noise import Noise
from components.policies.policy import ANSWERS_ERROR, MOST_NATS

POWER = 0.8
MOST_FURTHER = 10_000_000
"""No number is recommended above this many further items."""


@dataclass(frozen=True)
class Task:
    """One task: the variant's answers paired with the baseline's."""

    name: str
    pairs: Pairs
    before: float
    """The baseline's score."""
    after: float
    """The variant's score."""
    informative: bool
    """Whether the baseline is significantly above chance."""
    again: Pairs | None = None
    """The baseline's answers paired with those of its second pass; None if it ran once."""
    again_flips: float | None = None
    """The share of the baseline's answers that flip in its second pass."""
    chosen: bool = False
    """Whether tinyBenchmarks chose the items: then they are no random sample of the benchmark."""
    smoothed: Smoothed | None = None
    """The scores by margins; None where right and wrong answers decide."""
    only_answers: str = ""
    """Why a policy with `evidence: margins` decides by answers here; empty if it does not."""

    @property
    def by_margins(self) -> "Task":
        """The task with the scores by margins in place of the answers, if it has them."""
        if self.smoothed is None:
            return self
        pairs = self.smoothed.pairs
        before, after = (float(scores @ pairs.counts) / pairs.items for scores in (pairs.before, pairs.after))
        return replace(self, pairs=pairs, before=before, after=after, smoothed=None)


@dataclass(frozen=True)
class DropTest:
    """The test of the drop of the tasks' mean score, weighted as the policy says.

    All tasks together can show that the drop is beyond a limit. To show that it is within a limit, all tasks together
    and the informative tasks alone must show it: a task on which the baseline only guesses has nothing to lose, and
    would dilute the drop.

    The drop on chosen items can only show that the drop is beyond a limit, and only by more than the allowance.

    Where tasks have scores by margins, these must show it, and so must the answers, with ANSWERS_ERROR times the error
    probability. If the answers contradict the margins of any task, they get no larger one.
    """

    tasks: tuple[Task, ...]
    scale: Scale
    p_values: dict[tuple[str, float], float] = field(default_factory=dict, compare=False, repr=False)
    """A cache of the computed p-values and bounds: one takes a while on many items."""

    @property
    def estimate(self) -> float | None:
        """The measured drop; None for a relative drop if the baseline scores 0."""
        return margin.drop(self._all, self.scale)

    @property
    def before(self) -> float:
        """The baseline's score, or the weighted mean of its scores."""
        return self._mean([task.before for task in self.tasks])

    @property
    def after(self) -> float:
        """The variant's score, or the weighted mean of its scores."""
        return self._mean([task.after for task in self.tasks])

    @property
    def informative(self) -> bool:
        """Whether any task can show a drop."""
        return any(task.informative for task in self.tasks)

    @property
    def noise(self) -> Noise:
        """The difference of two passes of the baseline; of no passes if one of the tasks has only one."""
        passes = tuple(task.again for task in self.tasks if task.again)
        return Noise(passes if len(passes) == len(self.tasks) else (), self.scale)

    @property
    def chosen(self) -> bool:
        """Whether tinyBenchmarks chose the items of any task."""
        return any(task.chosen for task in self.tasks)

    @property
    def allowance(self) -> float:
        """What the drop on chosen items may differ from that on all items; 0 for random samples."""
        if not self.chosen:
            return 0.0
        total = sum(task.pairs.weight for task in self.tasks)
        points = SCREEN_ALLOWANCE * sum(task.pairs.weight for task in self.tasks if task.chosen) / total
        if not self.scale.relative:
            return points
        return points / self.before if self.before > 0 else math.inf

    def decidable(self, limit: float) -> bool:
        """Whether the limit is at or above the noise floor."""
        return limit >= self.noise.floor

    def may_become_decidable(self, limit: float) -> bool:
        """Whether the limit is below the noise floor, but not clearly: with more items the passes may agree better."""
        return not self.decidable(limit) and not self.noise.clearly_above(limit)

    def p_within(self, limit: float) -> float:
        """The p-value against "the drop is the limit or more"; 1 if the test is impossible."""
        if not self.informative or self.chosen or not self.decidable(limit):
            return 1.0
        if self._ways:
            return max(way.p_within(limit) / error for way, error in self._ways)
        return self._once(
            "within", limit, lambda: max(margin.p_within(pairs, self.scale, limit) for pairs in self._supports)
        )

    def p_beyond(self, limit: float) -> float:
        """The p-value against "the drop is at most the limit", or at most the noise floor if that is higher.

        On chosen items: at most that and the allowance.
        """
        edge = max(limit, self.noise.floor) + self.allowance
        if edge >= margin.LARGEST_DROP:
            return 1.0
        if self._ways:
            return max(way.p_beyond(limit) / error for way, error in self._ways)
        return self._once("beyond", edge, lambda: margin.p_beyond(self._all, self.scale, edge))

    def upper(self, alpha: float) -> float | None:
        """The upper bound that matches `p_within`; None if there is none."""
        if self.estimate is None or not self.informative or self.chosen:
            return None
        if self._ways:
            bounds = [way.upper(min(alpha * error, 0.5)) for way, error in self._ways]
            return max((bound for bound in bounds if bound is not None), default=None)
        return self._once(
            "upper", alpha, lambda: max(margin.upper(pairs, self.scale, alpha) for pairs in self._supports)
        )

    def lower(self, alpha: float) -> float | None:
        """The lower bound that matches `p_beyond`; None if there is none."""
        if self.estimate is None:
            return None
        if self._ways:
            bounds = [way.lower(min(alpha * error, 0.5)) for way, error in self._ways]
            return None if None in bounds else min(bound for bound in bounds if bound is not None)
        bound = self._once("lower", alpha, lambda: margin.lower(self._all, self.scale, alpha)) - self.allowance
        return bound if math.isfinite(bound) else None

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, if the estimate is true; None if no number does."""
        if not self.informative or self.chosen or not self.decidable(limit):
            return None
        ways = self._ways or [(self, 1.0)]
        tests = [(pairs, with_power(alpha * error)) for way, error in ways for pairs in way._supports]
        sides = {(margin.drop(pairs, self.scale) or 0.0) < limit for pairs, _ in tests}
        if len(sides) > 1:
            return None  # two of the tests lie on different sides of the limit: more items do not help
        p = margin.p_within if sides == {True} else margin.p_beyond

        def settles(times: float) -> bool:
            return all(p([task.times(times) for task in pairs], self.scale, limit) <= enough for pairs, enough in tests)

        return further(settles, sum(task.pairs.items for task in self.tasks))

    @cached_property
    def by_answers(self) -> "DropTest":
        """The test by right and wrong answers alone."""
        return replace(self, tasks=tuple(replace(task, smoothed=None) for task in self.tasks), p_values={})

    @cached_property
    def by_margins(self) -> "DropTest | None":
        """The test by margins alone, by answers on the tasks that have none; None if no task has margins."""
        if not any(task.smoothed for task in self.tasks):
            return None
        return replace(self, tasks=tuple(task.by_margins for task in self.tasks), p_values={})

    @cached_property
    def _ways(self) -> list[tuple["DropTest", float]]:
        """The tests that must agree, each with the number of times the error probability that it may use.

        Empty where answers decide alone.
        """
        if self.by_margins is None:
            return []
        contradicted = any(task.smoothed and task.smoothed.contradicted for task in self.tasks)
        return [(self.by_margins, 1.0), (self.by_answers, 1.0 if contradicted else ANSWERS_ERROR)]

    def _once(self, side: str, limit: float, compute: Callable[[], float]) -> float:
        if (side, limit) not in self.p_values:
            self.p_values[side, limit] = compute()
        return self.p_values[side, limit]

    def _mean(self, scores: list[float]) -> float:
        weights = [task.pairs.weight for task in self.tasks]
        return sum(weight * score for weight, score in zip(weights, scores, strict=True)) / sum(weights)

    @property
    def _all(self) -> list[Pairs]:
        return [task.pairs for task in self.tasks]

    @property
    def _supports(self) -> list[list[Pairs]]:
        informative = [task.pairs for task in self.tasks if task.informative]
        return [self._all, informative] if len(informative) < len(self.tasks) else [self._all]


@dataclass(frozen=True)
class MeanTest:
    """The test of the logarithm of the perplexity ratio: a t-test over documents.

    It assumes that the mean over the documents is about normal. That is not proven and not simulated, and it fails if
    few documents hold most of the damage.
    """

    log_ratio: flips.Mean
    items: int
    informative: bool = True

    @property
    def estimate(self) -> float:
        """The measured logarithm of the perplexity ratio."""
        return self.log_ratio.mean

    def decidable(self, _limit: float) -> bool:
        """Always True: this test has no noise floor."""
        return True

    def p_within(self, limit: float) -> float:
        """The p-value against "it is the limit or more"."""
        return self.log_ratio.p_within(limit)

    def p_beyond(self, limit: float) -> float:
        """The p-value against "it is the limit or less"."""
        return self.log_ratio.p_beyond(limit)

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound."""
        return finite(self.log_ratio.upper(alpha))

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound."""
        return finite(self.log_ratio.lower(alpha))

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, as in DropTest; None if no number does."""
        return further(lambda times: is_decided(self.times(times), limit, alpha), self.items)

    def times(self, factor: float) -> "MeanTest":
        """The test on `factor` times as many documents like these."""
        log_ratio = replace(
            self.log_ratio, error=self.log_ratio.error / math.sqrt(factor), freedom=self.log_ratio.freedom * factor
        )
        return replace(self, log_ratio=log_ratio)


@dataclass(frozen=True)
class ClippedTest:
    """The test of the mean of bounded values: of each item's KL divergence, clipped to `MOST_NATS`, or cut answers.

    Divergences are too skewed for a t-test. The mean of clipped, bounded values has the bounds of a drop, which are a
    conjecture for fractional values (see `margin`). What is clipped is no evidence: if the mean before clipping is over
    a limit, the limit is never shown to be kept.
    """

    shares: Pairs
    """Each item's divergence as a share of `most`, as the baseline's score; the variant's score is 0."""
    most: float = MOST_NATS
    """The largest possible value of an item."""
    informative: bool = True
    unclipped: float = 0.0
    """The mean before clipping; 0 where nothing is clipped."""

    @property
    def estimate(self) -> float:
        """The mean, before clipping."""
        return max(self.unclipped, self.most * (margin.drop([self.shares], ABSOLUTE) or 0.0))

    def decidable(self, _limit: float) -> bool:
        """Always True: this test has no noise floor."""
        return True

    def p_within(self, limit: float) -> float:
        """The p-value against "it is the limit or more"; 1 if the mean before clipping is over the limit."""
        return 1.0 if self.unclipped > limit else margin.p_within([self.shares], ABSOLUTE, limit / self.most)

    def p_beyond(self, limit: float) -> float:
        """The p-value against "it is the limit or less"; no item's value is below 0."""
        return margin.p_above(self.shares, limit / self.most)

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound, never below the mean before clipping."""
        return max(self.unclipped, self.most * margin.upper([self.shares], ABSOLUTE, alpha))

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound."""
        return self.most * margin.lower_of_mean(self.shares, alpha)

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, as in DropTest; None if no number does."""
        return further(
            lambda times: is_decided(replace(self, shares=self.shares.times(times)), limit, alpha), self.shares.items
        )


class LimitTest(Protocol):
    """The test of one limit."""

    @property
    def estimate(self) -> float | None:
        """The measured value."""

    @property
    def informative(self) -> bool:
        """Whether the answers can show anything about the limit."""

    def decidable(self, limit: float, /) -> bool:
        """Whether the limit is at or above the noise floor."""

    def p_within(self, limit: float) -> float:
        """The p-value against "it is the limit or more"."""

    def p_beyond(self, limit: float) -> float:
        """The p-value against "it is the limit or less"."""

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound; None if there is none."""

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound; None if there is none."""

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power; None if no number does."""


@dataclass(frozen=True)
class Limit:
    """One limit of the policy and its test; the limit on a perplexity ratio is a logarithm."""

    what: str
    """The task's name, or `average`."""
    kind: str
    """`drop`, `cluster`, `divergence`, `perplexity`, `length` or `cut`."""
    limit: float
    test: LimitTest


def further(decides: Callable[[float], bool], items: float) -> int | None:
    """The smallest number of further items, beyond `items`, that decides it; None if no number does.

    `decides` gets the total number of items as a multiple of `items`.
    """
    enough = 2.0
    while not decides(enough):
        if items * enough > MOST_FURTHER:
            return None
        enough *= 2
    too_few = enough / 2
    while (enough - too_few) * items > 1 and enough / too_few > 1.001:
        middle = (too_few + enough) / 2
        too_few, enough = (too_few, middle) if decides(middle) else (middle, enough)
    return max(math.ceil((enough - 1) * items), 1)


def is_decided(test: LimitTest, limit: float, alpha: float) -> bool:
    """Whether the test decides the limit, with the power for which `further` counts items."""
    return min(test.p_within(limit), test.p_beyond(limit)) <= with_power(alpha)


def with_power(alpha: float) -> float:
    """The p-value that the median sample needs so that four of five samples (80 % power) reach `alpha`."""
    return float(ndtr(-(ndtri(1 - alpha) + ndtri(POWER))))


def finite(value: float) -> float | None:
    """The value; None for an infinite one."""
    return value if math.isfinite(value) else None
