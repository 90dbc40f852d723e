"""A task's score over its per-item records."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

from quantgate.components.benchmarks.suites import SuiteTask
from quantgate.components.run.artifacts import AnswerLengths, TaskScore
from quantgate.components.run.prompt_settings import PromptSettings

if TYPE_CHECKING:
    from quantgate.components.run.records import Record


class NoScoreError(ValueError):
    """An answer has no score, as when the model gives every choice the probability zero."""


def score_of(row: SuiteTask, records: "Sequence[Record]", version: str, settings: PromptSettings) -> TaskScore:
    """The task's mean score over its records, with the standard error that lm-eval computes for a mean.

    An item that was asked several times counts once, with the mean of its answers' scores. For a perplexity task: the
    perplexity of all documents together, without a standard error.
    """
    answered = [record for record in records if record.task == row.task]
    scores = [record.score for record in answered if record.score is not None and math.isfinite(record.score)]
    if len(scores) < len(answered):
        raise NoScoreError(f"{row.task} has an item whose score is not a number: {row.metric} cannot be computed.")
    words = sum(record.units or 0.0 for record in answered)
    by_item: dict[tuple[str, int], list[float]] = defaultdict(list)
    for record, score in zip(answered, scores, strict=True):
        by_item[record.cluster, record.item_id].append(score)
    means = [fmean(item_scores) for item_scores in by_item.values()]
    return TaskScore(
        task=row.task,
        metric=row.metric,
        score=math.exp(-math.fsum(scores) / words) if words else fmean(scores),
        stderr=stdev(means) / math.sqrt(len(means)) if len(means) > 1 and not words else 0.0,
        items=len(means),
        shots=row.shots,
        chance=row.chance,
        version=version,
        settings=settings,
        cut=sum(record.cut for record in answered),
        lengths=lengths_of(answered),
    )


def lengths_of(answered: "Sequence[Record]") -> AnswerLengths | None:
    """How long the answers are; None unless the number of tokens of every answer is known."""
    tokens = [record.answer_tokens for record in answered if record.answer_tokens is not None]
    if not tokens or len(tokens) < len(answered):
        return None
    thinking = [record.thinking_tokens for record in answered if record.thinking_tokens is not None]
    return AnswerLengths(
        median=median(tokens),
        p95=percentile_95(tokens),
        thinking_median=median(thinking) if any(thinking) else None,
        limit=max(record.answer_limit or 0 for record in answered),
    )


def percentile_95(values: Sequence[float]) -> float:
    """The smallest value that at least 95 % of the values do not exceed."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]
