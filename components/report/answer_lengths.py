"""The lengths of generated answers as rows of a table, the baseline's first."""

from dataclasses import dataclass

from quantgate.components.run.artifacts import FLOWS, AnswerLengths, is_flow_task
from quantgate.components.run.verdicts import Decision


@dataclass(frozen=True)
class LengthRow:
    """One variant's answers to one task."""

    variant: str
    task: str
    answers: int
    cut: int
    """Number of answers that the token limit cut."""
    lengths: AnswerLengths
    longer: float | None
    """Growth of the mean length, from the baseline's; None for the baseline."""
    longer_lower: float | None
    longer_upper: float | None


def answer_lengths(decision: Decision) -> tuple[LengthRow, ...]:
    """A row for each variant and task whose answers were generated and whose tokens are known."""
    evidence = {(verdict.variant, task.task): task for verdict in decision.verdicts for task in verdict.tasks}
    rows = []
    for scores in decision.scores:
        for task in scores.tasks:
            if task.lengths is None or (is_flow_task(task.task) and task.task != FLOWS):
                continue
            compared = evidence.get((scores.variant, task.task))
            rows.append(
                LengthRow(
                    variant=scores.variant,
                    task=task.task,
                    answers=task.answers,
                    cut=task.cut,
                    lengths=task.lengths,
                    longer=compared.longer if compared else None,
                    longer_lower=compared.longer_lower if compared else None,
                    longer_upper=compared.longer_upper if compared else None,
                )
            )
    return tuple(rows)
