"""Judged replies as a self-contained HTML page, as Markdown, and as tables in a terminal."""

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment
from rich.table import Table

from quantgate.components.judging.arena import EVERYTHING, Standing
from quantgate.components.judging.grade_scores import CategoryGrades
from quantgate.components.judging.judged_results import JudgedResult
from quantgate.components.report.formats import MINUS, MISSING
from quantgate.components.report.judged_plot import judged_plot
from quantgate.components.report.pages import in_markdown
from quantgate.components.storage.artifact import write_text
from quantgate.components.storage.page_templates import templates_of

SHOWN = 20
"""How many missing verdicts a page lists; the JSON file has all."""
FINDINGS = {"better": "better", "worse": "worse", "open": "open"}
STANDING_HEADINGS = (
    "variant",
    "questions",
    "wins",
    "ties",
    "losses",
    "win rate",
    "bounds",
    "strength",
    "bounds",
    "finding",
)
GRADE_HEADINGS = ("variant", "questions", "n", "baseline", "variant", "drop", "bounds", "finding")
MANY_FLIPS = 0.3
"""From this share of pairs that depend on the order on, the page warns."""


def write_judged(result: JudgedResult, folder: Path) -> tuple[Path, Path, Path]:
    """Write KIND.json, KIND.html and KIND.md into the folder, and return their paths; of votes vibe-results.*.

    People call the files that the page downloads votes.
    """
    name = "vibe-results" if result.kind == "votes" else result.kind
    data, html, markdown = (folder / f"{name}.{suffix}" for suffix in ("json", "html", "md"))
    facts = {"result": result, "title": title(result), "notes": notes(result), "headings": headings(result)}
    facts |= {"rows": rows(result), "plot": judged_plot(result), "listed": result.missing[:SHOWN]}
    write_text(html, _environment(autoescape=True).get_template("judged.html.j2").render(facts))
    write_text(markdown, _environment(autoescape=False).get_template("judged.md.j2").render(facts))
    result.write(data)
    return data, html, markdown


@functools.cache
def _environment(*, autoescape: bool) -> Environment:
    return templates_of("report", autoescape=autoescape, finalize=None if autoescape else in_markdown)


def title(result: JudgedResult) -> str:
    """The finding over all questions, in a sentence for each variant."""
    who = f"the judge {result.judge.model}" if result.kind != "votes" else result.judge.model
    sentences = []
    words = {"better": "better than", "worse": "worse than", "open": "not shown to be better or worse than"}
    rows: list[Standing | CategoryGrades] = [*result.standings, *result.grades]
    for row in rows:
        if row.category == EVERYTHING and row.lower is not None:
            sentences.append(f"{row.variant} is {words[row.finding]} {result.baseline}")
    return f"{'; '.join(sentences)}, says {who}" if sentences else "No question has a verdict"


def headings(result: JudgedResult) -> tuple[str, ...]:
    """The column headings of the table."""
    return GRADE_HEADINGS if result.kind == "grades" else STANDING_HEADINGS


def rows(result: JudgedResult) -> list[tuple[str, ...]]:
    """The table's cells as text."""
    return [_standing(row) for row in result.standings] + [_grades(row) for row in result.grades]


def _standing(row: Standing) -> tuple[str, ...]:
    ties = f"{row.ties} + {row.mixed} mixed" if row.mixed else str(row.ties)
    counts = str(row.wins), ties, str(row.losses)
    shares = _bounds(row.lower, row.upper, lambda share: f"{100 * share:.0f} %")
    rate = MISSING if row.win_rate is None else f"{100 * row.win_rate:.1f} %"
    elo = _bounds(row.strength_lower, row.strength_upper, _signed, f"{MINUS}∞", "∞")
    strength = MISSING if row.strength is None else _signed(row.strength)
    elo = MISSING if row.strength is None else elo
    return row.variant, _category(row), *counts, rate, shares, strength, elo, FINDINGS[row.finding]


def _grades(row: CategoryGrades) -> tuple[str, ...]:
    values = [MISSING if value is None else f"{value:.2f}" for value in (row.baseline, row.grade)]
    drop = MISSING if row.drop is None else _points(row.drop)
    bounds = MISSING if row.drop is None else _bounds(row.lower, row.upper, _points)
    return row.variant, row.category, _count(row.questions, row.missing), *values, drop, bounds, FINDINGS[row.finding]


def _category(row: Standing) -> str:
    return f"{row.category} ({_count(row.questions, row.missing)})"


def _count(questions: int, missing: int) -> str:
    return f"{questions}, {missing} missing" if missing else str(questions)


def _bounds(
    lower: float | None, upper: float | None, as_text: Callable[[float], str], least: str = MISSING, most: str = MISSING
) -> str:
    low, high = (end if value is None else as_text(value) for value, end in ((lower, least), (upper, most)))
    return f"{low} to {high}"


def _signed(points: float) -> str:
    return f"{points:+.0f}".replace("-", MINUS)


def _points(points: float) -> str:
    return f"{points:+.2f}".replace("-", MINUS)


def notes(result: JudgedResult) -> list[str]:
    """What a reader has to know beside the table."""
    found = []
    bias = result.bias
    if bias and bias.pairs:
        flipped = bias.first_both + bias.second_both
        found.append(
            f"Position: of {bias.pairs} pairs asked in both orders, {bias.agree} got the same verdict; in both "
            f"orders {bias.first_both} times the first and {bias.second_both} times the second position was preferred"
            + (f" (sign test: p = {bias.p_value:.2g})" if bias.p_value is not None else "")
            + ". Pairs whose orders disagree count as ties."
        )
        if flipped / bias.pairs >= MANY_FLIPS:
            found.append("This judge's verdicts depend on the order too often to trust them. Choose a stronger judge.")
    if result.both_bad:
        found.append(f"{result.both_bad} of {result.votes} votes say that both replies are bad; they count as ties.")
    if result.missing:
        of = Counter(one.model for one in result.missing)
        listed = ", ".join(f"{count} of {model}" for model, count in of.items())
        found.append(
            f"Missing replies or verdicts: {listed}. Their questions count for neither model; a rerun asks again."
        )
    found += [
        f"{count} replies of {model} were cut at the limit of tokens." for model, count in result.cut.items() if count
    ]
    if result.without_reference:
        found.append(
            f"{result.without_reference} questions about mathematics, reasoning or code have no reference answer: the "
            "judge had only its own knowledge."
        )
    return found


def judged_table(result: JudgedResult) -> Table:
    """The table for a terminal of 80 columns: bounds stand below their value, and counts share a column."""
    table = Table(box=None)
    for name in ("variant", "questions"):
        table.add_column(name, overflow="fold")
    numbers = ("wins/ties/losses", "win rate", "strength") if result.standings else ("n", "baseline", "variant", "drop")
    for name in numbers[0 if result.standings else 1 :]:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("finding")
    for cells in rows(result):
        if result.standings:
            variant, asked, wins, ties, losses, rate, bounds, strength, of_strength, finding = cells
            values = (f"{wins}/{ties}/{losses}", f"{rate}\n{bounds}", f"{strength}\n{of_strength}")
            table.add_row(variant, asked, *values, finding)
        else:
            variant, category, count, before, after, drop, bounds, finding = cells
            table.add_row(variant, f"{category} ({count})", before, after, f"{drop}\n{bounds}", finding)
    return table
