"""Stop a variant's evaluation once no answer could change its verdict."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from components.benchmarks import selection, suites
from components.models.variants import BASELINE
from components.run.artifacts import Scores, Weights
from components.run.plan import EvaluationPlan
from components.run.results import AGAIN, FULL, RunResults, VariantResults

if TYPE_CHECKING:
    from components.evaluate.evaluation import Enough
    from components.evidence.candidate import Candidate


def stopping(tiny: Scores, plan: EvaluationPlan) -> "Enough | None":
    """Whether a variant's answers are enough, told with the baseline's; None where that is not to be asked.

    The baseline is always asked everything, and a variant too whose baseline has not been (on a cluster that serves
    them side by side).
    """
    from components.evidence import saved_answers
    from components.evidence.stopping import Stopping
    from components.run import records

    if not plan.stop_early or tiny.failure or tiny.variant == BASELINE:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        baseline = kept_candidate(BASELINE, plan.results, Path(scratch))
    weights = RunResults(plan.results).weights(tiny.variant).read(Weights)
    if baseline is None or weights is None or baseline.weights.digest != weights.baseline_digest:
        return None
    rule = Stopping(plan.decided_limits, baseline, weights, len(plan.variants) - 1)
    return lambda scores, found: rule.enough(scores, saved_answers.by_task(records.table(found)))


def stopped_after_tiny(tiny: Scores, plan: EvaluationPlan, enough: "Enough") -> Scores | None:
    """The tiny stage's scores as the last of a variant that they reject; None where it goes on."""
    from components.run import records

    suite = selection.suite_of(plan)
    planned = sum(task.items(suites.FULL) for task in suite.tasks)
    looked = tiny.model_copy(update={"look": 1, "looks": len(suite.looks), "planned_items": planned})
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "records.parquet"
        found = RunResults(plan.results).records(tiny.variant, suites.TINY).get(file)
        return looked if found and looked.looks > 1 and enough(looked, records.read(file)) else None


def kept_candidate(variant: str, results: str, scratch: Path) -> "Candidate | None":
    """A variant with all its answers as the results keep them; None before its full stage has ended."""
    from components.evidence import saved_answers

    kept, here = RunResults(results).variant(variant), VariantResults(str(scratch))
    needed = (
        (kept.weights, here.weights),
        (kept.scores(FULL), here.scores(FULL)),
        (kept.records(FULL), here.records(FULL)),
    )
    if not all(file.get(copy.path) for file, copy in needed):
        return None
    kept.records(AGAIN).get(here.records(AGAIN).path)  # where a second pass was asked for
    return saved_answers.read_ours(scratch)
