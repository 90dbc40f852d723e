"""Matplotlib figures for notebooks: a history of runs, and the number of questions that a limit requires.

The colours are Okabe and Ito's colour-blind safe palette; everything that has a colour also has its own shape. A
notebook shows the figures with `%matplotlib inline`. matplotlib is slow to import and only notebooks need it, so each
function imports it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.report.formats import MINUS, count_text, percent_text
from quantgate.components.report.matrix import MARKS
from quantgate.components.report.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame  # type: ignore[import-untyped]

SHAPES = {"ship": "o", "monitor": "s", "ab_test": "^", "inconclusive": "D", "reject": "X"}
"""The markers of the verdicts that are based on a drop."""
DROP = "average drop (below 0: better)"
LINES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"), ("-", "v"), ("--", "P"))
APART, BESIDE = 1.25, 0.06
"""Least distance between labels: as a ratio on a logarithmic scale, and as a share of the largest size."""
ROUND = (0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2)


def drop_against_size(rows: "DataFrame", limit: float | None = None) -> "Figure":
    """The size and average drop of each variant in a history, with a marker for its verdict; the limit is a line."""
    from matplotlib.figure import Figure

    shown = measured(rows, "size_bytes")
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Drop against size, one marker per variant and run", loc="left", pad=48)
    signs(axes, shown, "size_bytes")
    axes.set_xlim(0, 1.05 * shown["size_bytes"].max())
    unit, name = (1e9, "GB") if shown["size_bytes"].max() >= 1e9 else (1e6, "MB")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / unit:g}")
    axes.set_xlabel(f"size of the weights in {name}")
    transform, label_x = axes.get_xaxis_transform(), 0.0
    for row in shown.drop_duplicates(["model", "variant"], keep="last").sort_values("size_bytes").itertuples():
        label_x = max(row.size_bytes, label_x + BESIDE * shown["size_bytes"].max())
        axes.text(label_x, 1.02, row.variant, transform=transform, rotation=40, fontsize=8)
    drops(axes, limit)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", title="verdict", frameon=False)
    return figure


def drop_over_time(rows: "DataFrame", limit: float | None = None) -> "Figure":
    """Each variant's average drop over time, one panel per variant, with the bounds that decided each verdict."""
    from matplotlib.figure import Figure

    shown = measured(rows, "time")
    names = list(dict.fromkeys(shown["variant"]))
    figure = Figure(figsize=(9, 1.2 + 2.0 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), sharex=True, sharey=True, squeeze=False)[:, 0]
    labelled: dict[str, Artist] = {}
    for axes, name in zip(panels, names, strict=True):
        own = shown[shown["variant"] == name].dropna(subset=["average_drop_lower", "average_drop_upper"])
        axes.vlines(own["time"], own["average_drop_lower"], own["average_drop_upper"], color="0.6", linewidth=1.5)
        signs(axes, shown[shown["variant"] == name], "time")
        axes.set_title(name, loc="left")
        drops(axes, limit, label="")
        handles, labels = axes.get_legend_handles_labels()
        labelled |= dict(zip(labels, handles, strict=True))
    figure.supylabel(DROP, fontsize="medium")
    ordered = {mark.label: labelled[mark.label] for mark in MARKS.values() if mark.label in labelled}
    figure.legend(ordered.values(), ordered.keys(), loc="outside right upper", title="verdict", frameon=False)
    return figure


def questions_against_limit(costs: "DataFrame", sizes: Mapping[str, int]) -> "Figure":
    """The questions needed for each limit (index) and share of differing answers (columns), with benchmark sizes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Questions needed to show that a limit holds", loc="left")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for (share, column), colour, (line, shape) in zip(costs.items(), COLOURS[1:], LINES, strict=False):
        axes.plot(
            costs.index, column.astype(float), line, marker=shape, color=colour, label=f"{percent_text(share)} differ"
        )
    transform, label_y = axes.get_yaxis_transform(), 0.0
    for name, items in sorted(sizes.items(), key=lambda benchmark: benchmark[1]):
        axes.axhline(items, color="0.75", linewidth=0.8, zorder=0)
        label_y = max(items, APART * label_y)
        axes.text(1.01, label_y, f"{name} {count_text(items)}", transform=transform, va="center", fontsize=8)
    ticks = [limit for limit in ROUND if costs.index.min() <= limit <= costs.index.max()]
    axes.set_xticks(ticks, [percent_text(limit) for limit in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: count_text(round(value)))
    axes.set_xlabel("limit on the drop")
    axes.set_ylabel("questions")
    axes.legend(title="answers", frameon=False)
    return figure


def measured(rows: "DataFrame", column: str) -> "DataFrame":
    """The variants that have a drop and a value in this column; raises PrerequisiteError if there are none."""
    shown = rows[rows["verdict"].isin(SHAPES.keys())].dropna(subset=["average_drop", column])
    if shown.empty:
        raise PrerequisiteError(
            "No variant in this table has a drop to draw: the search returned no compared variant. Use a wider search."
        )
    return shown


def signs(axes: "Axes", rows: "DataFrame", across: str) -> None:
    """Draw each row's marker at its drop; the verdict determines shape and colour."""
    for verdict, shape in SHAPES.items():
        judged, mark = rows[rows["verdict"] == verdict], MARKS[verdict]
        if len(judged):
            axes.scatter(
                judged[across],
                judged["average_drop"],
                s=46,
                marker=shape,
                color=mark.colour,
                edgecolors="black",
                linewidths=0.6,
                label=mark.label,
                zorder=3,
            )


def drops(axes: "Axes", limit: float | None, label: str = DROP) -> None:
    """Label the vertical axis as drops, with lines at a drop of 0 and at the limit."""
    axes.axhline(0, color="black", linewidth=0.9, zorder=1)
    if limit is not None:
        axes.axhline(limit, color="black", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        transform, label_text = axes.get_yaxis_transform(), f"limit {percent_text(limit)}"
        axes.text(1.005, limit, label_text, transform=transform, va="center", fontsize=8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %".replace("-", MINUS))
    axes.set_ylabel(label)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
