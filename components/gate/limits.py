"""The limits of a policy as tests on one variant's answers beside the baseline's."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from components.gate import flips, margin
from components.gate.answers import Answers
from components.gate.margin import ABSOLUTE, RELATIVE, Pairs, Scale
from components.gate.policy import UseCase

POWER = 0.8
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

    def decidable(self, limit: float) -> bool:
        """Whether the limit is above what two runs of the same model differ by."""
        if any(each.floor is None for each in self.tasks):
            return True
        mean = sum(each.before for each in self.tasks) / len(self.tasks)
        floor = sum(each.floor or 0.0 for each in self.tasks) / len(self.tasks)
        return (limit * mean if self.scale.relative else limit) >= floor

    def p_within(self, limit: float) -> float:
        """The p-value against "the drop is the limit or more"."""
        if not self.informative or not self.decidable(limit):
            return 1.0
        if ("within", limit) not in self.known:
            found = max(margin.p_within(each, self.scale, limit) for each in self._supports)
            self.known["within", limit] = found
        return self.known["within", limit]

    def p_beyond(self, limit: float) -> float:
        """The p-value against "the drop is the limit or less"."""
        if not self.decidable(limit):
            return 1.0
        if ("beyond", limit) not in self.known:
            self.known["beyond", limit] = margin.p_beyond(self._all, self.scale, limit)
        return self.known["beyond", limit]

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
        items = sum(each.pairs.items for each in self.tasks)
        return further(*margin.spread(self._all, self.scale, limit), items, alpha)

    @property
    def _all(self) -> list[Pairs]:
        return [each.pairs for each in self.tasks]

    @property
    def _supports(self) -> list[list[Pairs]]:
        informative = [each.pairs for each in self.tasks if each.informative]
        return [self._all, informative] if len(informative) < len(self.tasks) else [self._all]


@dataclass(frozen=True)
class MeanTest:
    """A mean that a limit bounds: the KL divergence, or the logarithm of the perplexity ratio."""

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
        return further(self.found.mean - limit, self.found.error, self.items, alpha)


@dataclass(frozen=True)
class Limit:
    """One limit of the policy and the test of it; a perplexity ratio's are logarithms."""

    what: str
    kind: str
    """drop, divergence, perplexity."""
    limit: float
    test: DropTest | MeanTest


def further(distance: float, error: float, items: float, alpha: float) -> int | None:
    """How many more items than `items` bring a mean so far from its limit, with that error, to 80 % power."""
    if distance == 0 or not math.isfinite(error):
        return None
    needed = float(items * ((ndtri(1 - alpha) + ndtri(POWER)) * error / distance) ** 2)
    if needed - items > MOST_FURTHER:
        return None
    return max(math.ceil(needed - items), 1)


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
        informative=margin.p_beyond([alone], ABSOLUTE, chance) <= alpha,
        floor=_floor(paired, again),
    )


def _floor(baseline: Answers, again: Answers | None) -> float | None:
    """The share of answers that flip when the baseline is asked again."""
    if again is None:
        return None
    twice = baseline.only(again.table["id"])
    return flips.flips(twice.scores, again.only(twice.table["id"]).scores).rate


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
    for kind, name, limit in _mean_limits(use_case):
        if name in variant and (found := _measured(kind, baseline[name], variant[name])):
            value = math.log(limit) if kind == "perplexity" else limit
            yield Limit(name, kind, value, MeanTest(found, variant[name].items))


def unmeasurable(use_case: UseCase, baseline: Mapping[str, Answers], variant: Mapping[str, Answers]) -> str:
    """The first limit that these answers cannot be held against, and why; empty when there is none."""
    if variant and all(each.units is not None for each in variant.values()):
        return "none of its tasks has scores that a drop could be measured on"
    for kind, name, _ in _mean_limits(use_case):
        if not variant or not baseline:
            return f"its limit on the {kind} on {name} needs answers item by item"
        if name in variant and not _measured(kind, baseline[name], variant[name]):
            needs = "the log-likelihoods of choices" if kind == "divergence" else "the log-likelihoods of documents"
            return f"its limit on the {kind} on {name} needs {needs}, which that task does not have"
    return ""


def _mean_limits(use_case: UseCase) -> Iterator[tuple[str, str, float]]:
    yield from (("divergence", name, limit) for name, limit in use_case.max_divergence.items())
    yield from (("perplexity", name, limit) for name, limit in use_case.max_perplexity_ratio.items())


def _measured(kind: str, baseline: Answers, variant: Answers) -> flips.Mean | None:
    paired = baseline.only(variant.table["id"])
    return (flips.divergence if kind == "divergence" else flips.perplexity_ratio)(paired, variant)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
