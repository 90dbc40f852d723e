"""The baseline's scores where MLflow has them."""

import tempfile
from pathlib import Path

from components.errors import PrerequisiteError
from components.models.variants import BASELINE
from components.run.artifacts import Server, Weights
from components.run.plan import EvaluationPlan
from components.run.results import AGAIN, FULL, RunResults, VariantResults


def scored_before(made: Weights, plan: EvaluationPlan, identity: str, tracking_uri: str) -> Server | None:
    """A server that need not be started: MLflow has the baseline's scores, which are in the results now. Else None."""
    if made.variant != BASELINE or not plan.ledger or not tracking_uri:
        return None
    from components.tracking.earlier import find_baseline_scores

    with tempfile.TemporaryDirectory() as scratch:
        try:
            held = find_baseline_scores(made, plan, identity, tracking_uri, Path(scratch))
        except PrerequisiteError:  # it is asked then
            return None
        if not held:
            return None
        kept, brought = RunResults(plan.results).variant(BASELINE), VariantResults(scratch)
        uris = {
            stage: kept.records(stage).put(brought.records(stage).path)
            for stage in (FULL, *((AGAIN,) if plan.noise_floor else ()))
        }
        kept.scores(FULL).write(held.model_copy(update={"records": uris[FULL], "again": uris.get(AGAIN, "")}))
    return Server(variant=BASELINE, engine=held.engine, identity=identity, scored_in=held.scored_in)
