"""What MLflow holds already: the scores of a baseline, and the verdict on a base model."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from components.errors import PrerequisiteError
from components.run.artifacts import Decision, Model, Scores, Weights
from components.run.plan import EvaluationPlan
from components.run.results import AGAIN, FULL, VariantResults
from components.storage.artifact import Artifact
from components.storage.location import open_store
from components.tracking.connect import connected
from components.tracking.tags import DECISION, EXPERIMENTS, JUDGED_BY, SCORES, VARIANT_TAG, experiment_name
from components.tracking.tracked_run import TrackedRun, where

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

A = TypeVar("A", bound=Artifact)
LOOKED_AT = 20
"""Runs, the newest first, that may hold what is looked for."""


def judged_by(plan: EvaluationPlan) -> str:
    """sha256 of all that a verdict depends on beside the base model: what is made, what is asked, what is allowed."""
    parts = plan.model_dump(
        include={"variants", "asked", "stop_early", "noise_floor", "calibration_samples", "calibration_tokens"}
    )
    told = json.dumps([parts, plan.decided_limits.model_dump()], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def judged(model: Model, plan: EvaluationPlan, tracking_uri: str) -> tuple[Decision, TrackedRun] | None:
    """The newest decision by this plan on the model of this digest, and where it is; None where there is none.

    A run in which a variant failed is none. Raises PrerequisiteError when MLflow cannot be reached.
    """
    with connected(tracking_uri, "tell what it holds") as client, tempfile.TemporaryDirectory() as scratch:
        experiment = client.get_experiment_by_name(experiment_name(model.source, plan.decided_limits.name))
        if not experiment:
            return None
        wanted = f"params.model_digest = '{model.digest}' and tags.`{JUDGED_BY}` = '{judged_by(plan)}'"
        for run in newest(client, [experiment], wanted):
            decision = artifact(client, run, DECISION, Decision, Path(scratch))
            if decision and not any(each.verdict == "failed" for each in decision.verdicts):
                children = client.search_runs(
                    [experiment.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'", max_results=100
                )
                ids = {each.data.tags[VARIANT_TAG]: each.info.run_id for each in children}
                if ids.keys() >= {each.variant for each in decision.verdicts}:
                    in_order = {each.variant: ids[each.variant] for each in decision.verdicts}
                    return decision, where(tracking_uri, experiment, run.info.run_id, in_order)
    return None


def scored(weights: Weights, plan: EvaluationPlan, identity: str, tracking_uri: str, folder: Path) -> Scores | None:
    """The newest scores of a baseline, asked the same of the same server, with their run; None where there are none.

    Their records are left in `folder`, and those of a second pass where the plan has one, under the names that
    VariantResults gives them. Raises PrerequisiteError when MLflow cannot be reached.
    """
    here = VariantResults(str(folder))
    with connected(tracking_uri, "tell what it holds") as client:
        known = client.search_experiments(filter_string=f"name LIKE '{EXPERIMENTS}%'", max_results=1000)
        experiments = {each.experiment_id: each for each in known}
        wanted = (
            f"params.digest = '{weights.digest}' and params.asked = '{plan.asked}'"
            f" and tags.`{VARIANT_TAG}` = '{weights.variant}'"
        )
        for run in newest(client, known, wanted):
            scores = artifact(client, run, SCORES, Scores, folder)
            if not scores or scores.identity != identity or (plan.noise_floor and not scores.again):
                continue
            stages = {FULL: scores.records, **({AGAIN: scores.again} if plan.noise_floor else {})}
            files = {here.records(stage).name: place for stage, place in stages.items()}
            at_hand = all(brought(client, run, name, place, folder) for name, place in files.items())
            if at_hand and whole(scores, folder):
                link = where(tracking_uri, experiments[run.info.experiment_id], run.info.run_id, {}).link
                return scores.model_copy(update={"scored_in": scores.scored_in or link})
    return None


def newest(client: "MlflowClient", experiments: "Sequence[Experiment]", wanted: str) -> "list[Run]":
    """The newest finished runs that the filter lets through."""
    ids = [each.experiment_id for each in experiments]
    finished, order = f"{wanted} and attributes.status = 'FINISHED'", ["attributes.start_time DESC"]
    return list(client.search_runs(ids, finished, max_results=LOOKED_AT, order_by=order)) if ids else []


def artifact(client: "MlflowClient", run: "Run", name: str, kind: type[A], folder: Path) -> A | None:
    """What the run's artifact says; None where it is missing, or another version wrote it that this one cannot read."""
    try:
        file = downloaded(client, run, name, folder)
        return kind.read(file) if file else None
    except ValidationError:
        return None


def downloaded(client: "MlflowClient", run: "Run", name: str, folder: Path) -> Path | None:
    """The run's artifact in the folder; None where the run has none of that name."""
    from mlflow.exceptions import MlflowException

    try:
        return Path(client.download_artifacts(run.info.run_id, name, str(folder)))
    except (MlflowException, OSError):
        return None


def brought(client: "MlflowClient", run: "Run", name: str, place: str, folder: Path) -> bool:
    """Whether the run's records are in the folder now: from MLflow, or from the bucket where they stayed."""
    if downloaded(client, run, name, folder):
        return True
    prefix, _, last = place.rpartition("/")
    return place.startswith("s3://") and open_store(prefix).get_file(last, folder / name)


def whole(scores: Scores, folder: Path) -> bool:
    """Whether the records in the folder are those that were scored."""
    # with numpy and pyarrow: a second that the track step does not need
    from components.evidence.saved_answers import read_ours

    VariantResults(str(folder)).scores(FULL).write(scores)
    try:
        return not read_ours(folder).failure
    except PrerequisiteError:
        return False
