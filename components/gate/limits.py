"""The limits of a policy as tests on one variant's answers beside the baseline's."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import ndtr, ndtri

from components.gate import flips, margin
from components.gate.answers import Answers
from components.gate.margin import ABSOLUTE, RELATIVE, Pairs, Scale
from components.gate.policy import UseCase

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
        return any(each.informative for each in self.tasks)

    @property
    def floor(self) -> float:
        """The drop below which two passes of the baseline itself differ; 0 where that was not measured."""
        if any(each.floor is None for each in self.tasks) or not self.tasks:
            return 0.0
        mean = sum(each.before for each in self.tasks) / len(self.tasks)
        floor = sum(each.floor or 0.0 for each in self.tasks) / len(self.tasks)
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
        if ("within", limit) not in self.known:
            found = max(margin.p_within(each, self.scale, limit) for each in self._supports)
            self.known["within", limit] = found
        return self.known["within", limit]

    def p_beyond(self, limit: float) -> float:
        """The p-value against "the drop is the limit, or the noise floor above it, or less"."""
        edge = max(limit, self.floor)
        if edge >= margin.LARGEST_DROP:
            return 1.0
        if ("beyond", edge) not in self.known:
            self.known["beyond", edge] = margin.p_beyond(self._all, self.scale, edge)
        return self.known["beyond", edge]

    def upper(self, alpha: float) -> float | None:
        """The bound that belongs to `p_within`; None where there is none."""
        if self.estimate is None or not self.informative:
            return None
        return max(margin.upper(each, self.scale, alpha) for each in self._supports)

    def lower(self, alpha: float) -> float | None:
        """The bound that belongs to `p_beyond`."""
        if self.estimate is None:
            return None
        found = margin.lower(self._all, self.scale, alpha)
        return found if math.isfinite(found) else None

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

    @property
    def _all(self) -> list[Pairs]:
        return [each.pairs for each in self.tasks]

    @property
    def _supports(self) -> list[list[Pairs]]:
        informative = [each.pairs for each in self.tasks if each.informative]
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

        def settles(times: float) -> bool:
            found = replace(self.found, error=self.found.error / math.sqrt(times), freedom=self.found.freedom * times)
            return min(found.p_within(limit), found.p_beyond(limit)) <= _with_power(alpha)

        return further(settles, self.items)


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

        def settles(times: float) -> bool:
            found = replace(self, shares=self.shares.times(times))
            return min(found.p_within(limit), found.p_beyond(limit)) <= _with_power(alpha)

        return further(settles, self.shares.items)


@dataclass(frozen=True)
class Limit:
    """One limit of the policy and the test of it; a perplexity ratio's are logarithms."""

    what: str
    kind: str
    """drop, divergence, perplexity."""
    limit: float
    test: DropTest | ClippedTest | MeanTest


def further(settles: Callable[[float], bool], items: float) -> int | None:
    """How many more items than `items` it takes until so many times as many settle it; None where no number does."""
    most = 2.0
    while not settles(most):
        if items * most > MOST_FURTHER:
            return None
        most *= 2
    least = most / 2
    while (most - least) * items > 1 and most / least > 1.001:
        middle = (least + most) / 2
        least, most = (least, middle) if settles(middle) else (middle, most)
    return max(math.ceil((most - 1) * items), 1)


def _with_power(alpha: float) -> float:
    """The p-value that the middle of all draws must have for four of five to have `alpha`."""
    return float(ndtr(-(ndtri(1 - alpha) + ndtri(POWER))))


def tasks_of(
    baseline: Mapping[str, Answers],
    variant: Mapping[str, Answers],
    again: Mapping[str, Answers],
    chance: Mapping[str, float],
    alpha: float,
) -> dict[str, Task]:
    """Each task with scores, paired on the items of the variant; the baseline's whole tells whether it is a guess."""
    return {
        name: _task(name, baseline[name], found, again.get(name), chance[name], alpha)
        for name, found in variant.items()
        if found.units is None
    }


def _task(name: str, baseline: Answers, variant: Answers, again: Answers | None, chance: float, alpha: float) -> Task:
    paired = baseline.only(variant.table["id"])
    before, after = paired.scores, variant.scores
    alone = margin.pairs(baseline.scores, np.zeros(baseline.items), baseline.clusters)
    return Task(
        name=name,
        pairs=margin.pairs(before, after, paired.clusters),
        before=float(before.mean()),
        after=float(after.mean()),
        informative=margin.p_above(alone, chance) <= alpha,
        floor=_floor(baseline, again),
    )


def _floor(baseline: Answers, again: Answers | None) -> float | None:
    """The share of answers that flip when the baseline is asked again."""
    if again is None:
        return None
    twice = baseline.only(again.table["id"])
    return flips.flips(twice.scores, again.only(twice.table["id"]).scores).rate if twice.items else None


def limits_of(
    use_case: UseCase, tasks: Mapping[str, Task], baseline: Mapping[str, Answers], variant: Mapping[str, Answers]
) -> Iterator[Limit]:
    """The use case's limits whose tasks were answered; those on tasks that the run lacks are left out."""
    scale = RELATIVE if use_case.relative else ABSOLUTE
    for name, limit in use_case.max_drop.items():
        if name in tasks:
            yield Limit(name, "drop", limit, DropTest((tasks[name],), scale))
    if use_case.max_average_drop is not None and tasks:
        yield Limit("average", "drop", use_case.max_average_drop, DropTest(tuple(tasks.values()), scale))
    for name, limit in use_case.max_divergence.items():
        if name in variant:
            yield Limit(name, "divergence", limit, _divergence_test(baseline[name], variant[name]))
    for name, ratio in use_case.max_perplexity_ratio.items():
        if name in variant and (found := flips.perplexity_ratio(*_paired(baseline[name], variant[name]))):
            yield Limit(name, "perplexity", math.log(ratio), MeanTest(found, variant[name].items))


def unmeasurable(use_case: UseCase, baseline: Mapping[str, Answers], variant: Mapping[str, Answers]) -> str:
    """The first limit that these answers cannot be held against, and why; empty when there is none."""
    if variant and all(each.units is not None for each in variant.values()):
        return "none of its tasks has scores that a drop could be measured on"
    for name in use_case.max_drop:
        if name in variant and variant[name].units is not None:
            return f"its limit on the drop of {name} needs scores and {name} has a perplexity: max_perplexity_ratio"
    limited = (
        (flips.divergences, use_case.max_divergence, "choices"),
        (flips.perplexity_ratio, use_case.max_perplexity_ratio, "documents"),
    )
    for measure, limits, needed in limited:
        for name in limits:
            if not variant or not baseline:
                return f"its limit on {name} needs answers item by item"
            if name in variant and measure(*_paired(baseline[name], variant[name])) is None:
                return f"its limit on {name} needs the log-likelihoods of {needed}, which that task does not have"
    return ""


def _paired(baseline: Answers, variant: Answers) -> tuple[Answers, Answers]:
    return baseline.only(variant.table["id"]), variant


def _divergence_test(baseline: Answers, variant: Answers) -> ClippedTest:
    paired = baseline.only(variant.table["id"])
    found = flips.divergences(paired, variant)
    if found is None:
        raise ValueError(f"{variant.task} has no choices: `unmeasurable` comes first")
    shares = np.minimum(found, MOST_NATS) / MOST_NATS
    return ClippedTest(margin.pairs(shares, np.zeros(len(shares)), paired.clusters))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
