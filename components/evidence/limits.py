"""The limits of a policy as tests on one variant's answers beside the baseline's."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from scipy.special import ndtr, ndtri

from components.evidence import flips, margin
from components.evidence.margin import ABSOLUTE, Pairs, Scale

POWER = 0.8
MOST_NATS = 2.0
MOST_FURTHER = 10_000_000
"""More further items than this are no advice."""


@dataclass(frozen=True)
class Task:
    """One task of a variant, paired with the baseline's."""

    name: str
    pairs: Pairs
    before: float
    """The baseline's score."""
    after: float
    informative: bool
    floor: float | None
    """The share of answers that flip between two passes of the baseline; None where that was not measured."""


@dataclass(frozen=True)
class DropTest:
    """The drop of the mean of some tasks' scores.

    It may be shown to be over a margin by all of them, and to be within it by all and by the informative ones alone: a
    task that the baseline only guesses on cannot lose anything, and would water a drop down.
    """

    tasks: tuple[Task, ...]
    scale: Scale
    known: dict[tuple[str, float], float] = field(default_factory=dict, compare=False, repr=False)
    """The p-values that were asked for: each takes a while on many items."""

    @property
    def estimate(self) -> float | None:
        """The measured drop; None for a relative one where the baseline scores 0."""
        return margin.drop(self._all, self.scale)

    @property
    def informative(self) -> bool:
        """Whether any task can show a drop."""
        return any(task.informative for task in self.tasks)

    @property
    def floor(self) -> float:
        """The drop below which two passes of the baseline itself differ; 0 where that was not measured."""
        if any(task.floor is None for task in self.tasks) or not self.tasks:
            return 0.0
        mean = sum(task.before for task in self.tasks) / len(self.tasks)
        floor = sum(task.floor or 0.0 for task in self.tasks) / len(self.tasks)
        if not self.scale.relative:
            return floor
        return floor / mean if mean > 0 else math.inf

    def decidable(self, limit: float) -> bool:
        """Whether the limit is not below what two passes of the baseline itself differ by."""
        return limit >= self.floor

    def p_within(self, limit: float) -> float:
        """The p-value against "the drop is the limit or more"; 1 where that cannot be told."""
        if not self.informative or not self.decidable(limit):
            return 1.0
        return self._once(
            "within", limit, lambda: max(margin.p_within(pairs, self.scale, limit) for pairs in self._supports)
        )

    def p_beyond(self, limit: float) -> float:
        """The p-value against "the drop is the limit, or the noise floor above it, or less"."""
        edge = max(limit, self.floor)
        if edge >= margin.LARGEST_DROP:
            return 1.0
        return self._once("beyond", edge, lambda: margin.p_beyond(self._all, self.scale, edge))

    def upper(self, alpha: float) -> float | None:
        """The bound that belongs to `p_within`; None where there is none."""
        if self.estimate is None or not self.informative:
            return None
        return max(margin.upper(pairs, self.scale, alpha) for pairs in self._supports)

    def lower(self, alpha: float) -> float | None:
        """The bound that belongs to `p_beyond`."""
        if self.estimate is None:
            return None
        bound = margin.lower(self._all, self.scale, alpha)
        return bound if math.isfinite(bound) else None

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items would settle the limit at 80 % power, were the estimate the truth; None: no number."""
        if not self.informative or not self.decidable(limit):
            return None
        sides = {(margin.drop(each, self.scale) or 0.0) < limit for each in self._supports}
        if len(sides) > 1:
            return None  # all of the tasks say one thing and the informative ones another: more of both settle nothing
        p = margin.p_within if sides == {True} else margin.p_beyond
        enough = _with_power(alpha)

        def settles(times: float) -> bool:
            return all(p([task.times(times) for task in each], self.scale, limit) <= enough for each in self._supports)

        return further(settles, sum(each.pairs.items for each in self.tasks))

    def _once(self, side: str, limit: float, compute: Callable[[], float]) -> float:
        if (side, limit) not in self.known:
            self.known[side, limit] = compute()
        return self.known[side, limit]

    @property
    def _all(self) -> list[Pairs]:
        return [task.pairs for task in self.tasks]

    @property
    def _supports(self) -> list[list[Pairs]]:
        informative = [task.pairs for task in self.tasks if task.informative]
        return [self._all, informative] if len(informative) < len(self.tasks) else [self._all]


@dataclass(frozen=True)
class MeanTest:
    """The logarithm of the perplexity ratio, by a t-test over documents."""

    found: flips.Mean
    items: int
    informative: bool = True

    @property
    def estimate(self) -> float:
        """The mean."""
        return self.found.mean

    def decidable(self, _limit: float) -> bool:
        """No noise floor is measured for it."""
        return True

    def p_within(self, limit: float) -> float:
        """The p-value against "it is the limit or more"."""
        return self.found.p_within(limit)

    def p_beyond(self, limit: float) -> float:
        """The p-value against "it is the limit or less"."""
        return self.found.p_beyond(limit)

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound."""
        return _finite(self.found.upper(alpha))

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound."""
        return _finite(self.found.lower(alpha))

    def further_items(self, limit: float, alpha: float) -> int | None:
        """As of a drop."""
        return further(lambda times: _settles(self.times(times), limit, alpha), self.items)

    def times(self, factor: float) -> "MeanTest":
        """So many times as many documents like these."""
        log_ratio = replace(self.found, error=self.found.error / math.sqrt(factor), freedom=self.found.freedom * factor)
        return replace(self, found=log_ratio)


@dataclass(frozen=True)
class ClippedTest:
    """The mean KL divergence, an item that moved by more than `MOST_NATS` counting as that.

    Divergences are skewed, which a t-test does not survive; a bounded mean has the exact bounds of a drop.
    """

    shares: Pairs
    """Each item's share of MOST_NATS, as if all of it were lost."""
    informative: bool = True

    @property
    def estimate(self) -> float:
        """The mean, in nats."""
        return MOST_NATS * (margin.drop([self.shares], ABSOLUTE) or 0.0)

    def decidable(self, _limit: float) -> bool:
        """No noise floor is measured for it."""
        return True

    def p_within(self, limit: float) -> float:
        """The p-value against "it is the limit or more"."""
        return margin.p_within([self.shares], ABSOLUTE, limit / MOST_NATS)

    def p_beyond(self, limit: float) -> float:
        """The p-value against "it is the limit or less"; there is no item of less than none."""
        return margin.p_above(self.shares, limit / MOST_NATS)

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound."""
        return MOST_NATS * margin.upper([self.shares], ABSOLUTE, alpha)

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound."""
        return MOST_NATS * max(margin.lower([self.shares], ABSOLUTE, alpha), 0.0)

    def further_items(self, limit: float, alpha: float) -> int | None:
        """As of a drop."""
        return further(
            lambda times: _settles(replace(self, shares=self.shares.times(times)), limit, alpha), self.shares.items
        )


@dataclass(frozen=True)
class Limit:
    """One limit of the policy and the test of it; a perplexity ratio's are logarithms."""

    what: str
    kind: str
    """drop, divergence, perplexity."""
    limit: float
    test: DropTest | ClippedTest | MeanTest


def further(decides: Callable[[float], bool], items: float) -> int | None:
    """How many more items than `items` it takes until so many times as many settle it; None where no number does."""
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
    """The p-value that the middle of all draws must have for four of five to have `alpha`."""
    return float(ndtr(-(ndtri(1 - alpha) + ndtri(POWER))))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
