"""Looks, the interim analyses for early stopping: when they happen, and each look's share of the error probability.

The first look is after the tiny stage, the next ones whenever the number of answered items has doubled, the last one at
the end. The looks before the last share a quarter of the policy's error probability evenly; the last look gets the
rest. Every bound at a look uses only the look's share, so that with the policy's confidence all bounds of all looks
hold at once. They are a confidence sequence, by the union bound over looks that grow geometrically (D. Darling and
H. Robbins, Confidence Sequences for Mean, Variance, and Median, PNAS 58 (1967) 66-68; "stitching" in S. Howard et al.,
Time-uniform, Nonparametric, Nonasymptotic Confidence Sequences, Annals of Statistics 49 (2021), arXiv 1810.08240). So
stopping because of the answers does not raise the error probability; `benchmarks/gate_errors.py` measures it.
"""

INTERIM = 0.25
"""The share of the error probability that all looks before the last use together."""
GROWTH = 2.0
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
