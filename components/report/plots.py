"""Two of the report's plots as inline SVG: size against mean score, and the drops with their limits.

Each plot is as wide as a phone and scales up. A variant has the same shape and colour in both plots.
"""

import itertools

from markupsafe import Markup

from quantgate.components.report.matrix import Row
from quantgate.components.report.stated_limits import StatedLimit
from quantgate.components.report.svg import (
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    grid_line,
    line,
    shortened,
    svg,
    text,
    tick_below,
    tick_line,
    whisker,
)

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


def marker(index: int, x: float, y: float) -> Markup:
    """The marker of the variant in this row of the matrix; shape and colour distinguish thirty variants."""
    shape = SHAPES[index % len(SHAPES)]
    colour = COLOURS[index if index == 0 else 1 + (index + index // len(SHAPES) - 1) % (len(COLOURS) - 1)]
    return Markup('<path class="marker" d="{}" fill="{}" transform="translate({:.1f},{:.1f})"/>').format(
        shape, colour, x, y
    )


def legend_marker(index: int) -> Markup:
    """The same marker, for use beside a variant's name in the text."""
    return Markup('<svg class="sign" viewBox="-8 -8 16 16" aria-hidden="true">{}</svg>').format(marker(index, 0, 0))


def size_plot(rows: tuple[Row, ...]) -> Markup:
    """Size against mean score, with whiskers of one standard error; empty if no row has both.

    A row scored in a different stage from the baseline answered different items, so the plot omits it.
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
        *(grid_line(up.at(value), label) for value, label in up.ticks()),
        *(tick_below(across.at(value), height - 50, label) for value, label in across.ticks()),
        text((LEFT + RIGHT) / 2, height - 10, "size of the weights in MB", "middle"),
        Markup('<text transform="translate(13,{:.0f}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (height - 36) / 2, "mean score over the tasks"
        ),
        *_front([(across.at(size), up.at(mean)) for _, size, mean, _ in points]),
        *(whisker(across.at(size), up.at(mean - error), up.at(mean + error)) for _, size, mean, error in points),
        *(marker(index, x, y) for index, (x, y) in spots.items()),
        *labels({rows[index].variant: spot for index, spot in spots.items()}),
    ]
    return svg(height, "Size of the weights against the mean score, one marker per variant", drawn)


def _front(spots: list[tuple[float, float]]) -> list[Markup]:
    """The Pareto front as steps: the variants that no other variant dominates in size and score."""
    best = [
        spot for spot in sorted(spots) if not any(x <= spot[0] and y <= spot[1] and (x, y) != spot for x, y in spots)
    ]
    drawn = []
    for (x1, y1), (x2, y2) in itertools.pairwise(best):
        drawn += [line(x1, y1, x2, y1, "front"), line(x2, y1, x2, y2, "front")]
    return drawn


def drop_plot(rows: tuple[Row, ...], limits: tuple[StatedLimit, ...]) -> Markup:
    """Each variant's drop, on average and per task, with the limits; empty if nothing was compared."""
    lanes = [lane for lane in _lanes(rows) if lane[1]]
    if not lanes:
        return Markup("")
    tasks = {cell.task for row in rows for cell in row.cells}
    limits = tuple(limit for limit in limits if not limit.task or limit.task in tasks)
    averages = [limit for limit in limits if not limit.task]
    spread = 9 * max(len(rows) - 2, 0)
    lane_height = 40 + spread
    top = 8 + LABEL_HEIGHT * len(averages)
    bottom = top + lane_height * len(lanes)
    drops = [drop for _, drops_of_lane in lanes for drop in drops_of_lane.values()]
    across = Axis.over([0.0, *(100 * drop for drop in (*drops, *(limit.drop for limit in limits)))], 18, RIGHT + 4)
    drawn = [tick_line(across.at(value), top, bottom, label) for value, label in across.ticks()]
    drawn.append(line(across.at(0), top, across.at(0), bottom, "zero"))
    drawn.extend(_average_limits(averages, across, top + lane_height))
    for place, (name, drops_of_lane) in enumerate(lanes):
        y = top + place * lane_height
        drawn.append(line(18, y, RIGHT + 4, y, "lane"))
        drawn.append(text(20, y + 14, shortened(name, 52), kind="average" if place == 0 else "task"))
        task_limits = [limit for limit in limits if place and limit.task == name]
        drawn.extend(_task_limits(task_limits, across, y, lane_height))
        drawn.extend(
            marker(index, across.at(100 * drop), y + 27 + 9 * (index - 1)) for index, drop in drops_of_lane.items()
        )
    drawn.append(text(WIDTH / 2, bottom + 36, "drop in % of the baseline's score (below 0: better)", "middle"))
    return svg(bottom + 46, "Drop of each variant on average and per task, with the limits", drawn)


def _lanes(rows: tuple[Row, ...]) -> list[tuple[str, dict[int, float]]]:
    """A lane for the average, then one for each task: its name, and the drops by row number."""
    averages = {index: row.average_drop for index, row in enumerate(rows) if row.average_drop is not None and index}
    lanes = [("average", averages)]
    for place, cell in enumerate(rows[0].cells if rows else ()):
        drops = {index: row.cells[place].drop for index, row in enumerate(rows) if index}
        lanes.append((cell.task, {index: drop for index, drop in drops.items() if drop is not None}))
    return lanes


def _average_limits(limits: list[StatedLimit], across: Axis, bottom: float) -> list[Markup]:
    drawn = []
    for place, limit in enumerate(limits):
        x, y = across.at(100 * limit.drop), 6 + LABEL_HEIGHT * (place + 1) - 4
        words = f"{limit.subject} {limit.words}"
        fits = x + 5 + len(words) * LETTER_WIDTH < WIDTH
        drawn.append(line(x, y - 9, x, bottom, "limit"))
        drawn.append(text(x + 4 if fits else x - 4, y, words, "start" if fits else "end", "small"))
    return drawn


def _task_limits(limits: list[StatedLimit], across: Axis, top: float, height: float) -> list[Markup]:
    drawn = []
    for limit in limits:
        x = across.at(100 * limit.drop)
        drawn.append(line(x, top, x, top + height, "limit"))
        drawn.append(text(RIGHT + 2, top + 14, limit.words, "end", "small"))
    return drawn


def labels(spots: dict[str, tuple[float, float]]) -> list[Markup]:
    """Each name beside its marker. A name that would cover another moves down and gets a line to its marker."""
    drawn: list[Markup] = []
    taken: list[tuple[float, float, float]] = []
    for name, (x, y) in sorted(spots.items(), key=lambda spot: spot[1][1]):
        words = shortened(name, 24)
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
            drawn.append(line(x, y, near, below, "leader"))
        drawn.append(text(left if left > x else left + width, below + 4, words, "start" if left > x else "end", "name"))
    return drawn
