"""Stop a variant's evaluation once more answers cannot change its verdict."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.benchmarks import selection, suites
from quantgate.components.run.artifacts import Scores, Weights
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults

if TYPE_CHECKING:
    from quantgate.components.evaluate.evaluation import StopRule


def stop_rule(tiny: Scores, plan: EvaluationPlan) -> "StopRule | None":
    """The rule that stops this variant's evaluation, by comparison with the baseline's answers; None for no rule.

    The baseline always answers every item. So does a variant whose baseline is not finished yet, as on a cluster that
    serves both at the same time.
    """
    from quantgate.components.evidence import saved_answers
    from quantgate.components.evidence.search import expected_in
    from quantgate.components.evidence.stopping import Stopping
    from quantgate.components.run import records

    if not plan.stop_early or tiny.failure or tiny.variant == plan.baseline:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        baseline = saved_answers.saved_candidate(plan.baseline, plan.results, Path(scratch))
    weights = RunResults(plan.results).weights(tiny.variant).read(Weights)
    if baseline is None or weights is None or baseline.weights.digest != weights.baseline_digest:
        return None
    untried = dict.fromkeys(plan.variants[plan.variants.index(tiny.variant) + 1 :], "") if plan.search else {}
    attempt = expected_in(plan, baseline.weights.digest, {weights.variant: weights.digest} | untried)
    rule = Stopping(plan.decided_limits, baseline, weights, len(plan.variants) - 1, attempt)
    return lambda scores, rows: rule.enough(scores, saved_answers.by_task(records.table(rows)))


def stopped_after_tiny(tiny: Scores, plan: EvaluationPlan, may_stop: "StopRule") -> Scores | None:
    """The tiny stage's scores as the variant's final scores when they reject it; None when the full stage must run."""
    from quantgate.components.run import records

    suite = selection.suite_of(plan)
    planned = sum(task.items(suites.FULL) for task in suite.tasks) - sum(plan.too_long.values())
    first_look = tiny.model_copy(update={"look": 1, "looks": len(suite.looks), "planned_items": planned})
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "records.parquet"
        exists = RunResults(plan.results).records(tiny.variant, suites.TINY).get(file)
        stops = exists and first_look.looks > 1 and may_stop(first_look, records.read(file))
        return first_look if stops else None
