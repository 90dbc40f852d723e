"""Answers of two models to the same items, drawn with a seed, for the gate's tests and benchmarks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from quantgate.components.evidence.answers import Answers, answers
from quantgate.components.evidence.candidate import Candidate, candidate
from quantgate.components.run import records
from quantgate.components.run.artifacts import Scores, TaskScore, Weights

Numbers = NDArray[np.float64]


def pair_of(lost: int, gained: int, right: int, wrong: int) -> tuple[Numbers, Numbers]:
    """Scores before and after of so many items lost, gained, right both times and wrong both times.

    The baseline's right answers come first, so the baseline's scores depend only on their number, not on the variant.
    """
    before = np.repeat([1.0, 1.0, 0.0, 0.0], [lost, right, gained, wrong])
    return before, np.repeat([0.0, 1.0, 1.0, 0.0], [lost, right, gained, wrong])


def table_of(scores: Numbers, clusters: list[str] | None = None, **columns: Any) -> pyarrow.Table:
    """A table of per-item records with these scores, two choices each; the better one is further ahead when right."""
    names = [str(place) for place in range(len(scores))]
    if "units" in columns:
        logliks = [[score] for score in columns.get("score", scores)]
    else:
        logliks = [[-1.0 - score, -2.0 + score] for score in scores]
    contents = {
        "item_id": list(range(len(scores))),
        "item_hash": names,
        "prompt_hash": names,
        "score": scores,
        "truncated": [False] * len(scores),
        "logliks": logliks,
        **({"cluster": clusters} if clusters else {}),
        **columns,
    }
    return pyarrow.table(contents)


def answers_of(task: str, scores: Numbers, clusters: list[str] | None = None, **columns: Any) -> Answers:
    return answers(task, table_of(scores, clusters, **columns))


def candidate_of(
    variant: str, by_task: Mapping[str, Answers], *, chance: float = 0.0, look: int = 1, looks: int = 1
) -> Candidate:
    """A candidate with these answers and the scores computed from them."""
    tasks = tuple(
        TaskScore(
            task=task,
            metric="acc" if task_answers.units is None else "word_perplexity",
            score=float(
                task_answers.scores.mean()
                if task_answers.units is None
                else np.exp(-task_answers.scores.sum() / task_answers.units.sum())
            ),
            stderr=0.0,
            items=task_answers.items,
            shots=0,
            chance=chance,
            version="1",
        )
        for task, task_answers in by_task.items()
    )
    scores = Scores(
        variant=variant,
        suite="drawn",
        stage="full",
        tasks=tasks,
        look=look,
        looks=looks,
        planned_items=10_000 if look < looks else 0,
    )
    return candidate(Weights(variant=variant, baseline_digest="d0", size_bytes=100), scores, "drawn", by_task)


def write_results(folder: Path, candidate: Candidate) -> Path:
    """Write the candidate's results as a run does; returns the folder."""
    candidate.scores.write(folder / "full.json")
    candidate.weights.write(folder / "weights.json")
    rows = [
        records.Record(
            variant=candidate.name,
            task=task,
            item_id=int(row["id"]),
            item_hash=row["item_hash"],
            metric="acc",
            score=row["score"],
            target=0,
            logliks=row["logliks"],
            greedy=[False, False],
            prompt_hash=row["prompt_hash"],
            tokens=10,
            truncated=row["truncated"],
        )
        for task, scores in candidate.answers.items()
        for row in scores.table.to_pylist()
    ]
    records.write(rows, folder / "full.parquet")
    return folder
