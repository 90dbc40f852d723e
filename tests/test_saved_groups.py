"""Groups of lm-eval's tasks, tasks without samples, chance levels and texts, in folders that lm-eval wrote."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantgate.components.benchmarks.suites import SUITES
from quantgate.components.errors import PrerequisiteError
from quantgate.components.gate.saved import read_candidate
from quantgate.components.run.artifacts import TaskScore

SCORES = {"a": [1.0] * 30, "b": [1.0] * 4 + [0.0] * 6}
OVER_ITEMS, OVER_TASKS = 34 / 40, 0.7


def saved(folder: Path, scores: dict[str, list[Any]], group: float | None = None) -> Path:
    """lm-eval's output for these items' scores, and this score of the group of all tasks."""
    folder.mkdir()
    for task, values in scores.items():
        rows = [
            {"doc_id": item, "arguments": [], "filtered_resps": [[-1.0, False], [-2.0, False]], "acc": value}
            for item, value in enumerate(values)
        ]
        (folder / f"samples_{task}_1.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    results: dict[str, Any] = {
        "configs": {task: {"output_type": "multiple_choice"} for task in scores},
        "results": {task: {"acc,none": float(np.mean([float(value) for value in scores[task]]))} for task in scores},
    }
    if group is not None:
        results |= {"group_subtasks": {"both": list(scores)}, "groups": {"both": {"acc,none": group}}}
    (folder / "results_1.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def tasks_of(folder: Path) -> tuple[TaskScore, ...]:
    """The scores in the folder, which must be valid."""
    candidate = read_candidate(folder)
    assert not candidate.failure
    return candidate.scores.tasks


def test_a_group_scored_over_its_items_is_one_task_with_lm_evals_score(tmp_path: Path) -> None:
    (task,) = tasks_of(saved(tmp_path / "x", SCORES, OVER_ITEMS))
    assert task.score == pytest.approx(OVER_ITEMS)
    assert (task.task, task.items) == ("both", 40)


@pytest.mark.fault("numbers", "A group of lm-eval's is the mean of its tasks, not of its items", "judged task by task")
def test_a_group_scored_as_the_mean_of_its_tasks_stays_apart(tmp_path: Path) -> None:
    tasks = tasks_of(saved(tmp_path / "x", SCORES, OVER_TASKS))
    assert {task.task: task.score for task in tasks} == {"a": 1.0, "b": pytest.approx(0.4)}


@pytest.mark.fault("numbers", "A group's score is no mean of its items or tasks", "failed, with both means")
def test_a_group_with_another_score_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", SCORES, 0.9)
    failure = read_candidate(folder).failure
    assert "group both is 0.900000, neither the mean over its items (0.850000) nor the mean of its tasks" in failure


@pytest.mark.fault("inputs", "Samples of a task that results_*.json lists are missing", "failed, the tasks named")
def test_tasks_without_samples_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", {**SCORES, "c": [1.0]})
    for task in ("a", "c"):
        (folder / f"samples_{task}_1.jsonl").unlink()
    assert "has no samples for a, c, which its results_*.json list" in read_candidate(folder).failure
    (folder / "samples_b_1.jsonl").unlink()
    (folder / "samples_of_others.jsonl").touch()
    with pytest.raises(PrerequisiteError, match="has no samples for a, b, c"):
        read_candidate(folder)


@pytest.mark.fault("inputs", "A score in lm-eval's samples is text", "refused")
def test_a_score_given_as_text_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", {"a": ["1.0", "0.0"]})
    with pytest.raises(PrerequisiteError, match=r"'1\.0' in place of a number"):
        read_candidate(folder)


@pytest.mark.fault("numbers", "Chance of TruthfulQA's mc2 in saved results", "the suites' 0.448, not 1 / choices")
def test_the_chance_level_of_a_shipped_task_is_the_suites(tmp_path: Path) -> None:
    shipped = {task.task: task.chance for task in SUITES["openllm"].tasks}
    tasks = tasks_of(saved(tmp_path / "x", {"truthfulqa_mc2": [0.5, 0.6], "other": [1.0, 0.0]}))
    assert {task.task: task.chance for task in tasks} == {"truthfulqa_mc2": 0.448, "other": 0.5}
    assert shipped["truthfulqa_mc2"] == 0.448
