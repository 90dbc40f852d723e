"""The forest plot: each limit on a drop with the measured drop's confidence interval."""

from markupsafe import Markup

from quantgate.components.report.plots import marker
from quantgate.components.report.svg import RIGHT, WIDTH, Axis, line, shortened, svg, text, tick_line
from quantgate.components.run.verdicts import Decision, LimitEvidence

LANE = 34
START, END = 18, RIGHT + 4


def forest_plot(decision: Decision) -> Markup:
    """A lane for each variant and each of its limits on a drop; empty if no limit has a measured drop.

    If a bound is missing or far beyond the other values, the interval ends in an arrow at the plot's edge.
    """
    lanes = [
        (index, verdict.variant, limit)
        for index, verdict in enumerate(decision.verdicts)
        for limit in verdict.limits
        if limit.kind == "drop" and limit.estimate is not None
    ]
    if not lanes:
        return Markup("")
    top, bottom = 8, 8 + LANE * len(lanes)
    across = Axis.over([0.0, *(100 * drop for _, _, limit in lanes for drop in shown(limit))], START, END)
    drawn = [tick_line(across.at(value), top, bottom, label) for value, label in across.ticks()]
    drawn.append(line(across.at(0), top, across.at(0), bottom, "zero"))
    for place, (index, variant, limit) in enumerate(lanes):
        y = top + LANE * place
        drawn.append(line(START, y, END, y, "lane"))
        drawn.append(text(START + 2, y + 13, shortened(f"{variant}: {limit.what}", 52), kind="task"))
        x = across.at(100 * limit.limit)
        drawn.append(line(x, y, x, y + LANE, "limit"))
        drawn += interval(limit, across, y + 24)
        drawn.append(marker(index, across.at(100 * (limit.estimate or 0.0)), y + 24))
    unit = "in % of the baseline's score" if decision.relative else "in points of 100"
    drawn.append(text(WIDTH / 2, bottom + 36, f"drop {unit} (below 0: better)", "middle"))
    return svg(bottom + 46, "Each limit on a drop, with the measured drop and its bounds", drawn)


def shown(limit: LimitEvidence) -> list[float]:
    """The drops that the scale must include: the limit, the measured drop, and bounds that are not far from both."""
    estimate, values = limit.estimate or 0.0, [limit.limit, limit.estimate or 0.0]
    reach = 6 * max(abs(estimate), limit.limit, 0.01)
    return values + [
        bound for bound in (limit.lower, limit.upper) if bound is not None and abs(bound - estimate) <= reach
    ]


def interval(limit: LimitEvidence, across: Axis, y: float) -> list[Markup]:
    """The line from the lower to the upper bound, with a bar at a bound and an arrow at the plot's edge."""
    drawn, ends = [], []
    for bound, edge in ((limit.lower, START), (limit.upper, END)):
        x = across.at(100 * bound) if bound is not None else edge
        inside = bound is not None and START <= x <= END
        ends.append(x if inside else edge)
        if inside:
            drawn.append(line(x, y - 4, x, y + 4, "whisker"))
        else:
            inwards = 6 if edge == START else -6
            drawn += [line(edge, y, edge + inwards, y + sign * 4, "whisker") for sign in (-1, 1)]
    return [line(ends[0], y, ends[1], y, "whisker"), *drawn]
