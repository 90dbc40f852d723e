"""The noise floor: how much the mean score differs between two passes of the baseline over the same items."""

import math
from dataclasses import dataclass

from quantgate.components.evidence import margin
from quantgate.components.evidence.margin import Pairs, Scale

CLEARLY = 0.025
"""The error probability of each side: 5 % together."""


@dataclass(frozen=True)
class Noise:
    """Two passes of the baseline on one or several tasks, compared as the baseline is compared with a variant.

    Like with like: a limit on a drop is held against the drop or gain of the mean between the passes, and not against
    the share of answers that flip. Flips in both directions cancel in a mean, and what does not cancel is in the
    variant's own bounds, as they count each item's difference.
    """

    passes: tuple[Pairs, ...]
    """One a task; empty if the baseline ran once."""
    scale: Scale

    @property
    def floor(self) -> float:
        """The measured drop or gain, without its sign; 0 if not measured."""
        if not self.passes:
            return 0.0
        net = margin.drop(self.passes, self.scale)
        return math.inf if net is None else abs(net)

    def upper(self, alpha: float) -> float | None:
        """The largest drop or gain that the passes do not rule out, with `alpha` for both sides; None without one."""
        if not self.passes or not math.isfinite(self.floor):
            return None
        lowest = margin.lower(self.passes, self.scale, alpha / 2)
        bound = max(margin.upper(self.passes, self.scale, alpha / 2), -lowest)
        return bound if math.isfinite(bound) else None

    def clearly_above(self, limit: float) -> bool:
        """Whether the passes differ by more than the limit, beyond what few items explain."""
        if self.floor <= limit:
            return False
        if not math.isfinite(self.floor):
            return True
        drop = margin.p_beyond(self.passes, self.scale, limit)
        gain = margin.p_within(self.passes, self.scale, -limit)
        return min(drop, gain) <= CLEARLY
