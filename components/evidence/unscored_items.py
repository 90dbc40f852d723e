"""Items of flows on which a judge gave no verdict for some variant: they count for no variant."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
import pyarrow

from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.candidate import Candidate
from quantgate.components.run.artifacts import Scores, TaskScore, is_flow_task

ByTask = dict[str, Answers]


def with_scored_items(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates without the items that a judge gave no verdict on for one of them."""
    answers = {row.name: dict(row.answers) for row in candidates if row.answers}
    scores, kept, note = without_unscored([row.scores for row in candidates], answers)
    if not note:
        return list(candidates)
    return [
        replace(row, scores=rescored, answers=kept.get(row.name, {}))
        for row, rescored in zip(candidates, scores, strict=True)
    ]


def without_unscored(
    scores: Sequence[Scores], answers: Mapping[str, ByTask]
) -> tuple[list[Scores], dict[str, ByTask], str]:
    """The scores and answers without them, and a note for readers; empty if every item has a score.

    Only a rubric without a verdict leaves a flow's item without a record. So the items that count are those that all
    variants with answers to flows have. A task without such an item is left out for all.
    """
    flowed = [name for name, by_task in answers.items() if any(map(is_flow_task, by_task))]
    tasks = sorted({task for name in flowed for task in answers[name] if is_flow_task(task)})
    kept_answers = {name: dict(by_task) for name, by_task in answers.items()}
    missing: dict[str, int] = {}
    for task in tasks:
        ids = [set(answers[name][task].table["id"].to_pylist()) if task in answers[name] else set() for name in flowed]
        common, all_ids = reduce(set.intersection, ids), reduce(set.union, ids)
        if len(common) == len(all_ids):
            continue
        missing[task] = len(all_ids) - len(common)
        for name in flowed:
            answered = kept_answers[name].pop(task, None)
            if answered is not None and common:
                kept_answers[name][task] = answered.only(pyarrow.chunked_array([sorted(common)]))
    kept_scores = [
        _rescored(row, kept_answers[row.variant], missing) if row.variant in flowed else row for row in scores
    ]
    counts = ", ".join(f"{count} of {task}" for task, count in missing.items())
    return kept_scores, kept_answers, f"all variants, as the judge gave no verdict on each: {counts}" if counts else ""


def _rescored(row: Scores, answers: ByTask, missing: Mapping[str, int]) -> Scores:
    tasks = [
        _score(task, answers[task.task].scores) if task.task in missing else task
        for task in row.tasks
        if task.task not in missing or task.task in answers
    ]
    return row.model_copy(update={"tasks": tuple(tasks)})


def _score(task: TaskScore, scores: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> TaskScore:
    count = len(scores)
    stderr = float(scores.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    return task.model_copy(update={"score": float(scores.mean()), "stderr": stderr, "items": count})
