"""How long generated answers are, beside the baseline's, and how many of them the token limit cut.

Quantized reasoning models talk longer before they fail. An item that was asked several times counts once, with the
mean of its samples.
"""

from dataclasses import dataclass, replace

import numpy as np

from quantgate.components.evidence import margin
from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.further_items import finite, further, is_decided
from quantgate.components.evidence.limits import ClippedTest
from quantgate.components.evidence.margin import RELATIVE, Pairs


@dataclass(frozen=True)
class GrowthTest:
    """The test of how much longer the variant's answers are: the growth of the mean number of tokens, 0.2 is 20 %.

    No answer is longer than the limit of tokens, so that lengths as shares of it have the bounds of a relative
    drop; the growth is the negative drop. Lengths are fractional values, for which the bounds are a conjecture (see
    `margin`).
    """

    lengths: Pairs
    """The baseline's and the variant's lengths, as shares of the most tokens that an answer may have."""
    informative: bool = True

    @property
    def estimate(self) -> float:
        """The measured growth; the baseline's answers are not empty."""
        return -(margin.drop([self.lengths], RELATIVE) or 0.0)

    def decidable(self, _limit: float) -> bool:
        """Always True: this test has no noise floor."""
        return True

    def p_within(self, limit: float) -> float:
        """The p-value against "the growth is the limit or more"."""
        return margin.p_beyond([self.lengths], RELATIVE, -limit)

    def p_beyond(self, limit: float) -> float:
        """The p-value against "the growth is the limit or less"."""
        return margin.p_within([self.lengths], RELATIVE, -limit)

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound; None if there is none."""
        return finite(-margin.lower([self.lengths], RELATIVE, alpha))

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound."""
        return -margin.upper([self.lengths], RELATIVE, alpha)

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, as in DropTest; None if no number does."""
        return further(
            lambda times: is_decided(replace(self, lengths=self.lengths.times(times)), limit, alpha), self.lengths.items
        )


def growth_test(baseline: Answers, variant: Answers) -> GrowthTest | None:
    """The test of the answers' growth on the same items; None if a length, or the most tokens of an answer, is unknown.

    None too if the baseline's answers are empty.
    """
    before, after = baseline.numbers("answer_tokens"), variant.numbers("answer_tokens")
    limits = baseline.numbers("answer_limit"), variant.numbers("answer_limit")
    if before is None or after is None or limits[0] is None or limits[1] is None or not before.any():
        return None
    most = max(limits[0].max(), limits[1].max(), before.max(), after.max())
    return GrowthTest(margin.pairs(before / most, after / most, baseline.clusters))


def cut_test(variant: Answers) -> ClippedTest | None:
    """The test of the share of the variant's answers that are cut; None for answers that are not generated.

    Only generated answers have a limit of tokens.
    """
    cut = variant.numbers("cut")
    if cut is None or variant.numbers("answer_limit") is None:
        return None
    return ClippedTest(margin.pairs(cut, np.zeros(len(cut)), variant.clusters), most=1.0)
