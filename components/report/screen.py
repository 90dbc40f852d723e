"""The tinyBenchmarks screen: each variant's scores on the chosen items, and whether it was stopped there."""

from dataclasses import dataclass

from quantgate.components.evidence.looks import SCREEN_ALLOWANCE
from quantgate.components.run.artifacts import Scores, is_flow_task
from quantgate.components.run.verdicts import Decision

ESTIMATES = {"mean": "Plain mean", "irt": "IRT", "p_irt": "p-IRT", "gp_irt": "gp-IRT"}
"""The columns of the screen: the estimate's name in the scores, and its label."""


@dataclass(frozen=True)
class ScreenRow:
    """One variant's estimates on one benchmark; None for an estimate that is unavailable."""

    variant: str
    task: str
    items: int
    """The number of items; tinyBenchmarks may name one twice."""
    estimates: tuple[float | None, ...]
    """In the order of the screen's columns."""
    stopped: bool


@dataclass(frozen=True)
class Screen:
    """The report's section about the screen."""

    columns: tuple[str, ...]
    """The labels of the estimates that any row has."""
    rows: tuple[ScreenRow, ...]
    notes: tuple[str, ...]


def screen(decision: Decision) -> Screen | None:
    """The screen of a run; None if no tiny stage had items that tinyBenchmarks chose."""
    chosen = [(scores, task) for scores in decision.screens for task in scores.tasks if task.chosen]
    if not chosen:
        return None
    names = [name for name in ESTIMATES if any(name in task.estimates for _, task in chosen)]
    stopped = stopped_variants(decision)
    rows = tuple(
        ScreenRow(
            scores.variant,
            task.task,
            task.items,
            tuple(task.estimates.get(name) for name in names),
            scores.variant in stopped,
        )
        for scores, task in chosen
    )
    return Screen(tuple(ESTIMATES[name] for name in names), rows, tuple(_notes(stopped, names)))


def stopped_variants(decision: Decision) -> dict[str, Scores]:
    """The scores of the variants whose evaluation ended with the screen, by variant."""
    return {
        scores.variant: scores
        for scores in decision.scores
        if scores.look < scores.looks and any(task.chosen for task in scores.tasks)
    }


def _asked(scores: Scores) -> int:
    return sum(task.items for task in scores.tasks if not is_flow_task(task.task))


def _notes(stopped: dict[str, Scores], names: list[str]) -> list[str]:
    notes = [
        f"{variant} was stopped here, after {_asked(scores):,} of {scores.planned_items:,} questions."
        for variant, scores in stopped.items()
    ] or ["No variant was stopped here."]
    notes.append(
        "The chosen questions are no random sample. So the screen can only stop a variant, and only where the drop is"
        f" over a limit by more than {100 * SCREEN_ALLOWANCE:g} points."
    )
    notes.append(
        "The plain mean counts a question that tinyBenchmarks names twice as two. It is no score of the benchmark."
    )
    if len(names) > 1:
        notes.append(
            "IRT, p-IRT and gp-IRT estimate the score on the whole benchmark from models and prompts of the Open LLM"
            " Leaderboard of early 2024."
        )
    return notes
