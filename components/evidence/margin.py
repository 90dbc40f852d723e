"""P-values and one-sided confidence bounds for a paired drop, valid for few items as for many.

Both models answer the same items, with scores x (baseline) and y (variant) between 0 and 1. The drop is at most m
when the mean of w is at most 0, with w = (1 - m) x - y for a drop relative to the baseline's score, and w = x - y - m
for an absolute drop. So the test of a relative margin needs no ratio.

*Item by item*: Gaffke's test of the mean of a bounded variable. The test adds one item, the worst possible one (right
before, wrong now), and gives every item a random weight (exponential, as in the Bayesian bootstrap). p is the
probability that the weighted sum is still on the wrong side. For scores of 0 and 1 it is Clopper and Pearson's exact
test; it needs no normal approximation and takes fractional scores. `benchmarks/gate_errors.py` counts its errors.
Sources: N. Gaffke, Math. Methods of Statistics 14 (2005) 451-467; E. Learned-Miller and P. Thomas, A New Confidence
Interval for the Mean of a Bounded Random Variable (arXiv 1905.06208). For the average of several tasks, the test adds a
worst item to every task. That is conservative: the bounds for a few small tasks are wider than necessary.

*Cluster by cluster*, for items in clusters: a t-test on the clusters' sums. The variance is that of the jackknife that
leaves out one cluster at a time (CR3 in J. MacKinnon, M. Nielsen and M. Webb, J. of Econometrics 232 (2023) 272-299).
The degrees of freedom are Satterthwaite's for clusters whose items are fully correlated, so that a few large clusters
get few degrees of freedom. With clusters, the result is the larger of both p-values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtr

Numbers = NDArray[np.float64]

INTEGRALS = ((32, 5.0), (96, 6.0), (300, 7.5), (1000, 9.0), (4000, 11.0))
"""Number of points and upper end of the tail integral; the next pair is used until two estimates agree."""
AGREEMENT, TINIEST = 1e-6, 1e-13
"""Relative and absolute difference up to which two estimates of the tail agree."""
MOST_PAIRS = 2000
DROPS, SCORES = 64, 4
"""If there are more than MOST_PAIRS distinct pairs of scores, `pairs` puts them on a grid.

The grid has DROPS steps of the drop and SCORES steps of the baseline's score, each per 1.
"""
LARGEST_DROP = 1.0
LARGEST_GAIN = 1000.0
"""The smallest lower bound of a relative drop is a gain of this many times the baseline's score."""
CLOSE = 1e-10
"""The distance that bounds keep from the ends of the range, and the smallest divisor of the jackknife."""

Excess = Callable[[Numbers, Numbers, Numbers | float], Numbers]
"""w of the module's docstring, from x, y and the number of items that they are summed over."""


@dataclass(frozen=True)
class Clusters:
    """A task's sums per cluster: the number of items, the baseline's and the variant's scores."""

    items: Numbers
    before: Numbers
    after: Numbers
    times: float = 1.0
    """How often every cluster counts."""


@dataclass(frozen=True)
class Pairs:
    """Two models' scores on one task's items: the distinct pairs of scores, and the number of items with each."""

    before: Numbers
    after: Numbers
    counts: Numbers
    clusters: Clusters | None = None
    """None if the items are independent."""

    @property
    def items(self) -> float:
        """The number of items."""
        return float(self.counts.sum())

    def times(self, factor: float) -> "Pairs":
        """`factor` times as many items and clusters, with the same distribution of scores."""
        clusters = self.clusters and replace(self.clusters, times=self.clusters.times * factor)
        return Pairs(self.before, self.after, self.counts * factor, clusters)


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


def pairs(before: Numbers, after: Numbers, clusters: NDArray[np.int64] | None = None) -> Pairs:
    """The pairs of two score arrays (n,) from 0 to 1, in any order; `clusters` (n,) holds each item's cluster.

    If all items are in one cluster, the variance between clusters is unknown, and the items count as independent.
    """
    values, counts = np.unique(before + 1j * after, return_counts=True)
    summed = None
    if clusters is not None and (clusters != clusters[0]).any():
        _, place = np.unique(clusters, return_inverse=True)
        ones = np.ones(len(before))
        summed = Clusters(summed_by(place, ones), summed_by(place, before), summed_by(place, after))
    if len(values) > MOST_PAIRS:
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
    """The drop of the mean of the tasks' mean scores; None for a relative drop if the baseline scores 0."""
    before = float(np.mean([task.counts @ task.before / task.items for task in tasks]))
    after = float(np.mean([task.counts @ task.after / task.items for task in tasks]))
    if not scale.relative:
        return before - after
    return (before - after) / before if before > 0 else None


def p_within(tasks: Sequence[Pairs], scale: Scale, margin: float) -> float:
    """The p-value against "the drop is `margin` or more"; a small p-value shows that the drop is less.

    The drop of several tasks is that of the mean of their mean scores.
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
    """The p-value against "the mean of the excess is 0 or more"."""
    values, counts = [], []
    for task in tasks:
        before, after = np.append(task.before, worst[0]), np.append(task.after, worst[1])
        values.append(excess(before, after, 1.0) / (task.items + 1))
        counts.append(np.append(task.counts, 1.0))
    p = tail(np.concatenate(values), np.concatenate(counts))
    return max(p, _p_of_clusters(tasks, excess)) if any(task.clusters is not None for task in tasks) else p


def tail(values: Numbers, counts: Numbers) -> float:
    """P(sum of values_j G_j >= 0) for independent gamma variables G_j of shapes counts_j (scale 1)."""
    matters = (values != 0) & (counts > 0)
    values, counts = values[matters], counts[matters]
    if not len(values) or values.min() > 0:
        return 1.0
    if values.max() < 0:
        return 0.0
    return 1 - _upper_tail(-values, counts) if values @ counts > 0 else _upper_tail(values, counts)


def _upper_tail(values: Numbers, counts: Numbers) -> float:
    """The tail for terms of both signs with a mean of at most 0.

    It inverts the moment generating function along two paths through the saddlepoint (S. Rice's method, as in
    C. Helstrom, IEEE Trans. AES 32 (1996) 1180-1184). On the straight vertical path the integrand falls like that of a
    normal distribution, unless a few terms hold most of the variance; then it falls on the path bent like the steepest
    descent. Either path may fail. So both are integrated with more and more points, until the two agree or one agrees
    with its own earlier estimate.
    """
    end = 1 / values.max()

    def slope(s: float) -> float:
        return float(counts @ (values / (1 - s * values)) - 1 / s)

    point = brentq(slope, 1e-12 * end, end * (1 - 1e-13), xtol=1e-9 * end)
    rates = values / (1 - point * values)
    second = float(counts @ rates**2) + 1 / point**2
    steepest = (float(counts @ rates**3) - 1 / point**3) / (3 * second)
    estimates: list[float] = []
    for nodes, reach in INTEGRALS:
        steps = (np.arange(nodes) + 0.5) * (reach / nodes)
        height, widths = np.sinh(steps) / np.sqrt(second), np.cosh(steps) / np.sqrt(second) * (reach / nodes)
        for bend in (0.0, steepest):
            slack = 1 + 2 * abs(bend) * height  # the path's slope stays limited: at most 1 across for 2 up
            path = point + bend * height**2 / slack + 1j * height
            direction = 2 * bend * height * (slack - abs(bend) * height) / slack**2 + 1j
            with np.errstate(over="ignore", invalid="ignore"):
                transform = np.exp(-(counts @ np.log(1 - np.outer(values, path)))) / path
                p = float((transform * direction * widths).sum().imag / np.pi)
            if any(abs(p - earlier) <= AGREEMENT * abs(p) + TINIEST for earlier in estimates[-2:]):
                return min(max(p, 0.0), 1.0)
            estimates.append(p)
    return min(max(estimates[-2], 0.0), 1.0)


def _p_of_clusters(tasks: Sequence[Pairs], excess: Excess) -> float:
    mean = variance = shrinking = 0.0
    for task in tasks:
        sums, items, counts = _grouped(task, excess)
        task_mean, error, freedom = jackknife(sums, items, counts)
        mean += task_mean / len(tasks)
        variance += (error / len(tasks)) ** 2
        shrinking += (error / len(tasks)) ** 4 / freedom
    if variance == 0:
        return float(mean >= 0)
    return float(stdtr(variance**2 / shrinking, mean / np.sqrt(variance)))


def _grouped(task: Pairs, excess: Excess) -> tuple[Numbers, Numbers, Numbers]:
    """Per cluster: the sum of the excess, the number of items, and how often the cluster counts."""
    if task.clusters is None:
        return excess(task.before, task.after, 1.0), np.ones(len(task.counts)), task.counts
    sums = excess(task.clusters.before, task.clusters.after, task.clusters.items)
    return sums, task.clusters.items, np.full(len(sums), task.clusters.times)


def jackknife(sums: Numbers, items: Numbers, counts: Numbers) -> tuple[float, float, float]:
    """The mean over the items, its jackknife standard error, and the degrees of freedom of its t-test."""
    total, groups = counts @ items, counts.sum()
    mean = float(counts @ sums / total)
    left_out = (sums - items * mean) / np.maximum(1 - items / total, CLOSE)
    error = float(np.sqrt(counts @ left_out**2 * (groups - 1) / groups) / total)
    effective = float(counts @ items**2) ** 2 / float(counts @ items**4)
    return mean, error, max(effective - 1, 1.0)


def _start(tasks: Sequence[Pairs], scale: Scale) -> float:
    measured = drop(tasks, scale)
    if measured is None:
        raise ValueError("A relative drop has no bounds where the baseline scores 0.")
    return max(measured, 1 - LARGEST_GAIN) if scale.relative else measured


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(f, low, high, xtol=1e-9))
