"""The mean over items that come in clusters, such as the subjects of MMLU, with its error and degrees of freedom.

`clustered_mean` is for a t-test on clusters of very different sizes. The variance is CR2, corrected for each cluster's
share of the items. The degrees of freedom are Bell and McCaffrey's: those of the chi-square distribution with the mean
and variance that this estimate has if two items of a cluster correlate as much as the data say. So they follow the
data: many if the clusters do not differ, few if they do and a few of them hold most items. Sources: R. Bell and
D. McCaffrey, Survey Methodology 28 (2002) 169-181; G. Imbens and M. Kolesar, Robust Standard Errors in Small Samples,
Review of Economics and Statistics 98 (2016) 701-712. The correlation is that of an analysis of variance.

Simulated, not proven: `benchmarks/gate_clusters.py` counts the errors. Effects with a long tail, where a few clusters
lose a lot, break every t-test on a sample of clusters; the benchmark shows by how much.

`jackknife` is the older, wider form for perplexities and divergences, which have one number an item or document.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

CLOSE = 1e-10
"""The smallest divisor: for a cluster that holds all items."""


@dataclass(frozen=True)
class Clusters:
    """A task's sums per cluster: the number of items, the baseline's and the variant's scores."""

    items: Numbers
    before: Numbers
    after: Numbers
    times: float = 1.0
    """How often every cluster counts."""


@dataclass(frozen=True)
class Sums:
    """The values of a task's items, summed by cluster."""

    sums: Numbers
    """Each cluster's sum (G,)."""
    items: Numbers
    """Each cluster's number of items (G,)."""
    counts: Numbers
    """How often each cluster counts (G,)."""
    squares: float
    """The sum of the squares of all items' values."""


def clustered_mean(values: Sums) -> tuple[float, float, float]:
    """The mean over the items, its standard error, and the degrees of freedom of its t-test."""
    items, counts = values.items, values.counts
    total = float(counts @ items)
    mean = float(counts @ values.sums / total)
    scale = 1 / np.sqrt(np.maximum(1 - items / total, CLOSE))
    error = float(np.sqrt(counts @ (scale * (values.sums - items * mean)) ** 2) / total)
    return mean, error, _freedom(values, _working_variances(values), scale)


def _working_variances(values: Sums) -> Numbers:
    """The variance of each cluster's sum (G,): of its items by chance, and of what they share."""
    items, counts, sums = values.items, values.counts, values.sums
    total, groups = float(counts @ items), float(counts.sum())
    explained = float(counts @ (sums**2 / items))
    within = max(values.squares - explained, 0.0) / max(total - groups, 1.0)
    among = max(explained - float(counts @ sums) ** 2 / total, 0.0) / max(groups - 1, CLOSE)
    typical_size = (total - float(counts @ items**2) / total) / max(groups - 1, CLOSE)
    between = max((among - within) / max(typical_size, CLOSE), 0.0)
    return np.asarray(items * within + items**2 * between, dtype=np.float64)


def _freedom(values: Sums, variances: Numbers, scale: Numbers) -> float:
    """trace(C)^2 / trace(C^2), with the covariance matrix C of the scaled residuals, computed without the matrix."""
    counts, total = values.counts, float(values.counts @ values.items)
    shift = float(counts @ variances) / total**2
    own, p, q = scale**2 * variances, scale * values.items, scale * variances / total
    pp, pq, qq = float(counts @ p**2), float(counts @ (p * q)), float(counts @ q**2)
    trace = float(counts @ own) - 2 * pq + shift * pp
    squared = float(counts @ own**2 - 4 * counts @ (own * p * q) + 2 * shift * counts @ (own * p**2))
    squared += 2 * (pp * qq + pq**2) - 4 * shift * pp * pq + shift**2 * pp**2
    return max(trace**2 / squared, 1.0) if squared > 0 else 1.0


def jackknife(sums: Numbers, items: Numbers, counts: Numbers) -> tuple[float, float, float]:
    """The mean over the items, its error, and the degrees of freedom of its t-test, wide for unequal clusters.

    The error leaves out one cluster at a time (CR3 in J. MacKinnon, M. Nielsen and M. Webb, J. of Econometrics 232
    (2023) 272-299). The degrees of freedom are Satterthwaite's for clusters whose items are fully correlated.
    """
    total, groups = counts @ items, counts.sum()
    mean = float(counts @ sums / total)
    left_out = (sums - items * mean) / np.maximum(1 - items / total, CLOSE)
    error = float(np.sqrt(counts @ left_out**2 * (groups - 1) / groups) / total)
    effective = float(counts @ items**2) ** 2 / float(counts @ items**4)
    return mean, error, max(effective - 1, 1.0)
