"""The reference of a run is its baseline: without the baseline's scores no variant can be judged.

Nor can it be if the baseline does not score what others have published for it, see published_check.
"""

from quantgate.components.evidence.published_check import not_as_published
from quantgate.components.models.variants import BASELINE, BASELINES
from quantgate.components.policies.policy import UseCase
from quantgate.components.run.artifacts import Scores
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import FULL, RunResults


def not_judged(reason: str) -> str:
    """The sentence about a variant whose baseline has no scores, for this reason."""
    return f"Not judged: the baseline has no scores. {reason}"


def without_reference(variant: str, results: str, use_case: UseCase | None = None) -> str:
    """Why this variant cannot be judged: the run's baseline has ended without scores, or too far from published ones.

    Empty for the baseline itself, and while the baseline may still get scores: from its server, the ledger or MLflow.
    """
    if variant in BASELINES:
        return ""
    plan = RunResults(results).plan.read(EvaluationPlan)
    saved = RunResults(results).variant(plan.baseline if plan else BASELINE)
    scores = saved.scores(FULL).read(Scores)  # a failure of an earlier step is in it, unless the ledger had the answers
    if scores is None:
        return ""
    return not_judged(scores.failure) if scores.failure else not_as_published(use_case, scores)
