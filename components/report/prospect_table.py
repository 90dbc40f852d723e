"""What a run can show before it starts, as a table for the terminal and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from components.evidence.assumed_answers import PlannedTask
from components.evidence.change import about
from components.evidence.prospects import PASSING, VERDICT_NAMES, VERDICTS, Outlook, Prospect, copy_verdict
from components.report.formats import MISSING
from components.run.artifacts import Decision


def prospect_tables(outlook: Outlook) -> Iterator[RenderableType]:
    """The chance of each verdict, how many questions are enough, and what is assumed; at most 80 columns wide."""
    prospect = outlook.prospect
    items = sum(task.items for task in prospect.tasks)
    yield Text(f"{prospect.use_case.name}: {items:,} questions, variants in the run: {prospect.variants}", style="bold")
    yield _chances(outlook)
    yield _needs(outlook)
    yield from map(Text, _words(outlook))


def _chances(outlook: Outlook) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Variant")
    for verdict in VERDICTS:
        table.add_column(VERDICT_NAMES.get(verdict, verdict), justify="right")
    copies = (("a copy, at best", outlook.best), ("a copy, baseline as assumed", outlook.copy))
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
        enough = "no number" if need.enough is None else f"{'about ' if need.enough > 100 else ''}{about(need.enough)}"
        table.add_row(need.what, f"{need.planned:,}", enough)
    return table


def _words(outlook: Outlook) -> Iterator[str]:
    scores = [task.score for task in outlook.prospect.tasks]
    ends = (min(scores), max(scores))
    yield f"Assumed: the baseline scores {' to '.join(dict.fromkeys(f'{score:.0%}' for score in ends))}."
    for variant, _ in outlook.chances:
        yield f"{variant.name} flips {variant.flips:.1%} of the answers and loses {variant.drop:.1%} of the score."
    first = outlook.chances[0][0].name
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
            "questions": {task.name: task.items for task in outlook.prospect.tasks},
            "copy_at_best": outlook.best,
            "copy": outlook.copy,
            "assumed": [{**asdict(variant), "chances": chances} for variant, chances in outlook.chances],
            "needs": [asdict(need) for need in outlook.needs],
            "not_predicted": outlook.prospect.left_out,
        },
        indent=2,
    )


def few_answers(decision: Decision) -> str:
    """What a copy of the baseline would be with the answers of a decision, if it would not pass; else empty."""
    if not any(verdict.form == "evidence" for verdict in decision.verdicts):
        return ""
    baseline, looks = decision.scores[0], max(scores.looks for scores in decision.scores)
    tasks = tuple(
        PlannedTask(task.task, task.items, task.chance, min(task.score, 1.0))
        for task in baseline.tasks
        if task.is_share
    )
    prospect = Prospect(decision.limits, tasks, len(decision.verdicts) - 1, looks)
    if not tasks or (verdict := copy_verdict(prospect)) in PASSING:
        return ""
    return (
        f"These questions are too few for {decision.use_case}: even a perfect copy of the baseline would be"
        f" {VERDICT_NAMES.get(verdict, verdict)}."
    )
