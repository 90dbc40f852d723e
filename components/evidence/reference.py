"""The reference of a run is its baseline: without the baseline's scores no variant can be judged."""

from quantgate.components.models.variants import BASELINE
from quantgate.components.run.artifacts import Scores
from quantgate.components.run.results import FULL, RunResults


def not_judged(reason: str) -> str:
    """The sentence about a variant whose baseline has no scores, for this reason."""
    return f"Not judged: the baseline has no scores. {reason}"


def without_reference(variant: str, results: str) -> str:
    """Why this variant cannot be judged: the run's baseline has ended without scores.

    Empty for the baseline itself, and while the baseline may still get scores: from its server, the ledger or MLflow.
    """
    if variant == BASELINE:
        return ""
    saved = RunResults(results).variant(BASELINE)
    scores = saved.scores(FULL).read(Scores)  # a failure of an earlier step is in it, unless the ledger had the answers
    return not_judged(scores.failure) if scores and scores.failure else ""
