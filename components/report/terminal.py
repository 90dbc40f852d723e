"""The decision matrix in a terminal."""

from rich import box
from rich.style import Style
from rich.table import Table
from rich.text import Text

from components.artifacts import Decision
from components.report.formats import (
    MISSING,
    about_text,
    amount_text,
    count_text,
    p_text,
    percent_text,
    ratio_text,
    score_text,
    size_text,
    stderr_text,
    unit_of,
)
from components.report.limits import AVERAGE, bounds
from components.report.matrix import Row, headline, matrix, tasks_of


def terminal_matrix(decision: Decision) -> Table:
    """The same matrix as in the report, its next steps below it; print it with rich, 80 columns take five tasks."""
    rows, edges = matrix(decision), bounds(decision.policy, tasks_of(decision))[AVERAGE]
    table = Table(
        title=Text(headline(decision), style="bold"),
        title_justify="left",
        caption=_next_steps(rows),
        caption_style="not italic",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("Variant", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    table.add_column("Average\ndrop", justify="right", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    for task in tasks_of(decision):
        table.add_column(Text(task), justify="right", overflow="fold")
    for row in rows:
        table.add_row(*_texts(row, edges, unit_of(decision.relative)))
    return table


def terminal_evidence(decision: Decision) -> list[Table | Text]:
    """What the verdicts rest on: each limit with its bounds, each task with its flips, and the sentences."""
    judged = [each for each in decision.verdicts if each.form == "evidence"]
    sentences = [Text(f"{each.variant}: {each.sentence}") for each in decision.verdicts[1:]]
    if not judged:
        return [*sentences]
    unit = unit_of(decision.relative)
    limits = _table("Limits", ["Variant", "Limit on"], ["Limit", "Measured", "At least", "At most"], ["Outcome"])
    limits.add_column("Questions\nto settle", justify="right")
    for row in judged:
        for each in row.limits:
            numbers = (each.limit, each.estimate, each.lower, each.upper)
            limits.add_row(
                row.variant,
                each.what if each.kind == "drop" else f"{each.what} {each.kind}",
                *(amount_text(number, each.kind, (each.limit,), unit) for number in numbers),
                each.outcome,
                about_text(each.further_items),
            )
    flips = _table(
        "Flips", ["Variant", "Task"], ["Questions", "Lost", "Gained", "Flip rate", "McNemar p", "KL in nats"], []
    )
    for row in judged:
        for task in row.tasks:
            rate = f"{percent_text(task.flip_rate)} ({task.flip_rate_lower:.1%}-{task.flip_rate_upper:.1%})"
            moved = MISSING if task.kl is None else f"{task.kl:.4f} {stderr_text(task.kl_stderr)}".rstrip()
            counts = (count_text(each) for each in (task.items, task.lost, task.gained))
            flips.add_row(row.variant, task.task, *counts, rate, p_text(task.mcnemar_p), moved)
    return [limits, flips, *sentences]


def _table(title: str, left: list[str], right: list[str], after: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right")
    for name in after:
        table.add_column(name)
    return table


def _texts(row: Row, edges: tuple[float, ...], unit: str) -> list[Text]:
    return [
        Text(row.variant),
        Text(f"{row.mark.symbol} {row.mark.label}", style=Style(color=row.mark.colour, bold=True)),
        Text(percent_text(row.average_drop, edges, unit)),
        Text(f"{size_text(row.size_bytes)}\n{ratio_text(row.size_ratio)}".rstrip()),
        *(
            Text(f"{score_text(cell.score)}\n{stderr_text(cell.stderr)}".replace(" ", "").rstrip())
            for cell in row.cells
        ),
    ]


def _next_steps(rows: tuple[Row, ...]) -> Text:
    steps = [f"{row.variant}: {row.next_step}" for row in rows if row.next_step]
    return Text("\n".join([*steps, "Score ± standard error; a negative drop is better than the baseline."]))
