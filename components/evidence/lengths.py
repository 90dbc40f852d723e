"""How long generated answers are, beside the baseline's, and how many of them the token limit cut.

Quantized reasoning models talk longer before they fail. An item that was asked several times counts once, with the
mean of its samples.
"""

import numpy as np

from components.evidence import margin
from components.evidence.answers import Answers
from components.evidence.limits import ClippedTest, GrowthTest


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
