"""Bring the plan's rows to where the run finds them."""

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
from typing import TYPE_CHECKING


def rows_at_hand(plan: EvaluationPlan, step: progress.Step) -> EvaluationPlan:
    """The plan with a place that has all its rows: what comes from the hub is kept as a mirror in the store."""
    from components.benchmarks.harness import prepare

    suite = suite_of(plan)
    if plan.data == HUB:
        from components.benchmarks import mirror
        from components.benchmarks.ifeval import WithPunkt
        from components.benchmarks.row_sources import Hub

        wanted, kept = wanted_splits(suite), kept_rows(plan)
        if not are_kept(wanted, kept):
            mirror.make(wanted, WithPunkt(Hub(cache_dir())), kept, lambda name, done, of: step.advance(done, of, name))
        plan = plan.model_copy(update={"data": kept})
    source = source_of(plan)
    prepared = [prepare(task, source, plan.chat_template) for task in suite.tasks]
    return plan.model_copy(update={"asked": digest_of(f"{suite.name} {plan.irt_parameters}", prepared)})


def digest_of(suite: str, prepared: "Sequence[Prepared]") -> str:
    """sha256 of all that is asked: suite, tasks, how many items, lm-eval's definitions and settings, and the rows."""
    asked = [
        (each.row.task, each.row.metric, each.row.shots, each.row.tiny, each.row.full, each.version, each.settings)
        for each in prepared
    ]
    told = json.dumps([version("lm_eval"), suite, asked, [each.source for each in prepared]])
    return hashlib.sha256(told.encode()).hexdigest()
