"""The answers of a variant that does not exist yet, from assumptions: expected, or drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantgate.components.evidence.clusters import Clusters
from quantgate.components.evidence.margin import Pairs
from quantgate.components.evidence.power import Expected

Numbers = NDArray[np.float64]

BEFORE, AFTER = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0])
"""The scores of items that are lost, gained, right both times and wrong both times."""
SCORE = 0.6
"""The baseline's score, where it is not known."""
SAMPLED_FLIPS = 0.16
"""The share of questions on which two answers of one model differ, if answers are sampled at a temperature: assumed,
for arithmetic in several steps. Only this chance is averaged out by several answers to a question; flips beyond it
stay. How the chance is spread over the questions does not matter for the variance of a mean over a question's answers,
which is this share divided by their number."""
QUANTILES = 50


@dataclass(frozen=True)
class PlannedTask:
    """A task of a run that has not started."""

    name: str
    items: int
    chance: float = 0.0
    score: float = SCORE
    """The baseline's score."""
    samples: int = 1
    """How many answers are generated to each item."""
    sampled: bool = False
    """Whether its answers are sampled at a temperature: then two answers of one model may differ."""
    clusters: tuple[int, ...] = ()
    """The clusters' relative sizes; empty for none, or for unknown ones."""
    generated: bool = False
    """Whether the model writes the answers, so that several may be generated to each item."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The number of items in each cluster that has any; all items, if there are no clusters."""
        if len(self.clusters) < 2:
            return np.array([self.items])
        ends = np.rint(self.items * np.cumsum(self.clusters) / sum(self.clusters)).astype(np.int64)
        sizes = np.diff(ends, prepend=0)
        return sizes[sizes > 0]


@dataclass(frozen=True)
class Assumed:
    """What is assumed of a variant."""

    name: str
    flips: float
    """The share of the answers that become right or wrong."""
    drop: float = 0.0
    """The true drop on every task, as a share of the baseline's score."""
    divergence: float = 0.0
    """The mean KL divergence of the choices, in nats."""

    def shares(self, score: float) -> Numbers:
        """The shares of the items that are lost, gained, right both times and wrong both times.

        Fewer answers flip where a baseline is nearly always right, or nearly always wrong.
        """
        fewer = self.drop * score
        flips = max(min(self.flips, 2 * (1 - score) + fewer, 2 * score - fewer), fewer)
        lost, gained = (flips + fewer) / 2, (flips - fewer) / 2
        return np.asarray(np.maximum([lost, gained, score - lost, 1 - score - gained], 0.0), dtype=np.float64)


COPY = Assumed("a copy of the baseline", 0.0)
LOSSLESS = Assumed("lossless INT8", 0.02, 0.0, 0.04)
TYPICAL = Assumed("typical INT4", 0.08, 0.01, 0.15)
"""Assumptions, no measurements of your model.

8 bits flip a few answers in a hundred and lose nothing on average, 4 bits flip several times as many (A. Dutta et al.,
Accuracy is Not All You Need, arXiv 2407.09141). A model of 135M parameters flips more: 4.8 % at int8 and 16 % at INT4
in our demo. The divergence of INT8 is that of the demo (docs/results.md).
"""


def in_effect(task: PlannedTask, assumed: Assumed) -> Assumed:
    """The variant as its mean scores over an item's answers show it: several sampled answers act like fewer flips.

    They are as many as give the mean of the answers its variance. Simplified: a mean of K answers takes K + 1 values.
    `benchmarks/gate_samples.py` draws every answer, and its probabilities differ by at most 5 points.
    """
    if not task.sampled or assumed == COPY:
        return assumed
    by_chance = min(SAMPLED_FLIPS, 2 * task.score, 2 * (1 - task.score))
    return replace(assumed, flips=by_chance / task.samples + max(assumed.flips - by_chance, 0.0))


def expected(task: PlannedTask, assumed: Assumed) -> tuple[Pairs, Sequence[Pairs]]:
    """The expected answers of the task, and of each of its clusters."""
    shares = in_effect(task, assumed).shares(task.score)
    together = Expected(float(shares[:2].sum()), assumed.drop, task.score, task.clusters).pairs(task.items)
    return together, [Pairs(BEFORE, AFTER, size * shares) for size in task.sizes] if len(task.clusters) > 1 else []


def drawn(task: PlannedTask, assumed: Assumed, source: np.random.Generator) -> tuple[Pairs, Sequence[Pairs]]:
    """One variant's answers, drawn at random: of the task, and of each of its clusters."""
    shares = in_effect(task, assumed).shares(task.score)
    counts = source.multinomial(task.sizes, shares / shares.sum()).astype(float)
    clusters = [Pairs(BEFORE, AFTER, row) for row in counts] if len(counts) > 1 else []
    sums = Clusters(task.sizes.astype(np.float64), counts @ BEFORE, counts @ AFTER) if clusters else None
    return Pairs(BEFORE, AFTER, counts.sum(axis=0), sums), clusters


def divergences(task: PlannedTask, assumed: Assumed, most: float) -> Pairs:
    """The items' expected divergences as shares of `most`: they fall off exponentially."""
    nats = -assumed.divergence * np.log1p(-(np.arange(QUANTILES) + 0.5) / QUANTILES)
    return Pairs(np.minimum(nats, most) / most, np.zeros(QUANTILES), np.full(QUANTILES, task.items / QUANTILES))
