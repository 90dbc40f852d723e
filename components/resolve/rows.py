"""Store the plan's rows for the run, and compute the digest of its questions."""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from components.benchmarks.selection import HUB, are_kept, kept_rows, source_of, suite_of, wanted_splits
from components.run import progress
from components.run.plan import EvaluationPlan
from components.storage.cache import cache_dir

if TYPE_CHECKING:
    from components.benchmarks.harness import Prepared


def stored_rows(plan: EvaluationPlan, step: progress.Step) -> EvaluationPlan:
    """The plan with a source that has all its rows; the hub's rows are copied to the store."""
    if plan.data != HUB:
        return plan
    from components.benchmarks import mirror
    from components.benchmarks.ifeval import WithPunkt
    from components.benchmarks.row_sources import Hub

    splits, location = wanted_splits(suite_of(plan)), kept_rows(plan)
    if not are_kept(splits, location):
        mirror.make(
            splits,
            WithPunkt(Hub(cache_dir())),
            location,
            lambda name, done, total: step.advance(done, total, name),
        )
    return plan.model_copy(update={"data": location})


def prepared_tasks(plan: EvaluationPlan, step: progress.Step) -> "tuple[EvaluationPlan, list[Prepared]]":
    """The suite's tasks with their rows; and the plan with a source of all rows, and the questions' digest."""
    from components.benchmarks.harness import prepare

    plan = stored_rows(plan, step)
    suite, source = suite_of(plan), source_of(plan)
    tasks = []
    for number, task in enumerate(suite.tasks):
        step.advance(number, len(suite.tasks), f"rows of {task.task}")
        tasks.append(prepare(task, source, plan.chat_template))
    return plan.model_copy(update={"asked": digest_of(f"{suite.name} {plan.irt_parameters}", plan, tasks)}), tasks


def digest_of(suite: str, plan: EvaluationPlan, prepared: "Sequence[Prepared]") -> str:
    """sha256 of everything that determines the questions: suite, tasks, item counts, lm-eval's definitions, rows."""
    tasks = [
        (row.task, row.metric, row.shots, row.tiny, row.full, task.version, task.settings.model_dump())
        for task, row in ((task, task.row) for task in prepared)
    ]
    origins = [task.origin.describe() for task in prepared]
    content = json.dumps([version("lm_eval"), suite, plan.max_model_len, tasks, origins])
    return hashlib.sha256(content.encode()).hexdigest()
