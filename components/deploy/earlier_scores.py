"""The baseline's scores where MLflow has them."""

import tempfile
from pathlib import Path

from components.errors import PrerequisiteError
from components.models.variants import BASELINE
from components.run.artifacts import Server, Weights
from components.run.plan import EvaluationPlan
from components.storage.location import open_store


def scored_before(made: Weights, plan: EvaluationPlan, identity: str, tracking_uri: str) -> Server | None:
    """A server that need not be started: MLflow has the baseline's scores, which are in the results now. Else None."""
    if made.variant != BASELINE or not plan.ledger or not tracking_uri:
        return None
    from components.tracking.earlier import scored

    with tempfile.TemporaryDirectory() as scratch:
        try:
            held = scored(made, plan, identity, tracking_uri, Path(scratch))
        except PrerequisiteError:  # it is asked then
            return None
        if not held:
            return None
        store = open_store(plan.results)
        places = {
            name: store.put_file(Path(scratch) / f"{name}.parquet", f"variants/{BASELINE}/{name}.parquet")
            for name in ("full", *(("again",) if plan.noise_floor else ()))
        }
        told = held.model_copy(update={"records": places["full"], "again": places.get("again", "")})
        store.put_text(told.model_dump_json(indent=2) + "\n", f"variants/{BASELINE}/full.json")
    return Server(variant=BASELINE, engine=held.engine, identity=identity, scored_in=held.scored_in)
