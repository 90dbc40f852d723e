"""The decision matrix in a terminal."""

from rich import box
from rich.style import Style
from rich.table import Table
from rich.text import Text

from components.artifacts import Decision
from components.report.formats import percent_text, ratio_text, score_text, size_text, stderr_text
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
        table.add_row(*_texts(row, edges))
    return table


def _texts(row: Row, edges: tuple[float, ...]) -> list[Text]:
    return [
        Text(row.variant),
        Text(f"{row.mark.symbol} {row.mark.label}", style=Style(color=row.mark.colour, bold=True)),
        Text(percent_text(row.average_drop, edges)),
        Text(f"{size_text(row.size_bytes)}\n{ratio_text(row.size_ratio)}".rstrip()),
        *(
            Text(f"{score_text(cell.score)}\n{stderr_text(cell.stderr)}".replace(" ", "").rstrip())
            for cell in row.cells
        ),
    ]


def _next_steps(rows: tuple[Row, ...]) -> Text:
    steps = [f"{row.variant}: {row.next_step}" for row in rows if row.next_step]
    return Text("\n".join([*steps, "Score ± standard error; a negative drop is better than the baseline."]))
