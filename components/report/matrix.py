"""The decision matrix: one row per variant, with exact numbers and the verdict's printed label and symbol."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantgate.components.errors import PrerequisiteError
from quantgate.components.policies.policy import Average
from quantgate.components.report.load_table import LoadRow, busiest, load_rows
from quantgate.components.run.artifacts import FLOWS, Scores, is_flow_task
from quantgate.components.run.verdicts import Decision, Verdict


@dataclass(frozen=True)
class Mark:
    """How a verdict is printed, and the headline if it is the best verdict of the run."""

    verdict: str
    label: str
    symbol: str
    colour: str
    """From Okabe and Ito's colour-blind safe palette, all light enough for black ink."""
    answer: str
    """The headline's template, with the fields {variants}, {baseline} and {use_case}."""


MARKS = {
    row.verdict: row
    for row in (
        Mark("reference", "reference", "◆", "#B8B8B8", "Nothing to decide: this run evaluated only {baseline}."),
        Mark("ship", "ship", "✓", "#009E73", "Yes: {variants} may replace {baseline} for {use_case}."),
        Mark(
            "monitor",
            "monitor",
            "◉",
            "#56B4E9",
            "Yes, while it is monitored: {variants} may replace {baseline} for {use_case}.",
        ),
        Mark(
            "ab_test",
            "A/B test",
            "⇄",
            "#E69F00",
            "Not yet: {variants} must pass an A/B test against {baseline} before it may replace it for {use_case}.",
        ),
        Mark(
            "inconclusive",
            "inconclusive",
            "?",
            "#CCBB44",
            "Inconclusive: the answers do not show whether {variants} may replace {baseline} for {use_case}.",
        ),
        Mark("reject", "reject", "✗", "#D55E00", "No: no variant may replace {baseline} for {use_case}."),
        Mark(
            "not_comparable",
            "not comparable",
            "≠",
            "#F0E442",
            "No answer: no variant is comparable with {baseline}, so none may replace it for {use_case}.",
        ),
        Mark("failed", "failed", "!", "#CC79A7", "No: every variant failed, so nothing may replace {baseline}."),
        Mark("skipped", "not tried", "–", "#D8D8D8", "Nothing to decide: no variant was tried."),
    )
}
"""The reference first, then from the best verdict to the worst: the headline shows the best verdict of the variants."""

TOO_FEW = (
    "Inconclusive: {items} questions are too few to tell whether {variants} may replace {baseline} for {use_case}."
)


@dataclass(frozen=True)
class Cell:
    """A variant's result on a task; None for a number that is unavailable."""

    task: str
    score: float | None
    stderr: float | None
    drop: float | None
    """The drop as a share of the baseline's score, or in points; a gain is negative."""


@dataclass(frozen=True)
class Row:
    """A variant's row in the decision matrix, unrounded."""

    variant: str
    mark: Mark
    stage: str
    """The last stage that scored the variant; with its question count if it stopped early. Empty without scores."""
    size_bytes: int | None
    size_ratio: float | None
    """The size divided by the baseline's size."""
    cells: tuple[Cell, ...]
    """One cell per task, in the same order in every row."""
    mean_score: float | None
    """The mean over all tasks except perplexity tasks; None if any of these tasks has no score."""
    mean_stderr: float | None
    """The standard error of the mean score; it treats the tasks as independent."""
    average_drop: float | None
    sentence: str
    next_step: str
    load: LoadRow | None
    """The load test with the most requests at a time; None if the speed is unknown."""


def matrix(decision: Decision) -> tuple[Row, ...]:
    """The rows of the decision matrix, the baseline first; raises PrerequisiteError for an unknown verdict."""
    tasks = tasks_of(decision)
    scores = {variant_scores.variant: variant_scores for variant_scores in decision.scores}
    baseline_bytes = decision.verdicts[0].size_bytes if decision.verdicts else 0
    average, loads = decision.limits.average, load_rows(decision)
    rows = (_row(verdict, tasks, scores.get(verdict.variant), baseline_bytes, average) for verdict in decision.verdicts)
    return tuple(replace(row, load=busiest(loads, row.variant)) for row in rows)


def tasks_of(decision: Decision) -> tuple[str, ...]:
    """The tasks on which any variant has a score, with all flows as one: the columns of the matrix."""
    scored = dict.fromkeys(task for verdict in decision.verdicts for task in verdict.scores)
    return tuple(task for task in scored if task == FLOWS or not is_flow_task(task))


def verdicts_json(decision: Decision) -> str:
    """The verdicts as a JSON list for scripts: one item per variant, the baseline first, numbers unrounded.

    `size_bytes` is 0 for a variant without weights; `average_drop` is null if it is unavailable.
    """
    rows = [verdict.model_dump(mode="json") for verdict in decision.verdicts]
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False)


def headline(decision: Decision) -> str:
    """The sentence that says whether a variant may replace the baseline for this use case."""
    rows = matrix(decision)
    if not rows:
        return "Nothing to decide: this run has no variants."
    baseline, variants = rows[0], rows[1:]
    if baseline.mark.verdict == "failed":
        return f"No answer: the baseline {baseline.variant} failed, so there is nothing to compare with."
    verdicts = {row.mark.verdict for row in variants}
    best = next((mark for mark in MARKS.values() if mark.verdict in verdicts), MARKS["reference"])
    names = [row.variant for row in variants if row.mark == best]
    few = _too_few([verdict for verdict in decision.verdicts if verdict.verdict == "inconclusive"])
    answer = TOO_FEW if best.verdict == "inconclusive" and few else best.answer
    return answer.format(
        items=few,
        variants=" or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])),
        baseline=baseline.variant,
        use_case=decision.use_case,
    )


def _too_few(verdicts: Sequence[Verdict]) -> str:
    """The number of questions behind each variant's undecided limits; empty unless more questions would decide them.

    It is also empty if the variants' numbers differ, or for a perplexity task: TaskEvidence does not count its
    questions.
    """
    counts = set()
    for verdict in verdicts:
        undecided = [limit for limit in verdict.limits if limit.outcome not in ("passed", "exceeded")]
        if not undecided or any(limit.further_items is None or limit.kind == "perplexity" for limit in undecided):
            return ""
        names = {limit.what for limit in undecided}
        counts.add(
            sum(
                task.items
                for task in verdict.tasks
                if task.task in names or ("average" in names and not is_flow_task(task.task))
            )
        )
    return f"{counts.pop():,}" if len(counts) == 1 else ""


def mark_of(verdict: Verdict) -> Mark:
    """The mark of a verdict; raises PrerequisiteError with the known verdicts if it is unknown."""
    if verdict.verdict not in MARKS:
        raise PrerequisiteError(
            f"{verdict.variant} has the verdict {verdict.verdict!r}, which this report does not know "
            f"({', '.join(MARKS)}). Use the quantgate version that wrote the decision."
        )
    return MARKS[verdict.verdict]


def _row(verdict: Verdict, tasks: tuple[str, ...], scores: Scores | None, baseline_bytes: int, average: Average) -> Row:
    failed = verdict.verdict == "failed"
    perplexities = {task_score.task for task_score in scores.tasks if not task_score.is_share} if scores else set()
    errors = (
        {task_score.task: task_score.stderr for task_score in scores.tasks if task_score.is_share} if scores else {}
    )
    cells = tuple(
        Cell(task, None, None, None)
        if failed or task not in verdict.scores
        else Cell(task, verdict.scores[task], errors.get(task), verdict.drops.get(task))
        for task in tasks
    )
    averaged = [cell for cell in cells if cell.task not in perplexities and not is_flow_task(cell.task)]
    values = {cell.task: cell.score for cell in averaged if cell.score is not None}
    known_errors = {cell.task: cell.stderr for cell in averaged if cell.stderr is not None}
    complete = bool(averaged) and len(values) == len(averaged)
    return Row(
        variant=verdict.variant,
        mark=mark_of(verdict),
        stage=_stage(scores) if scores and scores.tasks else "",
        size_bytes=verdict.size_bytes or None,
        size_ratio=verdict.size_bytes / baseline_bytes if verdict.size_bytes and baseline_bytes else None,
        cells=cells,
        mean_score=average.of(values) if complete else None,
        mean_stderr=average.error(known_errors) if complete and len(known_errors) == len(averaged) else None,
        average_drop=None if failed else verdict.average_drop,
        sentence=verdict.sentence,
        next_step=verdict.next_step,
        load=None,
    )


def _stage(scores: Scores) -> str:
    """The stage's name; with the number of questions if the variant stopped early."""
    answered = sum(task_score.items for task_score in scores.tasks if not is_flow_task(task_score.task))
    return (
        f"{scores.stage}, {answered:,} of {scores.planned_items:,} questions"
        if scores.look < scores.looks
        else scores.stage
    )
