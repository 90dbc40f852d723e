"""The reference of a run is its baseline: without the baseline's scores no variant can be judged."""

from components.models.variants import BASELINE, BASELINES
from components.run.artifacts import Scores
from components.run.plan import EvaluationPlan
from components.run.results import FULL, RunResults


def not_judged(reason: str) -> str:
    """The sentence about a variant whose baseline has no scores, for this reason."""
    return f"Not judged: the baseline has no scores. {reason}"


def without_reference(variant: str, results: str) -> str:
    """Why this variant cannot be judged: the run's baseline has ended without scores.

    Empty for the baseline itself, and while the baseline may still get scores: from its server, the ledger or MLflow.
    """
    if variant in BASELINES:
        return ""
    plan = RunResults(results).plan.read(EvaluationPlan)
    saved = RunResults(results).variant(plan.baseline if plan else BASELINE)
    scores = saved.scores(FULL).read(Scores)  # a failure of an earlier step is in it, unless the ledger had the answers
    return not_judged(scores.failure) if scores and scores.failure else ""
