"""Store the plan's rows for the run, and compute the digest of its questions."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.benchmarks.selection import HUB, are_kept, kept_rows, source_of, suite_of, wanted_splits
from quantgate.components.benchmarks.suite_file import with_items
from quantgate.components.run import progress
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.storage.cache import cache_dir

if TYPE_CHECKING:
    from quantgate.components.benchmarks.harness import Prepared


def stored_rows(plan: EvaluationPlan, step: progress.Step, tokenizer: Path) -> EvaluationPlan:
    """The plan with a source that has all its rows; the hub's rows are copied to the store.

    `tokenizer` is the folder of the model's tokenizer, for the tasks whose rows are made with it.
    """
    from quantgate.components.benchmarks import ruler

    suite = suite_of(plan)
    if plan.data == HUB:
        from quantgate.components.benchmarks import mirror
        from quantgate.components.benchmarks.ifeval import WithPunkt
        from quantgate.components.benchmarks.row_sources import Hub

        splits, location = wanted_splits(suite), kept_rows(plan)
        if not are_kept(splits, location):
            mirror.make(
                splits,
                WithPunkt(Hub(cache_dir())),
                location,
                lambda name, done, total: step.advance(done, total, name),
            )
        plan = plan.model_copy(update={"data": location})
    if any(ruler.length_of(task.task) for task in suite.tasks):
        plan = plan.model_copy(update={"made_rows": make_rows(plan, str(tokenizer), step)})
    return plan


def prepared_tasks(
    plan: EvaluationPlan, step: progress.Step, tokenizer: Path
) -> "tuple[EvaluationPlan, list[Prepared]]":
    """The suite's tasks with their rows; and the plan with a source of all rows, and the questions' digest."""
    from quantgate.components.benchmarks.harness import prepare

    plan = stored_rows(plan, step, tokenizer)
    suite, source = suite_of(plan), source_of(plan)
    tasks = []
    for number, task in enumerate(suite.tasks):
        step.advance(number, len(suite.tasks), f"rows of {task.task}")
        tasks.append(prepare(task, source, plan.chat_template))
    items = {task.row.task: (task.row.tiny, task.row.full) for task in tasks}
    plan = plan.model_copy(update={"suite_kept": with_items(plan.suite_kept, items)})
    tasks = [replace(task, row=row) for task, row in zip(tasks, suite_of(plan).tasks, strict=True)]
    judge = f"judge {plan.judge} {plan.judge_model}" if plan.judge else ""  # another judge decides otherwise
    name = " ".join([suite.name, plan.irt_parameters, *filter(None, [plan.flows_sha256, judge, plan.tool_parser])])
    return plan.model_copy(update={"asked": digest_of(name, plan, tasks)}), tasks


def make_rows(plan: EvaluationPlan, tokenizer: str, step: progress.Step) -> str:
    """Make the rows that depend on the model's tokenizer, unless the store has them; returns their mirror."""
    from quantgate.components.benchmarks import ifeval, mirror, ruler, tasks

    splits = ruler.splits_of(task.task for task in suite_of(plan).tasks)
    location = ruler.rows_of_tokenizer(plan.store, tokenizer)
    if not are_kept(splits, location):
        ifeval.make_ready(source_of(plan))
        generated = ruler.MadeRows(tokenizer, tasks.generator)
        mirror.make(splits, generated, location, lambda name, done, total: step.advance(done, total, name))
    return location


def digest_of(suite: str, plan: EvaluationPlan, prepared: "Sequence[Prepared]") -> str:
    """sha256 of everything that determines the questions: suite, tasks, item counts, lm-eval's definitions, rows."""
    tasks = [
        (row.task, row.metric, row.shots, row.tiny, row.full, task.version, task.settings.model_dump())
        for task, row in ((task, task.row) for task in prepared)
    ]
    origins = [task.origin.describe() for task in prepared]
    content = json.dumps([version("lm_eval"), suite, plan.max_model_len, tasks, origins])
    return hashlib.sha256(content.encode()).hexdigest()
