"""The Pareto front of a search as a table and as a plot."""

import itertools

from markupsafe import Markup

from quantgate.components.evidence.pareto import FrontRow, front
from quantgate.components.report.formats import MISSING, percent_text, ratio_text, size_text, unit_of
from quantgate.components.report.plots import labels, marker
from quantgate.components.report.svg import LEFT, RIGHT, Axis, grid_line, line, svg, text, tick_below, whisker
from quantgate.components.run.verdicts import Decision

HEIGHT = 290
BOTTOM, TOP = HEIGHT - 50, 14
FRONT_HEADINGS = ("Size", "Speed", "Average drop", "At least", "At most", "Front")
"""Of the texts of `front_texts`."""
FRONT_LEGEND = (
    "On the front: no other variant is at least as small, as fast and as good, and better in one of them, by the"
    " measured values. Where the intervals of two drops overlap, their order is not certain. Speed: output tokens/s as"
    " a multiple of the baseline's, with the most requests at a time."
)


def front_texts(decision: Decision) -> list[tuple[FrontRow, tuple[str, ...]]]:
    """Each row of the front with its numbers as text; none without a search."""
    unit = unit_of(decision.relative)
    return [(row, _texts(row, unit)) for row in front(decision)]


def _texts(row: FrontRow, unit: str) -> tuple[str, ...]:
    drops = (percent_text(drop, unit=unit) for drop in (row.drop, row.lower, row.upper))
    place = (f"behind {row.better}" if row.better else "yes") if row.is_placed else MISSING
    return size_text(row.size_bytes), ratio_text(row.speedup) or MISSING, *drops, place


def front_plot(decision: Decision) -> Markup:
    """Size against average drop with its bounds, and the front as steps; empty without a search's drops."""
    rows = [row for row in front(decision) if row.is_placed]
    if len(rows) < 2:
        return Markup("")
    drops = [100 * drop for row in rows for drop in (row.drop, row.lower, row.upper) if drop is not None]
    across = Axis.over([0, *((row.size_bytes or 0) / 1e6 for row in rows)], LEFT, RIGHT)
    up = Axis.over([0.0, *drops], BOTTOM, TOP)
    spots = {row: (across.at((row.size_bytes or 0) / 1e6), up.at(100 * (row.drop or 0.0))) for row in rows}
    unit = "% of the baseline's score" if decision.relative else "points of 100"
    drawn = [
        *(grid_line(up.at(value), label) for value, label in up.ticks()),
        *(tick_below(across.at(value), BOTTOM, label) for value, label in across.ticks()),
        text((LEFT + RIGHT) / 2, HEIGHT - 10, "size of the weights in MB", "middle"),
        Markup('<text transform="translate(13,{:.0f}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (HEIGHT - 36) / 2, f"average drop in {unit}"
        ),
        *_steps(sorted(spot for row, spot in spots.items() if not row.better)),
        *(
            whisker(spots[row][0], up.at(100 * row.lower), up.at(100 * row.upper))
            for row in rows
            if row.lower is not None and row.upper is not None
        ),
        *(marker(row.number, *spot) for row, spot in spots.items()),
        *labels({row.variant: spot for row, spot in spots.items()}),
    ]
    return svg(HEIGHT, "Size of the weights against the average drop, one marker per variant", drawn)


def _steps(spots: list[tuple[float, float]]) -> list[Markup]:
    drawn = []
    for (x1, y1), (x2, y2) in itertools.pairwise(spots):
        drawn += [line(x1, y1, x2, y1, "front"), line(x2, y1, x2, y2, "front")]
    return drawn
