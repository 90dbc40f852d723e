"""When a variant may be stopped early: how much of the error promise each look at the answers may use.

A variant is looked at after the tiny stage, then whenever twice as many items are answered, and at the end. The
looks before the last share a quarter of the promised error evenly, the last has the rest, and every bound of a look
keeps to its share. So with the promised probability all bounds of all looks hold at once: they are a confidence
sequence, by the union bound over looks that grow geometrically (D. Darling and H. Robbins, Confidence Sequences for
Mean, Variance, and Median, PNAS 58 (1967) 66-68; "stitching" in S. Howard et al., Time-uniform, Nonparametric,
Nonasymptotic Confidence Sequences, Annals of Statistics 49 (2021), arXiv 1810.08240). Whoever stops because of what
the answers say stays within the promise; `benchmarks/gate_errors.py` counts it.
"""

INTERIM = 0.25
"""The share of the error that the looks before the last have together."""
GROWTH = 2.0
LAST_STEP = 0.7
"""From this share of the items on, the next look is the last."""


def look_shares(tiny: int, full: int) -> tuple[float, ...]:
    """The share of all items that is answered at each look, from the tiny stage's to 1."""
    share, shares = tiny / full, []
    while share < LAST_STEP:
        shares.append(share)
        share *= GROWTH
    return (*shares, 1.0)


def error_share(look: int, looks: int) -> float:
    """The share of the promised error that look `look` (1 to `looks`) may use; the shares add up to 1."""
    if looks == 1:
        return 1.0
    return 1 - INTERIM if look == looks else INTERIM / (looks - 1)
