"""The probability that a weighted sum of gamma variables is at least 0, with weights of both signs.

The p-value of every drop in `margin` is such a probability: each item has a random weight.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Numbers = NDArray[np.float64]

INTEGRALS = ((32, 5.0), (96, 6.0), (300, 7.5), (1000, 9.0), (4000, 11.0))
"""Number of points and upper end of the tail integral; the next pair is used until two estimates agree."""
AGREEMENT, TINIEST = 1e-6, 1e-13
"""Relative and absolute difference up to which two estimates of the tail agree."""


def tail(values: Numbers, counts: Numbers) -> float:
    """P(sum of values_j G_j >= 0) for independent gamma variables G_j of shapes counts_j (scale 1)."""
    matters = (values != 0) & (counts > 0)
    values, counts = values[matters], counts[matters]
    if not len(values) or values.min() > 0:
        return 1.0
    if values.max() < 0:
        return 0.0
    return 1 - _upper_tail(-values, counts) if values @ counts > 0 else _upper_tail(values, counts)


def _upper_tail(values: Numbers, counts: Numbers) -> float:
    """The tail for terms of both signs with a mean of at most 0.

    It inverts the moment generating function along two paths through the saddlepoint (S. Rice's method, as in
    C. Helstrom, IEEE Trans. AES 32 (1996) 1180-1184). On the straight vertical path the integrand falls like that of a
    normal distribution, unless a few terms hold most of the variance; then it falls on the path bent like the steepest
    descent. Either path may fail. So both are integrated with more and more points, until the two agree or one agrees
    with its own earlier estimate.
    """
    end = 1 / values.max()

    def slope(s: float) -> float:
        return float(counts @ (values / (1 - s * values)) - 1 / s)

    point = brentq(slope, 1e-12 * end, end * (1 - 1e-13), xtol=1e-9 * end)
    rates = values / (1 - point * values)
    second = float(counts @ rates**2) + 1 / point**2
    steepest = (float(counts @ rates**3) - 1 / point**3) / (3 * second)
    estimates: list[float] = []
    for nodes, reach in INTEGRALS:
        steps = (np.arange(nodes) + 0.5) * (reach / nodes)
        height, widths = np.sinh(steps) / np.sqrt(second), np.cosh(steps) / np.sqrt(second) * (reach / nodes)
        for bend in (0.0, steepest):
            slack = 1 + 2 * abs(bend) * height  # the path's slope stays limited: at most 1 across for 2 up
            path = point + bend * height**2 / slack + 1j * height
            direction = 2 * bend * height * (slack - abs(bend) * height) / slack**2 + 1j
            with np.errstate(over="ignore", invalid="ignore"):
                transform = np.exp(-(counts @ np.log(1 - np.outer(values, path)))) / path
                p = float((transform * direction * widths).sum().imag / np.pi)
            if any(abs(p - earlier) <= AGREEMENT * abs(p) + TINIEST for earlier in estimates[-2:]):
                return min(max(p, 0.0), 1.0)
            estimates.append(p)
    return min(max(estimates[-2], 0.0), 1.0)
