"""Test what a server answers: the suites' items, asked through lm-eval, as scores and per-item records."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from components.artifacts import Scores, Server, TaskScore
from components.errors import PrerequisiteError
from components.evaluate.suites import FULL, Suite, SuiteTask
from components.progress import Step

if TYPE_CHECKING:
    from components.evaluate.ledger import Ledger
    from components.evaluate.records import Record

Enough = Callable[[Scores, "list[Record]"], bool]
"""Whether the answers of a look at them, told with their scores, are enough."""


def evaluate(
    server: Server,
    suite: Suite,
    stage: str,
    step: Step,
    records_file: Path,
    ledger: "Ledger | None" = None,
    enough: Enough | None = None,
) -> Scores:
    """Ask the server the stage's items and score them; one record an item goes to `records_file` (Parquet).

    With `enough` the full stage is asked in blocks, in the items' fixed random order, until that says so; when it is
    asked, says components/gate/looks.py.

    What the ledger has is not asked again, and every answer goes there as it arrives; it must be the one of the
    server's `identity`. A server that fails, dies or answers garbage gives scores with a `failure` and no records:
    never a number.
    """
    nothing = Scores(variant=server.variant, suite=suite.name, stage=stage, failure=server.failure)
    if server.failure:
        return nothing
    from components.evaluate import records
    from components.evaluate.client import ServerFailedError
    from components.evaluate.endpoint import Endpoint, UnscorableError
    from components.evaluate.harness import ask, items_of
    from components.evaluate.rows import embedded

    started = time.monotonic()
    rows = {task.task: embedded(task.task) for task in suite.tasks}
    shares = suite.looks if enough and stage == FULL else (1.0,)
    looks = list(enumerate(shares, 1))[-max(len(shares) - 1, 1) :]  # the first was the tiny stage
    found: list[records.Record] = []
    total = sum(task.items(stage) for task in suite.tasks)
    try:
        endpoint = Endpoint(server.url, server.served_name, server.model_path, server.max_model_len, ledger=ledger)
        for look, share in looks:
            asked = {(each.task, each.item_id) for each in found}
            for task in suite.tasks:
                items = items_of(task, len(rows[task.task].dataset()), stage, share)
                new = [item for item in items if (task.task, item) not in asked]
                endpoint.watch(teller(step, task.task, len(found), len(new), total))
                found += ask(task, new, rows[task.task], endpoint, server.variant) if new else []
            scores = nothing.model_copy(
                update={
                    "tasks": tuple(score_of(task, found) for task in suite.tasks),
                    "records": str(records_file),
                    "engine": server.engine,
                    "rows_source": "; ".join(each.source for each in rows.values()),
                    "duration_s": time.monotonic() - started,
                    "requests": endpoint.requests,
                    "reused": endpoint.reused,
                    "look": look,
                    "looks": len(shares),
                    "planned_items": total,
                }
            )
            if enough and look < len(shares) and enough(scores, found):
                break
    except ServerFailedError as error:
        what = f"The server stopped answering during {stage}: {error} Its log: {server.log}"
        return nothing.model_copy(update={"failure": what})
    except (UnscorableError, PrerequisiteError) as error:
        return nothing.model_copy(update={"failure": f"{error} The server's log: {server.log}"})
    step.advance(total, total)
    order = {task.task: place for place, task in enumerate(suite.tasks)}
    records.write(sorted(found, key=lambda each: (order[each.task], each.item_id)), records_file)
    return scores


def teller(step: Step, task: str, done: int, items: int, total: int) -> Callable[[int, int], None]:
    """Turns the answers of one task's requests into the items of the stage that are done."""

    def tell(answered: int, asked: int) -> None:
        step.advance(done + items * answered // asked, total, task)

    return tell


def score_of(task: SuiteTask, found: "list[Record]") -> TaskScore:
    """The task's mean score over its records, with the standard error that lm-eval gives to a mean."""
    scores = [each.score for each in found if each.task == task.task]
    if not all(math.isfinite(score) for score in scores):
        raise ValueError(f"{task.task} has an item whose score is not a number")
    from components.evaluate.harness import task_settings, task_version

    return TaskScore(
        task=task.task,
        metric=task.metric,
        score=fmean(scores),
        stderr=stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0,
        items=len(scores),
        shots=task.shots,
        chance=task.chance,
        version=task_version(task.task),
        settings=task_settings(task.task),
    )
