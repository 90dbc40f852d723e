"""The baseline's scores of an earlier run, from MLflow."""

import tempfile
import time
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.artifacts import Server, Weights
from quantgate.components.run.load_results import OFF
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import AGAIN, FULL, RunResults, VariantResults
from quantgate.components.run.server_identity import ServerIdentity


def scored_before(weights: Weights, plan: EvaluationPlan, identity: ServerIdentity) -> Server | None:
    """Copy the baseline's scores from MLflow to the results, and return a Server that need not be started.

    None when MLflow has no scores for the same questions, from a server with the same settings. None too when the
    server must be there for a load test.
    """
    if weights.variant != plan.baseline or not plan.ledger or not plan.tracking_uri or plan.speed != OFF:
        return None
    from quantgate.components.tracking.earlier import find_baseline_scores

    with tempfile.TemporaryDirectory() as scratch:
        try:
            earlier = find_baseline_scores(weights, plan, identity, plan.tracking_uri, Path(scratch))
        except PrerequisiteError:  # without MLflow the baseline is served and scored again
            return None
        if not earlier:
            return None
        saved, downloaded = RunResults(plan.results).variant(plan.baseline), VariantResults(scratch)
        uris = {
            stage: saved.records(stage).put(downloaded.records(stage).path)
            for stage in (FULL, *((AGAIN,) if plan.noise_floor else ()))
        }
        copied = {"records": uris[FULL], "again": uris.get(AGAIN, ""), "ended_at": time.time()}
        saved.scores(FULL).write(earlier.model_copy(update=copied))
    return Server(variant=plan.baseline, engine=earlier.engine, identity=identity, scored_in=earlier.scored_in)
