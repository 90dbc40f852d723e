"""P-values and one-sided confidence bounds for a paired drop, valid for few items as for many.

Both models answer the same items, with scores x (baseline) and y (variant) between 0 and 1. The drop is at most m
when the mean of w is at most 0, with w = (1 - m) x - y for a drop relative to the baseline's score, and w = x - y - m
for an absolute drop. So the test of a relative margin needs no ratio.

*Item by item*: Gaffke's test of the mean of a bounded variable. The test adds one item, the worst possible one (right
before, wrong now), and gives every item a random weight (exponential, as in the Bayesian bootstrap). p is the
probability that the weighted sum is still on the wrong side. It needs no normal approximation and takes fractional
scores. If answers are only lost, it is Clopper and Pearson's exact test, which is proven to keep its level. With gained
answers too, or with fractional scores, that is a conjecture, which no enumeration and no simulation contradicted.
`benchmarks/gate_errors.py` counts its errors. Sources: N. Gaffke, Math. Methods of Statistics 14 (2005) 451-467;
E. Learned-Miller and P. Thomas, A New Confidence Interval for the Mean of a Bounded Random Variable (arXiv 1905.06208).

*The average of several tasks* is a sum of items with the weights w / n: the task's weight, divided among its n items.
The test adds one worst item, at the heaviest of these weights. For counts this is the interval for a weighted sum of
Poisson variables of M. Fay and E. Feuer, Statistics in Medicine 16 (1997) 791-801. That it keeps its level is a
conjecture too: `tests/test_gate_average.py` enumerates every outcome of small tasks, `benchmarks/gate_averages.py`
simulates large ones.

*Several answers to an item* are one fractional score, their mean; `benchmarks/gate_samples.py` counts the errors.

*Cluster by cluster*, for items in clusters: a t-test on the clusters' sums, see `clusters`; simulated, not proven. With
clusters, the result is the larger of both p-values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtr

from quantgate.components.evidence.clusters import Clusters, Sums, clustered_mean
from quantgate.components.evidence.gamma_tail import tail

Numbers = NDArray[np.float64]

MOST_PAIRS = 2000
DROPS, SCORES = 64, 4
"""If there are more than MOST_PAIRS distinct pairs of scores, `pairs` puts them on a grid.

The grid has DROPS steps of the drop and SCORES steps of the baseline's score, each per 1.
"""
LARGEST_DROP = 1.0
LARGEST_GAIN = 1000.0
"""The smallest lower bound of a relative drop is a gain of this many times the baseline's score."""
CLOSE = 1e-10
"""The distance that bounds keep from the ends of the range."""

Excess = Callable[[Numbers, Numbers, Numbers | float], Numbers]
"""w of the module's docstring, from x, y and the number of items that they are summed over."""


@dataclass(frozen=True)
class Pairs:
    """Two models' scores on one task's items: the distinct pairs of scores, and the number of items with each."""

    before: Numbers
    after: Numbers
    counts: Numbers
    clusters: Clusters | None = None
    """None if the items are independent."""
    weight: float = 1.0
    """The task's weight in an average of several tasks."""

    @property
    def items(self) -> float:
        """The number of items."""
        return float(self.counts.sum())

    def times(self, factor: float) -> "Pairs":
        """`factor` times as many items and clusters, with the same distribution of scores."""
        clusters = self.clusters and replace(self.clusters, times=self.clusters.times * factor)
        return replace(self, counts=self.counts * factor, clusters=clusters)


@dataclass(frozen=True)
class Scale:
    """The unit of a drop: shares of the baseline's score, or points."""

    relative: bool

    def excess(self, before: Numbers, after: Numbers, items: Numbers | float, margin: float) -> Numbers:
        """w of the module's docstring, for single items (`items` = 1) or summed over `items` items."""
        return (1 - margin) * before - after if self.relative else before - after - margin * items

    @property
    def smallest(self) -> float:
        """The smallest drop (the largest gain) that the search for a lower bound tries."""
        return -LARGEST_GAIN if self.relative else -1.0


RELATIVE, ABSOLUTE = Scale(relative=True), Scale(relative=False)


def pairs(
    before: Numbers, after: Numbers, clusters: NDArray[np.int64] | None = None, *, most: int = MOST_PAIRS
) -> Pairs:
    """The pairs of two score arrays (n,) from 0 to 1, in any order; `clusters` (n,) holds each item's cluster.

    More than `most` distinct pairs are put on a grid. If all items are in one cluster, the variance between clusters is
    unknown, and the items count as independent.
    """
    values, counts = np.unique(before + 1j * after, return_counts=True)
    summed = None
    if clusters is not None and (clusters != clusters[0]).any():
        _, place = np.unique(clusters, return_inverse=True)
        ones = np.ones(len(before))
        summed = Clusters(summed_by(place, ones), summed_by(place, before), summed_by(place, after))
    if len(values) > most:
        return Pairs(*_on_grid(before, after), summed)
    return Pairs(values.real.copy(), values.imag.copy(), counts.astype(float), summed)


def _on_grid(before: Numbers, after: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """The baseline's scores, the variant's scores and the counts, each item split among the four grid points around it.

    The means do not change. The split adds up to 5e-5 to an item's variance, which can only widen a bound.
    """
    across, along = before * SCORES, (before - after + 1) * DROPS
    x, drop = np.floor(across), np.floor(along)
    rows = 2 * DROPS + 2
    counts = np.zeros((SCORES + 2) * rows)
    for right in (0, 1):
        for up in (0, 1):
            share = np.abs(1 - right - (across - x)) * np.abs(1 - up - (along - drop))
            counts += np.bincount(((x + right) * rows + drop + up).astype(np.int64), share, len(counts))
    (used,) = np.nonzero(counts)
    scores = (used // rows) / SCORES
    return scores, scores - ((used % rows) / DROPS - 1), counts[used]


def summed_by(place: NDArray[np.int64], values: Numbers) -> Numbers:
    """The sums (G,) of `values` (n,) by group; `place` (n,) holds the group numbers, 0 to G - 1."""
    return np.asarray(np.bincount(place, values), dtype=np.float64)


def drop(tasks: Sequence[Pairs], scale: Scale) -> float | None:
    """The drop of the weighted mean of the tasks' mean scores; None for a relative drop if the baseline scores 0."""
    total = sum(task.weight for task in tasks)
    before = sum(task.weight * float(task.counts @ task.before) / task.items for task in tasks) / total
    after = sum(task.weight * float(task.counts @ task.after) / task.items for task in tasks) / total
    if not scale.relative:
        return before - after
    return (before - after) / before if before > 0 else None


def p_within(tasks: Sequence[Pairs], scale: Scale, margin: float) -> float:
    """The p-value against "the drop is `margin` or more"; a small p-value shows that the drop is less.

    The drop of several tasks is that of the weighted mean of their mean scores.
    """
    return _p(tasks, lambda before, after, items: scale.excess(before, after, items, margin), (1.0, 0.0))


def p_beyond(tasks: Sequence[Pairs], scale: Scale, margin: float) -> float:
    """The p-value against "the drop is `margin` or less"; a small p-value shows that the drop is more."""
    return _p(tasks, lambda before, after, items: -scale.excess(before, after, items, margin), (0.0, 1.0))


def upper(tasks: Sequence[Pairs], scale: Scale, alpha: float) -> float:
    """The one-sided upper bound of the drop: the error probability is at most `alpha`.

    Raises ValueError for a relative drop if the baseline scores 0.
    """
    start = _start(tasks, scale)
    if p_within(tasks, scale, start) <= alpha:  # only by float error: p is about a half at the estimate
        return start
    if p_within(tasks, scale, LARGEST_DROP - CLOSE) > alpha:
        return LARGEST_DROP
    return _root(lambda margin: p_within(tasks, scale, margin) - alpha, start, LARGEST_DROP - CLOSE)


def lower(tasks: Sequence[Pairs], scale: Scale, alpha: float) -> float:
    """The one-sided lower bound of the drop; -inf for a relative drop if the baseline's score is too close to 0.

    Raises ValueError for a relative drop if the baseline scores 0.
    """
    start = _start(tasks, scale)
    if p_beyond(tasks, scale, start) <= alpha:
        return start
    step = 0.05
    while p_beyond(tasks, scale, max(start - step, scale.smallest + CLOSE)) > alpha:
        if start - step < scale.smallest:
            return -np.inf if scale.relative else scale.smallest
        step *= 2
    below = max(start - step, scale.smallest + CLOSE)
    return _root(lambda margin: p_beyond(tasks, scale, margin) - alpha, below, start)


def p_above(task: Pairs, level: float) -> float:
    """The p-value against "the baseline's mean score is `level` or less"; the variant's scores do not matter."""
    return _p([task], lambda before, _after, items: level * items - before, (0.0, 0.0))


def lower_of_mean(task: Pairs, alpha: float) -> float:
    """The one-sided lower bound of the baseline's mean score, which matches `p_above`."""
    mean = float(task.before @ task.counts) / task.items
    if p_above(task, 0.0) > alpha:
        return 0.0
    return mean if p_above(task, mean) <= alpha else _root(lambda level: p_above(task, level) - alpha, 0.0, mean)


def _p(tasks: Sequence[Pairs], excess: Excess, worst: tuple[float, float]) -> float:
    """The p-value against "the mean of the excess is 0 or more"; `worst` are the scores of the worst possible item."""
    weights = [task.weight / task.items for task in tasks]
    values = [excess(task.before, task.after, 1.0) * weight for task, weight in zip(tasks, weights, strict=True)]
    worst_value = excess(np.array([worst[0]]), np.array([worst[1]]), 1.0) * max(weights)
    p = tail(np.concatenate([*values, worst_value]), np.concatenate([*(task.counts for task in tasks), [1.0]]))
    return max(p, _p_of_clusters(tasks, excess)) if any(task.clusters is not None for task in tasks) else p


def _p_of_clusters(tasks: Sequence[Pairs], excess: Excess) -> float:
    mean = variance = shrinking = 0.0
    total = sum(task.weight for task in tasks)
    for task in tasks:
        task_mean, error, freedom = clustered_mean(_summed(task, excess))
        mean += task_mean * task.weight / total
        task_variance = (error * task.weight / total) ** 2
        variance += task_variance
        shrinking += task_variance**2 / freedom
    if variance == 0:
        return float(mean >= 0)
    return float(stdtr(variance**2 / shrinking, mean / np.sqrt(variance)))


def _summed(task: Pairs, excess: Excess) -> Sums:
    """The excess of the task's items, summed by cluster; an item without cluster is one of its own."""
    single = excess(task.before, task.after, 1.0)
    squares = float(task.counts @ single**2)
    if task.clusters is None:
        return Sums(single, np.ones(len(single)), task.counts, squares)
    sums = excess(task.clusters.before, task.clusters.after, task.clusters.items)
    return Sums(sums, task.clusters.items, np.full(len(sums), task.clusters.times), squares)


def cluster_freedom(task: Pairs) -> float:
    """The degrees of freedom of the t-test on the task's clusters, at a drop of 0."""
    return clustered_mean(_summed(task, lambda before, after, _items: before - after))[2]


def _start(tasks: Sequence[Pairs], scale: Scale) -> float:
    measured = drop(tasks, scale)
    if measured is None:
        raise ValueError("A relative drop has no bounds where the baseline scores 0.")
    return max(measured, 1 - LARGEST_GAIN) if scale.relative else measured


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(f, low, high, xtol=1e-9))
