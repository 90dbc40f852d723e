"""What a run can show before it starts, as a table for the terminal and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from quantgate.components.evidence.assumed_answers import SAMPLED_FLIPS
from quantgate.components.evidence.forecast import describe, how_many
from quantgate.components.evidence.prospects import VERDICT_NAMES, VERDICTS, Outlook
from quantgate.components.evidence.spending import describe_attempt
from quantgate.components.report.formats import MISSING


def prospect_tables(outlook: Outlook) -> Iterator[RenderableType]:
    """The chance of each verdict, how many questions are enough, and what is assumed; at most 80 columns wide."""
    prospect = outlook.prospect
    title = f"{prospect.use_case.name}: {prospect.items:,} questions, variants in the run: {prospect.variants}"
    yield Text(title, style="bold")
    yield _chances(outlook)
    yield _needs(outlook)
    if outlook.by_answers:
        yield _by_answers(outlook)
    yield from map(Text, _words(outlook))


def _chances(outlook: Outlook) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Variant")
    for verdict in VERDICTS:
        table.add_column(VERDICT_NAMES.get(verdict, verdict), justify="right")
    copies = (("a copy, at best", outlook.prospect.best), ("a copy, baseline as assumed", outlook.prospect.copy))
    for name, verdict in copies:
        table.add_row(name, *("always" if column == verdict else MISSING for column in VERDICTS))
    for variant, chances in outlook.chances:
        table.add_row(variant.name, *(f"{chances[verdict]:.0%}" for verdict in VERDICTS))
    return table


def _needs(outlook: Outlook) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Limit")
    table.add_column("Questions", justify="right")
    table.add_column("Enough", justify="right")
    for need in outlook.needs:
        table.add_row(need.what, f"{need.planned:,}", how_many(need))
    return table


def _by_answers(outlook: Outlook) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Answers to each generated question, sampled", min_width=43)
    for samples, _ in outlook.by_answers:
        table.add_column(str(samples), justify="right")
    table.add_row(f"{outlook.chances[0][0].name}: ship", *(f"{share:.0%}" for _, share in outlook.by_answers))
    return table


def _words(outlook: Outlook) -> Iterator[str]:
    scores = [task.score for task in outlook.prospect.tasks]
    ends = (min(scores), max(scores))
    yield f"Assumed: the baseline scores {' to '.join(dict.fromkeys(f'{score:.0%}' for score in ends))}."
    for variant, _ in outlook.chances:
        yield f"{describe(variant)}."
    if outlook.by_answers:
        yield (
            f"Two sampled answers of one model to a question differ in {SAMPLED_FLIPS:.0%} of the questions. The first"
            " table has the answers as planned."
        )
    first = outlook.chances[0][0].name
    if attempt := outlook.prospect.attempt:
        yield f"{describe_attempt(outlook.prospect.use_case.confidence, attempt)}."
    yield f"Enough: with so many questions a {first} passes the limit in 4 of 5 runs. At best: every answer is right."
    if outlook.prospect.use_case.evidence == "margins":
        yield "Assumed: right and wrong answers decide alone. Where margins count, fewer are enough as a rule."
    if outlook.prospect.left_out:
        yield f"Not predicted: {', '.join(outlook.prospect.left_out)}."


def prospect_json(outlook: Outlook) -> str:
    """The same numbers for a script."""
    return json.dumps(
        {
            "use_case": outlook.prospect.use_case.name,
            "variants": outlook.prospect.variants,
            "attempt": outlook.prospect.attempt.number if outlook.prospect.attempt else None,
            "questions": {task.name: task.items for task in outlook.prospect.tasks},
            "copy_at_best": outlook.prospect.best,
            "copy": outlook.prospect.copy,
            "assumed": [{**asdict(variant), "chances": chances} for variant, chances in outlook.chances],
            "needs": [asdict(need) for need in outlook.needs],
            "ships_by_answers": dict(outlook.by_answers),
            "not_predicted": outlook.prospect.left_out,
        },
        indent=2,
    )
