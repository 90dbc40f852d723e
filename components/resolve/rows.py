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


def prepare_rows(plan: EvaluationPlan, step: progress.Step) -> EvaluationPlan:
    """The plan with a source that has all its rows, and their digest; the hub's rows are copied to the store."""
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
    source = source_of(plan)
    prepared = [prepare(task, source, plan.chat_template) for task in suite.tasks]
    return plan.model_copy(update={"asked": digest_of(f"{suite.name} {plan.irt_parameters}", prepared)})


def digest_of(suite: str, prepared: "Sequence[Prepared]") -> str:
    """sha256 of everything that determines the questions: suite, tasks, item counts, lm-eval's definitions, rows."""
    tasks = [
        (row.task, row.metric, row.shots, row.tiny, row.full, task.version, task.settings.model_dump())
        for task, row in ((task, task.row) for task in prepared)
    ]
    content = json.dumps([version("lm_eval"), suite, tasks, [task.origin.describe() for task in prepared]])
    return hashlib.sha256(content.encode()).hexdigest()
