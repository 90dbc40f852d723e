"""A task's score over its per-item records."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from components.benchmarks.suites import SuiteTask
from components.run.artifacts import TaskScore
from components.run.prompt_settings import PromptSettings

if TYPE_CHECKING:
    from components.run.records import Record


class NoScoreError(ValueError):
    """An answer has no score, as when the model gives every choice the probability zero."""


def score_of(row: SuiteTask, records: "Sequence[Record]", version: str, settings: PromptSettings) -> TaskScore:
    """The task's mean score over its records, with the standard error that lm-eval computes for a mean.

    For a perplexity task: the perplexity of all documents together, without a standard error.
    """
    answered = [record for record in records if record.task == row.task]
    scores = [record.score for record in answered if record.score is not None and math.isfinite(record.score)]
    if len(scores) < len(answered):
        raise NoScoreError(f"{row.task} has an item whose score is not a number: {row.metric} cannot be computed.")
    words = sum(record.units or 0.0 for record in answered)
    return TaskScore(
        task=row.task,
        metric=row.metric,
        score=math.exp(-math.fsum(scores) / words) if words else fmean(scores),
        stderr=stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 and not words else 0.0,
        items=len(scores),
        shots=row.shots,
        chance=row.chance,
        version=version,
        settings=settings,
        cut=sum(record.cut for record in answered),
    )
