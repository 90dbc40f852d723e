"""Groups of lm-eval's tasks: one task where lm-eval's own score is the mean over all items, else a task each."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Rows = list[dict[str, Any]]
TOLERANCE = 1e-6


class GroupScore(NamedTuple):
    """A group's score in lm-eval's results, and the two means of its tasks' scores that it may be."""

    name: str
    """Metric and filter. lm-eval may score a group by another metric than the gate compares, with the same weights."""
    reported: float
    over_items: float
    over_tasks: float

    @property
    def is_over_items(self) -> bool:
        """Whether each item has the same weight."""
        return math.isclose(self.reported, self.over_items, abs_tol=TOLERANCE)

    @property
    def is_over_tasks(self) -> bool:
        """Whether each task has the same weight, as with `weight_by_size: false`."""
        return math.isclose(self.reported, self.over_tasks, abs_tol=TOLERANCE)


def grouped(results: Mapping[str, Any], rows: Mapping[str, Rows]) -> Iterator[tuple[str, Rows]]:
    """Each task's rows; a group that lm-eval scores as the mean over its items is one task, with its tasks as clusters.

    The tasks of another group stay apart: of one whose score is the mean of its tasks' scores, of one without a score,
    and of one with several metrics.
    """
    joined: set[str] = set()
    groups = members_of_groups(results)
    for group in sorted(groups, key=lambda name: -len(groups[name])):  # MMLU before its subject groups
        members = groups[group]
        score = None if joined & set(members) else _score(group, members, results, rows)
        if score and score.is_over_items:
            joined.update(members)
            yield group, [{**row, "cluster": task} for task in members for row in rows[task]]
    yield from ((task, task_rows) for task, task_rows in rows.items() if task not in joined)


def group_fault(results: Mapping[str, Any], rows: Mapping[str, Rows]) -> str:
    """The first group whose score is neither mean; empty if there is none."""
    for group, members in members_of_groups(results).items():
        score = _score(group, members, results, rows)
        if score and not score.is_over_items and not score.is_over_tasks:
            return (
                f"{score.name} of the group {group} is {score.reported:.6f}, neither the mean over its items"
                f" ({score.over_items:.6f}) nor the mean of its tasks ({score.over_tasks:.6f}). Run lm-eval again."
            )
    return ""


def members_of_groups(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """The tasks of each group that lm-eval scored, those of groups in it included."""
    subtasks = {name: list(members) for name, members in (results.get("group_subtasks") or {}).items() if members}

    def leaves(name: str) -> list[str]:
        return [leaf for subtask in subtasks[name] for leaf in leaves(subtask)] if name in subtasks else [name]

    return {name: list(dict.fromkeys(leaves(name))) for name in results.get("groups") or {} if name in subtasks}


def _score(group: str, members: list[str], results: Mapping[str, Any], rows: Mapping[str, Rows]) -> GroupScore | None:
    """The group's score; None if it has none for all its tasks, or if the gate cannot compare them as one task."""
    chosen = {(row["metric"], row["filter"], row["units"] is None) for task in members for row in rows.get(task, ())}
    if len(chosen) != 1 or not all(rows.get(task) for task in members):
        return None
    ((metric, filter_name, is_share),) = chosen
    reported = {
        name: score
        for name, score in results["groups"][group].items()
        if "," in name and "_stderr," not in name and isinstance(score, float)
    }
    names = [name for name in reported if all(name in results["results"][task] for task in members)]
    if not names or not is_share:  # the perplexity of documents is no mean of theirs
        return None
    name = min(names, key=lambda name: name != f"{metric},{filter_name}")
    scores = [results["results"][task][name] for task in members]
    over_items = float(np.average(scores, weights=[len(rows[task]) for task in members]))
    return GroupScore(name, reported[name], over_items, float(np.mean(scores)))
