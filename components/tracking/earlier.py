"""Earlier results in MLflow: the scores of a baseline, and the verdict on a base model."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from components.errors import PrerequisiteError
from components.models.variants import BASELINE
from components.run.artifacts import Decision, Model, Scores, Weights
from components.run.plan import EvaluationPlan
from components.run.results import AGAIN, FULL, VariantResults
from components.run.server_identity import ServerIdentity
from components.storage.artifact import Artifact
from components.storage.location import open_store
from components.tracking.connect import connected
from components.tracking.tags import (
    DECISION,
    EXPERIMENTS,
    JUDGED_BY,
    RUN_ID_TAG,
    SCORES,
    SENTENCE_TAG,
    VARIANT_TAG,
    VERDICT_TAG,
    experiment_name,
)
from components.tracking.tracked_run import TrackedRun, run_location

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

A = TypeVar("A", bound=Artifact)
MOST_RUNS = 20
"""How many runs are searched, the newest first."""


def verdict_key(plan: EvaluationPlan) -> str:
    """sha256 of everything but the base model that a verdict depends on: the variants, the questions and the limits."""
    parts = plan.model_dump(
        include={"variants", "asked", "stop_early", "noise_floor", "calibration_samples", "calibration_tokens"}
    )
    content = json.dumps([parts, plan.decided_limits.model_dump()], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def find_decision(model: Model, plan: EvaluationPlan, tracking_uri: str) -> tuple[Decision, TrackedRun] | None:
    """The newest decision by this plan on the model with this digest, and its run in MLflow; None if there is none.

    A run in which a variant failed does not count. Raises PrerequisiteError when MLflow cannot be reached.
    """
    with connected(tracking_uri, "list its runs") as client, tempfile.TemporaryDirectory() as scratch:
        experiment = client.get_experiment_by_name(experiment_name(model.source, plan.decided_limits.name))
        if not experiment:
            return None
        matching = f"params.model_digest = '{model.digest}' and tags.`{JUDGED_BY}` = '{verdict_key(plan)}'"
        for run in newest_runs(client, [experiment], matching):
            decision = read_artifact(client, run, DECISION, Decision, Path(scratch))
            if decision and not any(verdict.verdict == "failed" for verdict in decision.verdicts):
                children = client.search_runs(
                    [experiment.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'", max_results=100
                )
                ids = {child.data.tags[VARIANT_TAG]: child.info.run_id for child in children}
                if ids.keys() >= {verdict.variant for verdict in decision.verdicts}:
                    in_order = {verdict.variant: ids[verdict.variant] for verdict in decision.verdicts}
                    return decision, run_location(tracking_uri, experiment, run.info.run_id, in_order)
    return None


def find_verdicts(run_id: str, tracking_uri: str) -> tuple[tuple[str, str, str], ...]:
    """The variants of the pipeline run with their verdicts and sentences, from the tags; empty if MLflow lacks the run.

    Raises PrerequisiteError when MLflow cannot be reached.
    """
    with connected(tracking_uri, "list its runs") as client:
        searched = client.search_experiments(filter_string=f"name LIKE '{EXPERIMENTS}%'", max_results=1000)
        # the baseline's run is the newest, the others follow in the decision's order
        ids = [experiment.experiment_id for experiment in searched]
        of_run = f"tags.`{RUN_ID_TAG}` = '{run_id}'"
        runs = client.search_runs(ids, of_run, max_results=100, order_by=["attributes.start_time DESC"]) if ids else []
    tags = [run.data.tags for run in runs]
    return tuple(
        (row[VARIANT_TAG], row[VERDICT_TAG], row[SENTENCE_TAG])
        for row in tags
        if row.get(VARIANT_TAG, BASELINE) != BASELINE
    )


def find_baseline_scores(
    weights: Weights, plan: EvaluationPlan, identity: ServerIdentity, tracking_uri: str, folder: Path
) -> Scores | None:
    """A baseline's newest scores for the same questions from a server with the same settings; None if there are none.

    `scored_in` of the scores names their run. The records of the scores, and those of the second pass if the plan has
    one, are written to `folder` under VariantResults' file names. Raises PrerequisiteError when MLflow is unavailable.
    """
    local = VariantResults(str(folder))
    with connected(tracking_uri, "list its runs") as client:
        searched = client.search_experiments(filter_string=f"name LIKE '{EXPERIMENTS}%'", max_results=1000)
        experiments = {experiment.experiment_id: experiment for experiment in searched}
        matching = (
            f"params.digest = '{weights.digest}' and params.asked = '{plan.asked}'"
            f" and tags.`{VARIANT_TAG}` = '{weights.variant}'"
        )
        for run in newest_runs(client, searched, matching):
            scores = read_artifact(client, run, SCORES, Scores, folder)
            if not scores or scores.identity != identity or (plan.noise_floor and not scores.again):
                continue
            stages = {FULL: scores.records, **({AGAIN: scores.again} if plan.noise_floor else {})}
            files = {local.records(stage).name: location for stage, location in stages.items()}
            complete = all(fetch_records(client, run, name, location, folder) for name, location in files.items())
            if complete and records_match(scores, folder):
                link = run_location(tracking_uri, experiments[run.info.experiment_id], run.info.run_id, {}).link
                return scores.model_copy(update={"scored_in": scores.scored_in or link})
    return None


def newest_runs(client: "MlflowClient", experiments: "Sequence[Experiment]", matching: str) -> "list[Run]":
    """The newest finished runs that the filter matches."""
    ids = [experiment.experiment_id for experiment in experiments]
    finished, order = f"{matching} and attributes.status = 'FINISHED'", ["attributes.start_time DESC"]
    return list(client.search_runs(ids, finished, max_results=MOST_RUNS, order_by=order)) if ids else []


def read_artifact(client: "MlflowClient", run: "Run", name: str, kind: type[A], folder: Path) -> A | None:
    """The run's artifact; None if it is missing, or if this version of quantgate cannot read its format."""
    try:
        file = download(client, run, name, folder)
        return kind.read(file) if file else None
    except ValidationError:
        return None


def download(client: "MlflowClient", run: "Run", name: str, folder: Path) -> Path | None:
    """Download the run's artifact into the folder; None if the run has no artifact of that name."""
    from mlflow.exceptions import MlflowException

    try:
        return Path(client.download_artifacts(run.info.run_id, name, str(folder)))
    except (MlflowException, OSError):
        return None


def fetch_records(client: "MlflowClient", run: "Run", name: str, location: str, folder: Path) -> bool:
    """Download the run's records into the folder, from MLflow or their bucket; False if neither contains them."""
    if download(client, run, name, folder):
        return True
    prefix, _, last = location.rpartition("/")
    return location.startswith("s3://") and open_store(prefix).get_file(last, folder / name)


def records_match(scores: Scores, folder: Path) -> bool:
    """Whether the records in the folder are complete and belong to the scores."""
    # imports numpy and pyarrow, which takes a second; the track step does not need them
    from components.evidence.saved_answers import read_ours

    VariantResults(str(folder)).scores(FULL).write(scores)
    try:
        return not read_ours(folder).failure
    except PrerequisiteError:
        return False
