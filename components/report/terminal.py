"""The decision matrix and its evidence as tables for the terminal."""

from textwrap import fill

from rich import box
from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from quantgate.components.evidence.spending import describe_attempt
from quantgate.components.report.answer_lengths import answer_lengths
from quantgate.components.report.formats import (
    MISSING,
    OUTCOMES,
    about_text,
    amount_text,
    count_text,
    p_text,
    percent_text,
    ratio_text,
    score_text,
    size_text,
    stderr_text,
    subject_text,
    unit_of,
)
from quantgate.components.report.front import FRONT_HEADINGS, front_texts
from quantgate.components.report.load_table import HEADINGS, load_rows, without_speed
from quantgate.components.report.matrix import Cell, Row, headline, matrix, tasks_of
from quantgate.components.report.published_table import published_notes
from quantgate.components.report.stated_limits import AVERAGE, bounds
from quantgate.components.run.verdicts import Decision

TASKS_ACROSS = 5
RESULT_WIDTH = len(OUTCOMES["passed"])
"""A longer result gets a line break, so that the table of limits fits into 80 columns."""


def terminal_matrix(decision: Decision) -> RenderableType:
    """The report's decision matrix, with the next steps and the attempt below it; print it with rich.

    At most TASKS_ACROSS tasks fit into 80 columns. If there are more, a separate table lists them, one task per row.
    """
    rows, edges, tasks = matrix(decision), bounds(decision.limits, tasks_of(decision))[AVERAGE], tasks_of(decision)
    across = tasks if len(tasks) <= TASKS_ACROSS else ()
    table = _plain(Text(headline(decision), style="bold"), "Variant", "Verdict")
    table.add_column("Average\ndrop", justify="right", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    for task in across:
        table.add_column(Text(task), justify="right", overflow="fold")
    for row in rows:
        table.add_row(*_texts(row, edges, unit_of(decision.relative)), *map(_score, row.cells if across else ()))
    tables = [table]
    if tasks and not across:
        last = _plain(None, "Task")
        for row in rows:
            last.add_column(row.variant, justify="right", no_wrap=True)
        for number, task in enumerate(tasks):
            cells = (row.cells[number] for row in rows)
            last.add_row(
                Text(task), *(f"{score_text(cell.score)} {stderr_text(cell.stderr)}".rstrip() for cell in cells)
            )
        tables.append(last)
    tables += _speed(decision)
    tables += _front(decision)
    notes = _notes_below(decision, rows)
    tables[-1].caption, tables[-1].caption_style, tables[-1].caption_justify = notes, "not italic", "left"
    return Group(*tables) if len(tables) > 1 else table


def _speed(decision: Decision) -> list[Table]:
    """The table of load tests, if there are any."""
    rows = load_rows(decision)
    if not rows:
        return []
    table = _plain(Text("Speed", style="bold"), "Variant")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(Text(row.variant), *row.texts)
    return [table]


def _front(decision: Decision) -> list[Table]:
    """The table of a search, if there was one; why it went on is in the next steps and in the report."""
    rows = front_texts(decision)
    if not rows:
        return []
    table = _plain(Text("Search, the smallest first", style="bold"), "Variant")
    for heading in FRONT_HEADINGS:
        table.add_column(heading, justify="right")
    for row, texts in rows:
        table.add_row(Text(row.variant), *map(Text, texts))
    return [table]


def _plain(title: Text | None, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def terminal_evidence(decision: Decision) -> list[Table | Text]:
    """The evidence for the verdicts: each limit with its bounds, each task with its flips, and the sentences."""
    judged = [verdict for verdict in decision.verdicts if verdict.form == "evidence"]
    sentences = [Text(f"{verdict.variant}: {verdict.sentence}") for verdict in decision.verdicts[1:]]
    if not judged:
        return [*sentences]
    unit = unit_of(decision.relative)
    limits = _table("Limits", ["Variant", "Limit on"], [])
    for name in ("Limit", "Measured", "At least", "At most"):
        limits.add_column(name, justify="right", no_wrap=True)
    limits.add_column("Result", no_wrap=True)
    limits.add_column("More\nquestions\nneeded", justify="right", no_wrap=True)
    for row in judged:
        for limit in row.limits:
            numbers = (limit.limit, limit.estimate, limit.lower, limit.upper)
            limits.add_row(
                row.variant,
                f"{limit.what} {subject_text(limit.kind)}".rstrip(),
                *(amount_text(number, limit.kind, (limit.limit,), unit) for number in numbers),
                fill(OUTCOMES[limit.outcome], RESULT_WIDTH),
                about_text(limit.further_items).replace(" ", "\n"),
            )
    flips = _table(
        "Flips", ["Variant", "Task"], ["Questions", "Lost", "Gained", "Flip rate", "McNemar p", "KL in nats"]
    )
    for row in judged:
        for task in row.tasks:
            rate = f"{percent_text(task.flip_rate)} ({task.flip_rate_lower:.1%}-{task.flip_rate_upper:.1%})"
            divergence = MISSING if task.kl is None else f"{task.kl:.4f} {stderr_text(task.kl_stderr)}".rstrip()
            counts = map(count_text, (task.items, task.lost, task.gained))
            flips.add_row(row.variant, task.task, *counts, rate, p_text(task.mcnemar_p), divergence)
    return [limits, flips, *_answer_lengths(decision), *sentences]


def _answer_lengths(decision: Decision) -> list[Table]:
    """The table of generated answers, if their lengths are known."""
    rows = answer_lengths(decision)
    if not rows:
        return []
    table = _table("Answers", ["Variant", "Task"], ["Answers", "Median", "95 %", "Longer", "Cut"])
    for row in rows:
        longer = percent_text(row.longer)
        if row.longer_lower is not None and row.longer_upper is not None:
            longer += f" ({percent_text(row.longer_lower)} to {percent_text(row.longer_upper)})"
        lengths = (f"{row.lengths.median:,.0f}", f"{row.lengths.p95:,.0f}")
        table.add_row(row.variant, row.task, count_text(row.answers), *lengths, longer, count_text(row.cut))
    table.caption = "Median and 95th percentile in tokens; longer: the mean, compared with the baseline's."
    table.caption_justify = "left"
    return [table]


def _table(title: str, left: list[str], right: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right")
    return table


def _texts(row: Row, edges: tuple[float, ...], unit: str) -> list[Text]:
    return [
        Text(row.variant),
        Text(f"{row.mark.symbol} {row.mark.label}", style=Style(color=row.mark.colour, bold=True)),
        Text(percent_text(row.average_drop, edges, unit)),
        Text(f"{size_text(row.size_bytes)}\n{ratio_text(row.size_ratio)}".rstrip()),
    ]


def _score(cell: Cell) -> Text:
    return Text(f"{score_text(cell.score)}\n{stderr_text(cell.stderr)}".replace(" ", "").rstrip())


def _notes_below(decision: Decision, rows: tuple[Row, ...]) -> Text:
    notes = [f"{row.variant}: {row.next_step}" for row in rows if row.next_step]
    if decision.attempt:
        notes.append(f"{describe_attempt(decision.limits.confidence, decision.attempt)}.")
    notes += [*without_speed(decision), *published_notes(decision)]
    return Text("\n".join([*notes, "Score ± standard error; a negative drop is better than the baseline."]))
