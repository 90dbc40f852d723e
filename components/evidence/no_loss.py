"""A limit of 0 on flows: the variant may lose none of the cases that the baseline passes.

No number of questions shows that a true drop is 0: a test against it could only be passed by a variant that is better.
So a limit of 0 is about these cases themselves, as a regression test has them: one lost case is over the limit, and
gained cases do not make up for it. `upper` says what the cases show beyond themselves: with k of n lost, Clopper and
Pearson's exact upper bound of the share of such cases that the variant loses. With none of n lost it is
1 - alpha^(1/n): at 95 % confidence 19.3 % for 14 cases, 4.9 % for 59, 1 % for 299.

Several checks of one case count once: they are not independent.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import betaincinv

from components.evidence.answers import Answers
from components.evidence.margin import Pairs

SMALLEST = 1e-9


@dataclass(frozen=True)
class NoLossTest:
    """The test of a limit of 0."""

    lost: float
    """Cases on which the variant's score is lower than the baseline's."""
    cases: float
    """Cases that the variant can lose: on which the baseline's score is above 0."""
    items: float = 0.0
    """All cases, those included that the baseline does not pass."""
    unstable: float = 0.0
    """Cases that the baseline itself loses in a second pass."""

    @property
    def estimate(self) -> float | None:
        """The share of the cases that is lost; None if the baseline passes none."""
        return self.lost / self.cases if self.cases else None

    @property
    def informative(self) -> bool:
        """Whether the baseline passes any case."""
        return self.cases > 0

    def decidable(self, _limit: float) -> bool:
        """Whether the baseline's own second pass loses none."""
        return self.unstable == 0

    def p_within(self, _limit: float) -> float:
        """0 if no case is lost, else 1; 1 if nothing could be lost."""
        return 0.0 if self.informative and self.decidable(0) and self.lost < SMALLEST else 1.0

    def p_beyond(self, _limit: float) -> float:
        """0 if a case is lost, else 1."""
        return 0.0 if self.decidable(0) and self.lost >= SMALLEST else 1.0

    def upper(self, alpha: float) -> float | None:
        """The upper bound of the share of such cases that is lost."""
        if not self.informative:
            return None
        return 1.0 if self.lost >= self.cases else float(betaincinv(self.lost + 1, self.cases - self.lost, 1 - alpha))

    def lower(self, alpha: float) -> float | None:
        """The lower bound of that share."""
        if not self.informative:
            return None
        return float(betaincinv(self.lost, self.cases - self.lost + 1, alpha)) if self.lost >= SMALLEST else 0.0

    def further_items(self, _limit: float, _alpha: float) -> int | None:
        """None: more cases do not bring back a lost one."""
        return None

    def times(self, factor: float) -> "NoLossTest":
        """The test on `factor` times as many cases like these."""
        return replace(self, lost=self.lost * factor, cases=self.cases * factor, items=self.items * factor)


def no_loss_test(baseline: Answers, variant: Answers, again: Answers | None = None) -> NoLossTest:
    """The test on the variant's items, of which the baseline has answered all."""
    paired = baseline.only(variant.table["id"])
    lost, cases = _lost(paired, variant)
    unstable = 0.0
    if again is not None:
        first = paired.only(again.table["id"])
        unstable, _ = _lost(first, again.only(first.table["id"]))
    return NoLossTest(lost, cases, float(variant.items), unstable)


def assumed_no_loss(pairs: Pairs) -> NoLossTest:
    """The test on assumed answers."""
    lost = float(pairs.counts[pairs.after < pairs.before - SMALLEST].sum())
    return NoLossTest(lost, float(pairs.counts[pairs.before > 0].sum()), pairs.items)


def _lost(before: Answers, after: Answers) -> tuple[float, float]:
    """How many cases are lost, and how many could be; a cluster is one case."""
    clusters = before.clusters if before.clusters is not None else np.arange(before.items)
    lost, passed = after.scores < before.scores - SMALLEST, before.scores > 0
    return float(len(np.unique(clusters[lost]))), float(len(np.unique(clusters[passed])))
