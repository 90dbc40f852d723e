"""The change of a score between two models, printed with enough digits to agree with the exact comparison."""

import math
from dataclasses import dataclass

from quantgate.components.policies.policy import side

MOST_DIGITS = 12
"""The most digits after the point: a comparison with a bound ignores differences below policy.EDGE."""


@dataclass(frozen=True)
class Change:
    """The change of one score from the baseline to the variant; a relative drop needs a baseline above 0."""

    what: str
    before: float
    after: float
    relative: bool = True

    @property
    def drop(self) -> float:
        """0.02 is a loss of 2 % of the baseline's score, or of 2 points; negative is a gain."""
        lost = self.before - self.after
        return lost / self.before if self.relative else lost

    def describe(self, *bounds: float) -> str:
        """`gsm8k fell 5.6 % (0.412 → 0.389)`, with enough digits to see on which side of each bound it is."""
        if side(self.drop, 0) == 0:
            return f"{self.what} stayed at {self.before:.3f}"
        verb = "fell" if self.drop > 0 else "rose"
        return f"{self.what} {verb} {self.percent(abs(self.drop), *bounds)} ({apart(self.before, self.after)})"

    def describe_drop(self, *bounds: float) -> str:
        """`drop of 2.6 %` or `gain of 0.3 %`, with enough digits to see on which side of each bound it is."""
        return f"{'gain' if side(self.drop, 0) < 0 else 'drop'} of {self.percent(abs(self.drop), *bounds)}"

    def percent(self, share: float, *bounds: float) -> str:
        """`percent`, in points for an absolute drop."""
        return percent(share, *bounds, unit="%" if self.relative else "points")


def percent(share: float, *bounds: float, unit: str = "%") -> str:
    """`5.6 %` for 0.0558; more digits if rounding would move it to, or across, 0 or a bound."""
    for digits in range(1, MOST_DIGITS):
        shown = f"{share * 100:.{digits}f}"
        if all(side(float(shown) / 100, bound) == side(share, bound) for bound in (0.0, *bounds)):
            break
    return f"{shown} {unit}"


def apart(before: float, after: float) -> str:
    """`0.412 → 0.389`; more digits if the two scores would look the same."""
    for digits in range(3, MOST_DIGITS):
        shown = f"{before:.{digits}f}", f"{after:.{digits}f}"
        if shown[0] != shown[1]:
            break
    return " → ".join(shown)


def about(count: int) -> str:
    """`1,400` for 1,422: an estimate has only two significant digits."""
    return f"{float(f'{count:.2g}'):,.0f}"


def confidence_text(error: float) -> str:
    """`98.33 %` for the error probability 0.01667; with more digits where it would read `100 %`."""
    text = f"{100 * (1 - error):.4g}"
    if text == "100" and error > 0:
        text = f"{100 * (1 - error):.{1 - math.floor(math.log10(100 * error))}f}"
    return f"{text} %"
