"""The limits of a policy as statistical tests on one variant's and the baseline's answers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from scipy.special import ndtr, ndtri

from components.evidence import flips, margin
from components.evidence.margin import ABSOLUTE, Pairs, Scale

POWER = 0.8
MOST_NATS = 2.0
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
    floor: float | None
    """The share of answers that flip between two passes of the baseline; None if not measured."""


@dataclass(frozen=True)
class DropTest:
    """The test of the drop of the tasks' mean score.

    All tasks together can show that the drop is beyond a limit. To show that it is within a limit, all tasks together
    and the informative tasks alone must show it: a task on which the baseline only guesses has nothing to lose, and
    would dilute the drop.
    """

    tasks: tuple[Task, ...]
    scale: Scale
    p_values: dict[tuple[str, float], float] = field(default_factory=dict, compare=False, repr=False)
    """A cache of the computed p-values: one takes a while on many items."""

    @property
    def estimate(self) -> float | None:
        """The measured drop; None for a relative drop if the baseline scores 0."""
        return margin.drop(self._all, self.scale)

    @property
    def informative(self) -> bool:
        """Whether any task can show a drop."""
        return any(task.informative for task in self.tasks)

    @property
    def floor(self) -> float:
        """The noise floor, the drop up to which two passes of the baseline differ; 0 if not measured."""
        if any(task.floor is None for task in self.tasks) or not self.tasks:
            return 0.0
        mean = sum(task.before for task in self.tasks) / len(self.tasks)
        floor = sum(task.floor or 0.0 for task in self.tasks) / len(self.tasks)
        if not self.scale.relative:
            return floor
        return floor / mean if mean > 0 else math.inf

    def decidable(self, limit: float) -> bool:
        """Whether the limit is at or above the noise floor."""
        return limit >= self.floor

    def p_within(self, limit: float) -> float:
        """The p-value against "the drop is the limit or more"; 1 if the test is impossible."""
        if not self.informative or not self.decidable(limit):
            return 1.0
        return self._once(
            "within", limit, lambda: max(margin.p_within(pairs, self.scale, limit) for pairs in self._supports)
        )

    def p_beyond(self, limit: float) -> float:
        """The p-value against "the drop is at most the limit", or at most the noise floor if that is higher."""
        edge = max(limit, self.floor)
        if edge >= margin.LARGEST_DROP:
            return 1.0
        return self._once("beyond", edge, lambda: margin.p_beyond(self._all, self.scale, edge))

    def upper(self, alpha: float) -> float | None:
        """The upper bound that matches `p_within`; None if there is none."""
        if self.estimate is None or not self.informative:
            return None
        return max(margin.upper(pairs, self.scale, alpha) for pairs in self._supports)

    def lower(self, alpha: float) -> float | None:
        """The lower bound that matches `p_beyond`; None if there is none."""
        if self.estimate is None:
            return None
        bound = margin.lower(self._all, self.scale, alpha)
        return bound if math.isfinite(bound) else None

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, if the estimate is true; None if no number does."""
        if not self.informative or not self.decidable(limit):
            return None
        sides = {(margin.drop(pairs, self.scale) or 0.0) < limit for pairs in self._supports}
        if len(sides) > 1:
            return (
                None  # all tasks and the informative tasks lie on different sides of the limit: more items do not help
            )
        p = margin.p_within if sides == {True} else margin.p_beyond
        enough = _with_power(alpha)

        def settles(times: float) -> bool:
            return all(
                p([task.times(times) for task in pairs], self.scale, limit) <= enough for pairs in self._supports
            )

        return further(settles, sum(task.pairs.items for task in self.tasks))

    def _once(self, side: str, limit: float, compute: Callable[[], float]) -> float:
        if (side, limit) not in self.p_values:
            self.p_values[side, limit] = compute()
        return self.p_values[side, limit]

    @property
    def _all(self) -> list[Pairs]:
        return [task.pairs for task in self.tasks]

    @property
    def _supports(self) -> list[list[Pairs]]:
        informative = [task.pairs for task in self.tasks if task.informative]
        return [self._all, informative] if len(informative) < len(self.tasks) else [self._all]


@dataclass(frozen=True)
class MeanTest:
    """The test of the logarithm of the perplexity ratio: a t-test over documents."""

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
        return _finite(self.log_ratio.upper(alpha))

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound."""
        return _finite(self.log_ratio.lower(alpha))

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, as in DropTest; None if no number does."""
        return further(lambda times: _settles(self.times(times), limit, alpha), self.items)

    def times(self, factor: float) -> "MeanTest":
        """The test on `factor` times as many documents like these."""
        log_ratio = replace(
            self.log_ratio, error=self.log_ratio.error / math.sqrt(factor), freedom=self.log_ratio.freedom * factor
        )
        return replace(self, log_ratio=log_ratio)


@dataclass(frozen=True)
class ClippedTest:
    """The test of the mean KL divergence, each item's divergence clipped to `MOST_NATS`.

    Divergences are too skewed for a t-test. The mean of clipped, bounded values has the exact bounds of a drop.
    """

    shares: Pairs
    """Each item's divergence as a share of MOST_NATS, as the baseline's score; the variant's score is 0."""
    informative: bool = True

    @property
    def estimate(self) -> float:
        """The mean, in nats."""
        return MOST_NATS * (margin.drop([self.shares], ABSOLUTE) or 0.0)

    def decidable(self, _limit: float) -> bool:
        """Always True: this test has no noise floor."""
        return True

    def p_within(self, limit: float) -> float:
        """The p-value against "it is the limit or more"."""
        return margin.p_within([self.shares], ABSOLUTE, limit / MOST_NATS)

    def p_beyond(self, limit: float) -> float:
        """The p-value against "it is the limit or less"; no item's divergence is below 0."""
        return margin.p_above(self.shares, limit / MOST_NATS)

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound."""
        return MOST_NATS * margin.upper([self.shares], ABSOLUTE, alpha)

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound."""
        return MOST_NATS * margin.lower_of_mean(self.shares, alpha)

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, as in DropTest; None if no number does."""
        return further(
            lambda times: _settles(replace(self, shares=self.shares.times(times)), limit, alpha), self.shares.items
        )


@dataclass(frozen=True)
class Limit:
    """One limit of the policy and its test; the limit on a perplexity ratio is a logarithm."""

    what: str
    """The task's name, or `average`."""
    kind: str
    """`drop`, `divergence` or `perplexity`."""
    limit: float
    test: DropTest | ClippedTest | MeanTest


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


def _settles(test: "ClippedTest | MeanTest", limit: float, alpha: float) -> bool:
    return min(test.p_within(limit), test.p_beyond(limit)) <= _with_power(alpha)


def _with_power(alpha: float) -> float:
    """The p-value that the median sample needs so that four of five samples (80 % power) reach `alpha`."""
    return float(ndtr(-(ndtri(1 - alpha) + ndtri(POWER))))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
