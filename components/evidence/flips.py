"""Changes that a drop does not show: flips in both directions, divergence of the choices' probabilities, perplexity.

The interval of a flip rate and McNemar's p-value are exact. `Mean` is a t-test: it assumes a mean that is about normal.

A model that loses as many right answers as it gains keeps its score, but its users notice the changed answers
(A. Dutta et al., Accuracy is Not All You Need, arXiv 2407.09141).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv, stdtr, stdtrit

from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.clusters import jackknife
from quantgate.components.evidence.margin import Numbers, summed_by

RIGHT = 0.5
"""A score above this is a right answer."""


@dataclass(frozen=True)
class Flips:
    """The counts of answers that changed between right and wrong, from the baseline to the variant."""

    items: int
    lost: int
    """Items that the baseline answers right and the variant wrong."""
    gained: int
    """Items that the baseline answers wrong and the variant right."""

    @property
    def rate(self) -> float:
        """The share of the items whose answer flipped."""
        return (self.lost + self.gained) / self.items

    def interval(self, confidence: float) -> tuple[float, float]:
        """Clopper and Pearson's exact two-sided interval of the rate."""
        flipped, tail = self.lost + self.gained, (1 - confidence) / 2
        low = float(betaincinv(flipped, self.items - flipped + 1, tail)) if flipped else 0.0
        high = float(betaincinv(flipped + 1, self.items - flipped, 1 - tail)) if flipped < self.items else 1.0
        return low, high

    @property
    def p(self) -> float:
        """McNemar's exact two-sided p-value against "losses and gains are equally likely"; 1 if nothing flipped."""
        return min(1.0, 2 * float(bdtr(min(self.lost, self.gained), self.lost + self.gained, 0.5)))


@dataclass(frozen=True)
class Mean:
    """An estimated mean, with its standard error and the degrees of freedom of its t-test."""

    mean: float
    error: float
    freedom: float

    def p_within(self, limit: float) -> float:
        """The p-value against "the mean is `limit` or more"."""
        return self._cdf(self.mean - limit)

    def p_beyond(self, limit: float) -> float:
        """The p-value against "the mean is `limit` or less"."""
        return self._cdf(limit - self.mean)

    def upper(self, alpha: float) -> float:
        """The one-sided upper bound of the mean."""
        return self.mean + self.error * float(stdtrit(self.freedom, 1 - alpha))

    def lower(self, alpha: float) -> float:
        """The one-sided lower bound of the mean."""
        return self.mean - self.error * float(stdtrit(self.freedom, 1 - alpha))

    def _cdf(self, distance: float) -> float:
        if self.error == 0 or not np.isfinite(self.error):  # identical values give no estimate of the error
            return 0.5
        return float(stdtr(self.freedom, distance / self.error))


def flips(before: Numbers, after: Numbers) -> Flips:
    """The flips between two score arrays (n,) of the same items."""
    right_before, right_now = before > RIGHT, after > RIGHT
    return Flips(len(before), int((right_before & ~right_now).sum()), int((right_now & ~right_before).sum()))


def divergences(baseline: Answers, variant: Answers) -> Numbers | None:
    """Each item's KL divergence KL(baseline ‖ variant) of the choices' distributions, in nats (n,).

    A distribution is the softmax of the choices' log-likelihoods. None if an item has fewer than two choices, if the
    two models' numbers of choices differ, or if a log-likelihood is not finite.
    """
    (before, lengths), (after, variant_lengths) = baseline.logliks(), variant.logliks()
    if not len(lengths) or lengths.min() < 2 or not np.array_equal(lengths, variant_lengths):
        return None
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return None
    log_p, log_q = (_log_softmax(logliks, starts, lengths) for logliks in (before, after))
    return np.maximum(np.add.reduceat(np.exp(log_p) * (log_p - log_q), starts), 0.0)


def divergence(baseline: Answers, variant: Answers) -> Mean | None:
    """The mean of `divergences`, in nats; None if they are None."""
    nats = divergences(baseline, variant)
    return None if nats is None else mean_of(nats, np.ones(len(nats)), baseline.clusters)


def perplexity_ratio(baseline: Answers, variant: Answers) -> Mean | None:
    """The log of the variant's perplexity over the baseline's, documents as clusters; None without perplexity."""
    if baseline.units is None or variant.units is None:
        return None
    return mean_of(baseline.scores - variant.scores, baseline.units, None)


def mean_of(sums: Numbers, units: Numbers, clusters: NDArray[np.int64] | None) -> Mean:
    """The sum of `sums` (n,) over the sum of `units` (n,), with the jackknife error over items or clusters."""
    if clusters is not None:
        sums, units = summed_by(clusters, sums), summed_by(clusters, units)
    mean, error, freedom = jackknife(sums, units, np.ones(len(sums)))
    return Mean(mean, error if len(sums) > 1 else np.inf, freedom)


def _log_softmax(values: Numbers, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Numbers:
    shifted = values - np.repeat(np.maximum.reduceat(values, starts), lengths)
    totals = np.repeat(np.add.reduceat(np.exp(shifted), starts), lengths)
    return np.asarray(shifted - np.log(totals), dtype=np.float64)
