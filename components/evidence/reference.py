"""The reference of a run is its baseline: without the baseline's scores no variant can be judged.

Nor can it be if the baseline does not score what others have published for it, see published_check.
"""

from quantgate.components.evidence.published_check import not_as_published
from quantgate.components.models.variants import BASELINES
from quantgate.components.run.artifacts import Scores
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import FULL, RunResults


def not_judged(reason: str) -> str:
    """The sentence about a variant whose baseline has no scores, for this reason."""
    return f"Not judged: the baseline has no scores. {reason}"


def without_reference(variant: str, plan: EvaluationPlan) -> str:
    """Why this variant cannot be judged: the run's baseline has ended without scores, or too far from published ones.

    Empty for the baseline itself, and while the baseline may still get scores: from its server, the ledger or MLflow.
    """
    if variant in BASELINES:
        return ""
    saved = RunResults(plan.results).variant(plan.baseline)
    scores = saved.scores(FULL).read(Scores)  # a failure of an earlier step is in it, unless the ledger had the answers
    if scores is None:
        return ""
    return not_judged(scores.failure) if scores.failure else not_as_published(plan.limits, scores)
