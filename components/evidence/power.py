"""How many questions a limit needs, before a run: the gate's own test on expected answers.

The gate decides a limit with a probability of `power` when the expected answers lie z(1 - alpha) + z(power) standard
errors away from the limit. This is the usual sample size formula, an approximation; the tests compare it with
simulations (R. Connor, Sample Size for Testing Differences in Proportions for the Paired-Sample Design, Biometrics 43
(1987) 207-211; J. Nam, Establishing Equivalence of Two Treatments and Sample Size Requirements in Matched-Pairs Design,
Biometrics 53 (1997) 1422-1430; for language models E. Miller, Adding Error Bars to Evals, arXiv 2411.00640). The
distance comes from the p-values of `margin`, so that few questions, or clusters, widen it as much here as in a verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence import margin
from quantgate.components.evidence.clusters import Clusters
from quantgate.components.evidence.further_items import POWER, further
from quantgate.components.evidence.margin import RELATIVE, Pairs, Scale

ROUNDING = 1e-12


@dataclass(frozen=True)
class Expected:
    """The expected difference between a variant's and the baseline's answers to a task, in shares of 1."""

    differing: float
    """The share of the questions that one of the two models answers right and the other wrong."""
    drop: float = 0.0
    """The true drop, in the limit's unit: shares of the baseline's score, or points."""
    baseline: float = 0.6
    """The baseline's score."""
    clusters: tuple[int, ...] = ()
    """The relative sizes of the clusters; empty if the questions are independent."""
    spread: float = 0.0
    """The standard deviation of the clusters' true drops, in points."""

    def pairs(self, items: float, scale: Scale = RELATIVE) -> Pairs:
        """The expected answers to `items` questions; raises PrerequisiteError if the numbers contradict each other."""
        fewer = self.drop * self.baseline if scale.relative else self.drop
        lost, gained = (self.differing + fewer) / 2, (self.differing - fewer) / 2
        shares = np.array([lost, gained, self.baseline - lost, 1 - self.baseline - gained])
        if shares.min() < -ROUNDING:
            raise PrerequisiteError(
                f"A baseline of {self.baseline:g}, a drop of {self.drop:g} and a share of {self.differing:g} differing "
                "answers are impossible together. The share must be at least the drop in points, and at most what the "
                "right and the wrong answers allow."
            )
        before, after = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0])
        return Pairs(before, after, items * np.maximum(shares, 0.0), self._clustered(items, fewer))

    def _clustered(self, items: float, fewer: float) -> Clusters | None:
        """The clusters' sums, each cluster in two halves: one standard deviation above the drop, and one below."""
        if len(self.clusters) < 2:
            return None
        sizes = items * np.repeat(self.clusters, 2) / sum(self.clusters)
        by_chance = (self.differing - fewer**2) / sizes
        shifts = np.tile([1.0, -1.0], len(self.clusters)) * np.sqrt(self.spread**2 + by_chance)
        return Clusters(sizes, self.baseline * sizes, (self.baseline - fewer - shifts) * sizes, times=0.5)


def questions(
    expected: Expected, limit: float, alpha: float, *, power: float = POWER, scale: Scale = RELATIVE
) -> int | None:
    """How many questions decide a limit on one task: passed, or exceeded if the expected drop is beyond the limit.

    `alpha` is the allowed error probability, after Holm's division by variants and with the look's share. None if no
    number of questions is enough: the drop equals the limit, or the clusters differ too much.
    """
    p = margin.p_within if expected.drop < limit else margin.p_beyond

    def decides(items: float) -> bool:
        return all(
            p([pairs], scale, limit) <= _needed([pairs], alpha, power)
            for pairs in (test.pairs(items, scale) for test in _tests(expected))
        )

    more = further(decides, 1)
    return None if more is None else more + 1


def smallest_limit(
    expected: Expected, items: Sequence[int], alpha: float, *, power: float = POWER, scale: Scale = RELATIVE
) -> float:
    """The smallest limit that a variant can pass with so many questions.

    `items` holds one count for a limit on one task, several for the average of several such tasks. The result is 1 if
    no limit can be passed.
    """
    samples = [[test.pairs(count, scale) for count in items] for test in _tests(expected)]
    return max(margin.upper(tasks, scale, _needed(tasks, alpha, power)) for tasks in samples)


def _tests(expected: Expected) -> tuple[Expected, ...]:
    """The tests that must decide: item by item and, if there are clusters, by clusters."""
    alone = replace(expected, clusters=())
    return (alone, expected) if len(expected.clusters) > 1 else (alone,)


def _needed(tasks: Sequence[Pairs], alpha: float, power: float) -> float:
    """The p-value that the expected answers need, so that the share `power` of all samples reaches `alpha`."""
    if all(task.clusters is None for task in tasks):
        return float(ndtr(-(ndtri(1 - alpha) + ndtri(power))))
    freedom = min(margin.cluster_freedom(task) for task in tasks)
    return float(stdtr(freedom, -(stdtrit(freedom, 1 - alpha) + ndtri(power))))
