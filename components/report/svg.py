"""The drawing tools of the report's plots: a scale, and the elements of an inline SVG."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from markupsafe import Markup

WIDTH = 420
LEFT, RIGHT = 58, 400


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels, with ticks at round values."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float) -> Self:
        """The scale from the tick at or below the smallest value to the tick at or above the largest."""
        known = list(values)
        low, high = min(known), max(known)
        if high - low < 1e-9:
            low, high = low - 0.01, high + 0.01
        step = tick_step(low, high)
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Each tick's value and its label, with as many decimals as the step has."""
        step = tick_step(self.low, self.high)
        digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if leading(step) == 2.5 else 0)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [(index * step, f"{index * step:,.{digits}f}".replace("-", "−")) for index in range(first, last + 1)]


def svg(height: float, title: str, drawn: Iterable[Markup]) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, title, Markup("").join(drawn)
    )


def standing_alone(drawn: Markup, style: str) -> str:
    """The content of a separate SVG file: the plot with the page's light colours, on white."""
    colours = ":root { --card: #ffffff; --ink: #1b1e22; --soft: #5b626b; --line: #d9dcdf; color: #1b1e22; }"
    opening, _, rest = str(drawn).partition(">")
    opening = opening.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" ', 1)
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f"{opening}><style>{colours}\n{style}</style>{ground}{rest}\n"


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "axis") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, words)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def grid_line(y: float, label: str) -> Markup:
    return line(LEFT, y, RIGHT, y, "grid") + text(LEFT - 6, y + 4, label, "end")


def tick_below(x: float, y: float, label: str) -> Markup:
    return line(x, y, x, y + 5, "tick") + text(x, y + 18, label, "middle")


def tick_line(x: float, top: float, bottom: float, label: str) -> Markup:
    return line(x, top, x, bottom, "grid") + text(x, bottom + 16, label, "middle")


def whisker(x: float, low: float, high: float) -> Markup:
    return (
        line(x, low, x, high, "whisker")
        + line(x - 4, low, x + 4, low, "whisker")
        + line(x - 4, high, x + 4, high, "whisker")
    )


def shortened(words: str, letters: int) -> str:
    return words if len(words) <= letters else f"{words[: letters - 1]}…"


def tick_step(low: float, high: float) -> float:
    """The smallest of 1, 2, 2.5 or 5 times a power of ten that divides the range into at most six steps."""
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if (high - low) / (factor * power) <= 6 + 1e-9)


def leading(step: float) -> float:
    return round(step / 10.0 ** math.floor(math.log10(step) + 1e-9), 6)
