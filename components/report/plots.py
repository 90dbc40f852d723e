"""The two plots of the report as inline SVG: size against mean score, and the drops beside their limits.

Each is as wide as a phone and scales up; a variant keeps its shape and its colour in both.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from markupsafe import Markup

from components.report.limits import Limit
from components.report.matrix import Row

WIDTH = 420
LEFT, RIGHT = 58, 400
LABEL_HEIGHT = 15
LETTER_WIDTH = 6.8
SHAPES = (
    "M0,-7 7,0 0,7 -7,0Z",
    "M-5.5,0a5.5,5.5 0 1,0 11,0a5.5,5.5 0 1,0 -11,0Z",
    "M-5,-5H5V5H-5Z",
    "M0,-6.5 6.5,5 -6.5,5Z",
    "M0,6.5 6.5,-5 -6.5,-5Z",
    "M-2,-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
)
COLOURS = ("currentColor", "#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00", "#56B4E9")


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels, with round ticks that lie on it."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float) -> Self:
        """From the tick at or below the least value to the tick at or above the greatest."""
        known = list(values)
        low, high = min(known), max(known)
        if high - low < 1e-9:
            low, high = low - 0.01, high + 0.01
        step = _step(low, high)
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Each tick's value and its label, with the digits that the step needs."""
        step = _step(self.low, self.high)
        digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if _leading(step) == 2.5 else 0)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [(index * step, f"{index * step:,.{digits}f}".replace("-", "−")) for index in range(first, last + 1)]


def marker(index: int, x: float, y: float) -> Markup:
    """The sign of the variant in that row of the matrix; thirty are told apart, by shape and colour."""
    shape = SHAPES[index % len(SHAPES)]
    colour = COLOURS[index if index == 0 else 1 + (index + index // len(SHAPES) - 1) % (len(COLOURS) - 1)]
    return Markup('<path class="marker" d="{}" fill="{}" transform="translate({:.1f},{:.1f})"/>').format(
        shape, colour, x, y
    )


def legend_marker(index: int) -> Markup:
    """The same sign beside a variant's name in the text."""
    return Markup('<svg class="sign" viewBox="-8 -8 16 16" aria-hidden="true">{}</svg>').format(marker(index, 0, 0))


def size_plot(rows: tuple[Row, ...]) -> Markup:
    """Size against mean score, a whisker of one standard error; empty where no row has both.

    A row scored in another stage than the baseline answered other items: it is left out.
    """
    points = [
        (index, row.size_bytes / 1e6, row.mean_score, row.mean_stderr or 0.0)
        for index, row in enumerate(rows)
        if row.size_bytes is not None and row.mean_score is not None and row.stage == rows[0].stage
    ]
    if not points:
        return Markup("")
    height = 290
    across = Axis.over([0, *(size for _, size, _, _ in points)], LEFT, RIGHT)
    up = Axis.over([mean + sign * error for _, _, mean, error in points for sign in (-1, 1)], height - 50, 14)
    spots = {index: (across.at(size), up.at(mean)) for index, size, mean, _ in points}
    drawn = [
        *(_grid_line(up.at(value), label) for value, label in up.ticks()),
        *(_tick_below(across.at(value), height - 50, label) for value, label in across.ticks()),
        _text((LEFT + RIGHT) / 2, height - 10, "size of the weights in MB", "middle"),
        Markup('<text transform="translate(13,{:.0f}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (height - 36) / 2, "mean score over the tasks"
        ),
        *(_whisker(across.at(size), up.at(mean - error), up.at(mean + error)) for _, size, mean, error in points),
        *(marker(index, x, y) for index, (x, y) in spots.items()),
        *_labels({rows[index].variant: spot for index, spot in spots.items()}),
    ]
    return _svg(height, "Size of the weights against the mean score, one sign a variant", drawn)


def drop_plot(rows: tuple[Row, ...], limits: tuple[Limit, ...]) -> Markup:
    """Each variant's drop, on average and per task, beside the limits; empty where nothing was compared."""
    lanes = [lane for lane in _lanes(rows) if lane[1]]
    if not lanes:
        return Markup("")
    tasks = {cell.task for row in rows for cell in row.cells}
    averages = [limit for limit in limits if limit.subject not in tasks]
    spread = 9 * max(len(rows) - 2, 0)
    lane_height = 40 + spread
    top = 8 + LABEL_HEIGHT * len(averages)
    bottom = top + lane_height * len(lanes)
    drops = [drop for _, found in lanes for drop in found.values()]
    across = Axis.over([0.0, *(100 * each for each in (*drops, *(limit.drop for limit in limits)))], 18, RIGHT + 4)
    drawn = [_tick_line(across.at(value), top, bottom, label) for value, label in across.ticks()]
    drawn.append(_line(across.at(0), top, across.at(0), bottom, "zero"))
    drawn.extend(_average_limits(averages, across, top + lane_height))
    for place, (name, found) in enumerate(lanes):
        y = top + place * lane_height
        drawn.append(_line(18, y, RIGHT + 4, y, "lane"))
        drawn.append(_text(20, y + 14, _shortened(name, 52), kind="average" if place == 0 else "task"))
        drawn.extend(_task_limits([each for each in limits if place and each.subject == name], across, y, lane_height))
        drawn.extend(marker(index, across.at(100 * drop), y + 27 + 9 * (index - 1)) for index, drop in found.items())
    drawn.append(_text(WIDTH / 2, bottom + 36, "drop in % of the baseline's score (below 0: better)", "middle"))
    return _svg(bottom + 46, "Drop of each variant on average and per task, with the limits", drawn)


def _lanes(rows: tuple[Row, ...]) -> list[tuple[str, dict[int, float]]]:
    """The average, then each task: its name, and the drop of each row that has one."""
    averages = {index: row.average_drop for index, row in enumerate(rows) if row.average_drop is not None and index}
    lanes = [("average", averages)]
    for place, cell in enumerate(rows[0].cells if rows else ()):
        drops = {index: row.cells[place].drop for index, row in enumerate(rows) if index}
        lanes.append((cell.task, {index: drop for index, drop in drops.items() if drop is not None}))
    return lanes


def _average_limits(found: list[Limit], across: Axis, bottom: float) -> list[Markup]:
    drawn = []
    for place, limit in enumerate(found):
        x, y = across.at(100 * limit.drop), 6 + LABEL_HEIGHT * (place + 1) - 4
        words = f"{limit.subject} {limit.words}"
        fits = x + 5 + len(words) * LETTER_WIDTH < WIDTH
        drawn.append(_line(x, y - 9, x, bottom, "limit"))
        drawn.append(_text(x + 4 if fits else x - 4, y, words, "start" if fits else "end", "small"))
    return drawn


def _task_limits(found: list[Limit], across: Axis, top: float, height: float) -> list[Markup]:
    drawn = []
    for limit in found:
        x = across.at(100 * limit.drop)
        drawn.append(_line(x, top, x, top + height, "limit"))
        drawn.append(_text(RIGHT + 2, top + 14, limit.words, "end", "small"))
    return drawn


def _labels(spots: dict[str, tuple[float, float]]) -> list[Markup]:
    """Each name beside its spot, moved down where it would cover another, with a line back to its spot."""
    drawn: list[Markup] = []
    taken: list[tuple[float, float, float]] = []
    for name, (x, y) in sorted(spots.items(), key=lambda spot: spot[1][1]):
        words = _shortened(name, 24)
        width = len(words) * LETTER_WIDTH
        left = x + 12 if x + 12 + width < WIDTH else x - 12 - width
        below = y
        while any(
            abs(below - other) < LABEL_HEIGHT and left < end and start < left + width for start, end, other in taken
        ):
            below += 2
        taken.append((left, left + width, below))
        near = left - 2 if left > x else left + width + 2
        if below - y > 3:
            drawn.append(_line(x, y, near, below, "leader"))
        drawn.append(
            _text(left if left > x else left + width, below + 4, words, "start" if left > x else "end", "name")
        )
    return drawn


def _svg(height: float, title: str, drawn: Iterable[Markup]) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, title, Markup("").join(drawn)
    )


def _text(x: float, y: float, words: str, anchor: str = "start", kind: str = "axis") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, words)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _grid_line(y: float, label: str) -> Markup:
    return _line(LEFT, y, RIGHT, y, "grid") + _text(LEFT - 6, y + 4, label, "end")


def _tick_below(x: float, y: float, label: str) -> Markup:
    return _line(x, y, x, y + 5, "tick") + _text(x, y + 18, label, "middle")


def _tick_line(x: float, top: float, bottom: float, label: str) -> Markup:
    return _line(x, top, x, bottom, "grid") + _text(x, bottom + 16, label, "middle")


def _whisker(x: float, low: float, high: float) -> Markup:
    return (
        _line(x, low, x, high, "whisker")
        + _line(x - 4, low, x + 4, low, "whisker")
        + _line(x - 4, high, x + 4, high, "whisker")
    )


def _shortened(words: str, letters: int) -> str:
    return words if len(words) <= letters else f"{words[: letters - 1]}…"


def _step(low: float, high: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that cuts the range into six steps at most."""
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    return next(each * power for each in (1, 2, 2.5, 5, 10) if (high - low) / (each * power) <= 6 + 1e-9)


def _leading(step: float) -> float:
    return round(step / 10.0 ** math.floor(math.log10(step) + 1e-9), 6)
