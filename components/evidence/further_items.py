"""How many further items decide a limit, and what every test of a limit can say."""

import math
from collections.abc import Callable
from typing import Protocol

from scipy.special import ndtr, ndtri

POWER = 0.8
MOST_FURTHER = 10_000_000
"""No number is recommended above this many further items."""


class LimitTest(Protocol):
    """The test of one limit."""

    @property
    def estimate(self) -> float | None:
        """The measured value."""

    @property
    def informative(self) -> bool:
        """Whether the answers can show anything about the limit."""

    def decidable(self, limit: float, /) -> bool:
        """Whether the limit is at or above the noise floor."""

    def p_within(self, limit: float) -> float:
        """The p-value against "it is the limit or more"."""

    def p_beyond(self, limit: float) -> float:
        """The p-value against "it is the limit or less"."""

    def upper(self, alpha: float) -> float | None:
        """The one-sided upper bound; None if there is none."""

    def lower(self, alpha: float) -> float | None:
        """The one-sided lower bound; None if there is none."""

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power; None if no number does."""


def further(decides: Callable[[float], bool], items: float) -> int | None:
    """The smallest number of further items, beyond `items`, that decides it; None if no number does.

    `decides` gets the total number of items as a multiple of `items`.
    """
    enough = 2.0
    while not decides(enough):
        if items * enough > MOST_FURTHER:
            return None
        enough *= 2
    too_few = enough / 2
    while (enough - too_few) * items > 1 and enough / too_few > 1.001:
        middle = (too_few + enough) / 2
        too_few, enough = (too_few, middle) if decides(middle) else (middle, enough)
    return max(math.ceil((enough - 1) * items), 1)


def is_decided(test: LimitTest, limit: float, alpha: float) -> bool:
    """Whether the test decides the limit, with the power for which `further` counts items."""
    return min(test.p_within(limit), test.p_beyond(limit)) <= with_power(alpha)


def with_power(alpha: float) -> float:
    """The p-value that the median sample needs so that four of five samples (80 % power) reach `alpha`."""
    return float(ndtr(-(ndtri(1 - alpha) + ndtri(POWER))))


def finite(value: float) -> float | None:
    """The value; None for an infinite one."""
    return value if math.isfinite(value) else None
