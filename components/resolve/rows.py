"""Store the plan's rows for the run, and compute the digest of its questions."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from components.benchmarks.selection import HUB, are_kept, kept_rows, source_of, suite_of, wanted_splits
from components.benchmarks.suite_file import with_items
from components.run import progress
from components.run.plan import EvaluationPlan
from components.storage.cache import cache_dir

if TYPE_CHECKING:
    from components.benchmarks.harness import Prepared


def prepare_rows(plan: EvaluationPlan, step: progress.Step, tokenizer: Callable[[], str]) -> EvaluationPlan:
    """The plan with a source that has all its rows, and their digest; the hub's rows are copied to the store.

    `tokenizer` returns the folder of the model's tokenizer; it is called only for tasks whose rows it makes.
    """
    from components.benchmarks import ruler
    from components.benchmarks.harness import prepare

    suite = suite_of(plan)
    if plan.data == HUB:
        from components.benchmarks import mirror
        from components.benchmarks.ifeval import WithPunkt
        from components.benchmarks.row_sources import Hub

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
        plan = plan.model_copy(update={"made_rows": make_rows(plan, tokenizer(), step)})
    source = source_of(plan)
    prepared = [prepare(task, source, plan.chat_template) for task in suite.tasks]
    items = {task.row.task: (task.row.tiny, task.row.full) for task in prepared}
    plan = plan.model_copy(update={"suite_kept": with_items(plan.suite_kept, items)})
    prepared = [replace(task, row=row) for task, row in zip(prepared, suite_of(plan).tasks, strict=True)]
    return plan.model_copy(update={"asked": digest_of(f"{suite.name} {plan.irt_parameters}", prepared)})


def make_rows(plan: EvaluationPlan, tokenizer: str, step: progress.Step) -> str:
    """Make the rows that depend on the model's tokenizer, unless the store has them; returns their mirror."""
    from components.benchmarks import ifeval, mirror, ruler, tasks

    splits = ruler.splits_of(task.task for task in suite_of(plan).tasks)
    location = ruler.rows_of_tokenizer(plan.store, tokenizer)
    if not are_kept(splits, location):
        ifeval.make_ready(source_of(plan))
        generated = ruler.MadeRows(tokenizer, tasks.generator)
        mirror.make(splits, generated, location, lambda name, done, total: step.advance(done, total, name))
    return location


def digest_of(suite: str, prepared: "Sequence[Prepared]") -> str:
    """sha256 of everything that determines the questions: suite, tasks, item counts, lm-eval's definitions, rows."""
    tasks = [
        (
            task.row.task,
            task.row.metric,
            task.row.filter,
            task.row.shots,
            task.row.tiny,
            task.row.full,
            task.version,
            task.settings,
        )
        for task in prepared
    ]
    content = json.dumps([version("lm_eval"), suite, tasks, [task.origin.describe() for task in prepared]])
    return hashlib.sha256(content.encode()).hexdigest()
