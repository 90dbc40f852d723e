"""A task's score over its per-item records."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from components.benchmarks.suites import SuiteTask
from components.run.artifacts import TaskScore

if TYPE_CHECKING:
    from components.run.records import Record


class NoScoreError(ValueError):
    """An answer from which no score comes: every choice was impossible to the model, say."""


def score_of(row: SuiteTask, found: "Sequence[Record]", version: str, settings: str) -> TaskScore:
    """The task's mean score over its records, with the standard error that lm-eval gives to a mean.

    Of a perplexity task it is that of all documents together, without a standard error.
    """
    answered = [each for each in found if each.task == row.task]
    scores = [each.score for each in answered if each.score is not None and math.isfinite(each.score)]
    if len(scores) < len(answered):
        raise NoScoreError(f"{row.task} has an item whose score is not a number: {row.metric} cannot be computed.")
    words = sum(each.units or 0.0 for each in answered)
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
        cut=sum(each.cut for each in answered),
    )
