"""Margins of multiple-choice items, and scores from them that say by how much an answer is right or wrong.

An item's margin is the log-likelihood of the right choice less that of the best wrong one, normalised as the task's
metric does it (acc: as it is; acc_norm: per character). It is above 0 where the answer is right. `smoothed` scores an
item as Phi(margin / tau) instead of 0 or 1. tau is the spread of the margin's change from the baseline to the variant,
after the variant's margins are rescaled to the baseline's median size. Near ties then count a little instead of all or
nothing, so the drop of these scores has a variance that is a third of the answers' or less.

It is another quantity than the drop of the score: the two agree if the change of the margins is spread smoothly around
0, and they differ if, for instance, right answers become surer while others get lost. No method can do without such an
assumption: if nothing is assumed, no estimate of a mean is asymptotically better than the mean itself (A. van der
Vaart, Asymptotic Statistics, 1998, section 25.3). `benchmarks/gate_margins.py` counts the errors for many ways of
damage.

tau is the standard deviation, or the same from the median absolute deviation if that is smaller: of all items, or of
those near 0. A smaller tau is closer to right and wrong.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import ndtr

from quantgate.components.evidence import flips, margin
from quantgate.components.evidence.answers import Answers, list_ids
from quantgate.components.evidence.margin import Numbers, Pairs

METRICS = ("acc", "acc_norm")
"""The metrics with margins; acc_norm divides a choice's log-likelihood by its number of characters."""
DEVIATION = 1.4826
"""A normal distribution's standard deviation over its median absolute deviation."""
NEAR, FEWEST_NEAR = 2.0, 20
"""An item is near 0 within so many deviations; fewer such items give no deviation of their own."""
FEW_PAIRS = 200
"""With more distinct pairs of scores they are put on a grid: nearly all items have a pair of their own."""
CONTRADICTED = 0.05
"""The two-sided p-value up to which the drop by margins differs from the drop by answers beyond chance."""
COLUMNS = ("target", "logliks", "choices", "metric", "score")


@dataclass(frozen=True)
class Smoothed:
    """Two models' scores by margins on one task."""

    pairs: Pairs
    tau: float
    """In nats, or for acc_norm in nats per character."""
    distance: flips.Mean
    """The drop by right and wrong answers less the drop by margins, in points of 1."""

    @property
    def contradicted(self) -> bool:
        """Whether the answers contradict the margins: their drops differ by more than chance."""
        return 2 * min(self.distance.p_within(0.0), self.distance.p_beyond(0.0)) <= CONTRADICTED

    def weighing(self, weight: float) -> "Smoothed":
        """The same with this weight in an average of several tasks."""
        return replace(self, pairs=replace(self.pairs, weight=weight))


def margins(records: pyarrow.Table) -> pyarrow.Array:
    """Each record's margin; null where it has none: no choices, another metric, or no right choice known.

    Of two choices the score says which one is right. The records have the columns COLUMNS.
    """
    values, counts = _normalised(records)
    targets = pc.fill_null(records["target"], -1).to_numpy().astype(np.int64)
    scores = np.asarray(records["score"].to_numpy(), dtype=np.float64)
    ends = np.cumsum(counts)
    starts, result = ends - counts, np.full(len(counts), np.nan)
    named = (counts > 1) & (targets >= 0) & (targets < counts)
    if named.any():
        right = starts + targets
        others = values.copy()
        others[right[named]] = -np.inf
        items = np.repeat(named, counts)
        firsts = np.cumsum(counts[named]) - counts[named]
        result[named] = values[right[named]] - np.maximum.reduceat(others[items], firsts)
    unnamed = np.flatnonzero((counts == 2) & (targets < 0) & np.isin(scores, (0.0, 1.0)))
    apart = np.abs(values[starts[unnamed]] - values[starts[unnamed] + 1])
    result[unnamed] = np.where(scores[unnamed] == 1, apart, -apart)
    return pyarrow.array(result, mask=~np.isfinite(result))


def _normalised(records: pyarrow.Table) -> tuple[Numbers, NDArray[np.int64]]:
    """The choices' log-likelihoods as the metric compares them, and their number per record; NaN without metric."""
    logliks = records["logliks"].cast(pyarrow.list_(pyarrow.float64())).combine_chunks()
    counts = pc.fill_null(pc.list_value_length(logliks), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = np.array(logliks.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
    metrics = records["metric"].combine_chunks()
    known = pc.is_in(metrics, pyarrow.array(METRICS)).to_numpy(zero_copy_only=False)
    per_character = pc.fill_null(pc.equal(metrics, "acc_norm"), False).to_numpy(zero_copy_only=False)
    if per_character.any():
        choices = records["choices"].cast(pyarrow.list_(pyarrow.string())).combine_chunks()
        texts = pc.fill_null(pc.list_value_length(choices), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        known &= ~per_character | (texts == counts)
        per_character &= known
        lengths = pc.utf8_length(choices.flatten()).to_numpy(zero_copy_only=False)
        values[np.repeat(per_character, counts)] /= np.maximum(lengths[np.repeat(per_character, texts)], 1)
    values[~np.repeat(known, counts)] = np.nan
    return values, counts


def unusable(baseline: Answers, variant: Answers) -> str:
    """Why these answers have no scores by margins; empty if they have."""
    paired = baseline.only(variant.table["id"])
    for answers in (paired, variant):
        if not answers.logliks()[1].any():
            return "its answers have no choices"
        values = answers.numbers("margin")
        if values is None or not np.isfinite(values).all():
            return (
                "the records of some items lack a second choice, a log-likelihood or the right choice, or its metric is"
                " neither acc nor acc_norm"
            )
        wrong = (np.sign(values) * (2 * answers.scores - 1) < 0) | ~np.isin(answers.scores, (0.0, 1.0))
        if wrong.any():
            items = list_ids(answers.table["id"].filter(pyarrow.array(wrong)))
            return f"the log-likelihoods do not give the scores: {items}"
    before, after = paired.numbers("margin"), variant.numbers("margin")
    if before is None or after is None or not (np.median(np.abs(before)) > 0 and np.median(np.abs(after)) > 0):
        return "half of the margins or more are 0"
    return "" if spread(before, rescaled(before, after)) > 0 else "the margins of half of the items did not change"


def smoothed(baseline: Answers, variant: Answers) -> Smoothed | None:
    """Two models' scores by margins; None if `unusable` says why not."""
    if unusable(baseline, variant):
        return None
    paired = baseline.only(variant.table["id"])
    before, after = paired.numbers("margin"), variant.numbers("margin")
    if before is None or after is None:
        return None
    return smoothed_margins(before, after, paired.scores - variant.scores, paired.clusters)


def smoothed_margins(
    before: Numbers, after: Numbers, lost: Numbers, clusters: NDArray[np.int64] | None = None
) -> Smoothed:
    """The scores by the margins of two models (n,), of which `lost` is the baseline's score less the variant's (n,)."""
    x, y, tau = scores_of(before, after)
    distance = flips.mean_of(lost - (x - y), np.ones(len(x)), clusters)
    return Smoothed(margin.pairs(x, y, clusters, most=FEW_PAIRS), tau, distance)


def scores_of(before: Numbers, after: Numbers) -> tuple[Numbers, Numbers, float]:
    """The scores by the margins of two models (n,), from 0 to 1, and tau. tau must be above 0."""
    after = rescaled(before, after)
    tau = spread(before, after)
    return ndtr(before / tau), ndtr(after / tau), tau


def rescaled(before: Numbers, after: Numbers) -> Numbers:
    """The variant's margins with the baseline's median size: another temperature of the logits changes no score."""
    return np.asarray(after * (np.median(np.abs(before)) / np.median(np.abs(after))), dtype=np.float64)


def spread(before: Numbers, after: Numbers) -> float:
    """tau of the module's docstring."""
    changes = after - before
    all_items = min(float(np.std(changes)), _deviation(changes))
    near = np.minimum(np.abs(before), np.abs(after)) <= NEAR * all_items
    return min(all_items, _deviation(changes[near])) if near.sum() >= FEWEST_NEAR else all_items


def _deviation(values: Numbers) -> float:
    return DEVIATION * float(np.median(np.abs(values - np.median(values))))
