"""Looks, the interim analyses for early stopping: when they happen, and each look's share of the error probability.

The first look is after the tiny stage, the next ones whenever the number of answered items has doubled, the last one at
the end. The looks before the last share a quarter of the policy's error probability evenly; the last look gets the
rest. Every bound at a look uses only the look's share, so that with the policy's confidence all bounds of all looks
hold at once. They are a confidence sequence, by the union bound over looks that grow geometrically (D. Darling and
H. Robbins, Confidence Sequences for Mean, Variance, and Median, PNAS 58 (1967) 66-68; "stitching" in S. Howard et al.,
Time-uniform, Nonparametric, Nonasymptotic Confidence Sequences, Annals of Statistics 49 (2021), arXiv 1810.08240). So
stopping because of the answers does not raise the error probability: that is proven if each look's bound holds, and
`benchmarks/gate_errors.py` measures it.

The answers at a look are a random sample of all items, with one exception: the first look at a task whose tiny stage
is tinyBenchmarks. Its 100 items are chosen, so they are a population of their own: their bounds hold for items like
them, and say nothing about the whole benchmark. The first look can therefore only reject, and only where the lower
bound is over the limit by more than SCREEN_ALLOWANCE. The later looks are at random samples again, in which a chosen
item is as likely as any other; the union bound over the looks holds whatever items a look is at.
"""

INTERIM = 0.25
"""The share of the error probability that all looks before the last use together."""
GROWTH = 2.0
SCREEN_ALLOWANCE = 0.04
"""What the drop of a score on chosen items may differ from that on all items, in points of 1.

tinyBenchmarks estimates a score "within about 2% error on average" from 100 chosen items (F. Maia Polo et al., arXiv
2402.14992, section 1). A drop is the difference of two scores: twice that error, as if the two errors had opposite
signs. The errors of a model and of its quantized copy on the same items mostly have the same sign, so this is wide.
Known gap: the published error is an average over models, for scores that weight the items; here every item counts the
same, and the bias of that must cancel between the two models.
"""
LAST_STEP = 0.7
"""If a look would come at this share of the items or later, it is the last look, at 1, instead."""


def look_shares(tiny: int, full: int) -> tuple[float, ...]:
    """The share of all items that is answered at each look, from the tiny stage's to 1."""
    share, shares = tiny / full, []
    while share < LAST_STEP:
        shares.append(share)
        share *= GROWTH
    return (*shares, 1.0)


def error_share(look: int, looks: int) -> float:
    """The share of the error probability that look `look` (1 to `looks`) may use; the shares add up to 1."""
    if looks == 1:
        return 1.0
    return 1 - INTERIM if look == looks else INTERIM / (looks - 1)
