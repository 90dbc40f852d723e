"""The plot of judged replies: win rates with bounds around 50 %, or drops of grades with bounds around 0."""

from dataclasses import dataclass

from markupsafe import Markup

from quantgate.components.judging.judged_results import JudgedResult
from quantgate.components.report.plots import marker
from quantgate.components.report.svg import RIGHT, WIDTH, Axis, line, shortened, svg, text, tick_line

LANE = 34
START, END = 18, RIGHT + 4


@dataclass(frozen=True)
class Lane:
    """One interval."""

    label: str
    index: int
    """The variant's number, for its marker."""
    low: float
    value: float
    high: float


def lanes_of(result: JudgedResult) -> list[Lane]:
    """A lane for each variant and category that has a value."""
    names = [row.variant for row in result.standings] + [row.variant for row in result.grades]
    index = {name: number for number, name in enumerate(dict.fromkeys(names), 1)}
    lanes = []
    for row in result.standings:
        if row.win_rate is not None and row.lower is not None and row.upper is not None:
            label = f"{row.variant}: {row.category}"
            lanes.append(Lane(label, index[row.variant], 100 * row.lower, 100 * row.win_rate, 100 * row.upper))
    for grade in result.grades:
        if grade.drop is not None and grade.lower is not None and grade.upper is not None:
            label = f"{grade.variant}: {grade.category}"
            lanes.append(Lane(label, index[grade.variant], grade.lower, grade.drop, grade.upper))
    return lanes


def judged_plot(result: JudgedResult) -> Markup:
    """A lane for each variant and category; empty if nothing has a value."""
    lanes = lanes_of(result)
    if not lanes:
        return Markup("")
    is_rate = bool(result.standings)
    ends = [0.0, 100.0] if is_rate else [0.0, *(end for lane in lanes for end in (lane.low, lane.high))]
    middle = 50.0 if is_rate else 0.0
    top, bottom = 8, 8 + LANE * len(lanes)
    across = Axis.over(ends, START, END)
    drawn = [tick_line(across.at(value), top, bottom, label) for value, label in across.ticks()]
    drawn.append(line(across.at(middle), top, across.at(middle), bottom, "zero"))
    for place, lane in enumerate(lanes):
        y = top + LANE * place
        drawn.append(line(START, y, END, y, "lane"))
        drawn.append(text(START + 2, y + 13, shortened(lane.label, 52), kind="task"))
        drawn += [line(across.at(end), y + 20, across.at(end), y + 28, "whisker") for end in (lane.low, lane.high)]
        drawn.append(line(across.at(lane.low), y + 24, across.at(lane.high), y + 24, "whisker"))
        drawn.append(marker(lane.index, across.at(lane.value), y + 24))
    unit = (
        f"win rate against {result.baseline} in %, ties as half"
        if is_rate
        else "drop of the grade in points (below 0: better)"
    )
    drawn.append(text(WIDTH / 2, bottom + 36, unit, "middle"))
    return svg(bottom + 46, "Each variant and category with its bounds", drawn)
