"""How a score moved between two models, and the words for it that never contradict the comparison made."""

from dataclasses import dataclass

from components.gate.policy import side

MOST_DIGITS = 12
"""Digits after the point beyond which nothing is told apart: the comparison itself ends at policy.EDGE."""


@dataclass(frozen=True)
class Change:
    """How one score moved from the baseline, where it was above 0, to the variant."""

    what: str
    before: float
    after: float

    @property
    def drop(self) -> float:
        """Relative to the baseline: 0.02 is a loss of 2 %; negative is a gain."""
        return (self.before - self.after) / self.before

    def told(self, *bounds: float) -> str:
        """`gsm8k fell 5.6 % (0.412 → 0.389)`, with the digits it takes to see the side of each bound."""
        if side(self.drop, 0) == 0:
            return f"{self.what} stayed at {self.before:.3f}"
        verb = "fell" if self.drop > 0 else "rose"
        return f"{self.what} {verb} {percent(abs(self.drop), *bounds)} ({apart(self.before, self.after)})"

    def named(self, *bounds: float) -> str:
        """`drop of 2.6 %` or `gain of 0.3 %`, with the digits it takes to see the side of each bound."""
        return f"{'gain' if side(self.drop, 0) < 0 else 'drop'} of {percent(abs(self.drop), *bounds)}"


def percent(share: float, *bounds: float) -> str:
    """`5.6 %` for 0.0558; more digits where one would show the share on, or across, 0 or a bound that it is not."""
    for digits in range(1, MOST_DIGITS):
        shown = f"{share * 100:.{digits}f}"
        if all(side(float(shown) / 100, bound) == side(share, bound) for bound in (0.0, *bounds)):
            break
    return f"{shown} %"


def apart(before: float, after: float) -> str:
    """`0.412 → 0.389`; more digits where three would show two scores as one."""
    for digits in range(3, MOST_DIGITS):
        shown = f"{before:.{digits}f}", f"{after:.{digits}f}"
        if shown[0] != shown[1]:
            break
    return " → ".join(shown)
