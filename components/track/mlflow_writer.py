"""Writing the rows of a pipeline run into MLflow, and writing them again without doubling them.

MLflow never changes a parameter and never deletes a metric. So a run that is tracked again is updated where what it
holds is still true, completed where something is missing, and replaced where it would contradict the new decision.
"""

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.errors import PrerequisiteError
from components.run.artifacts import Decision
from components.track.mlflow_rows import DataSet, RunRow, run_row, variant_rows
from components.tracking.connect import connected
from components.tracking.facts import RunFacts, RunFiles
from components.tracking.tags import RUN_ID_TAG, VARIANT_TAG, experiment_name
from components.tracking.tracked_run import TrackedRun, where
from components.tracking.uris import artifact_location, without_password

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Experiment, Run
    from mlflow.tracking import MlflowClient


_LONGEST_TAG = 8000
"""Characters: a database refuses more, and MLflow cuts them only where a run is there already."""


def track(decision: Decision, run: RunFacts, files: RunFiles, tracking_uri: str) -> TrackedRun:
    """Record the decision in MLflow, a parent run and a child for each variant, and say where they are.

    Called again with the same `run.run_id`, it updates those runs. Raises PrerequisiteError when MLflow cannot be
    reached or refuses, and FileNotFoundError when one of the files is missing.
    """
    files.check()
    name = experiment_name(decision.model.source, decision.use_case)
    parent, children = run_row(decision, run, files), variant_rows(decision, run, files)
    with connected(tracking_uri, "take the run") as client:
        experiment = _experiment(client, name, tracking_uri)
        earlier = _earlier(client, experiment.experiment_id, run.run_id)
        writer = _Writer(client, experiment.experiment_id, earlier)
        parent_id = writer.open(parent, started_at=run.started_at)
        written = {}
        for row in reversed(children):  # MLflow lists the youngest run first: written last, the baseline is on top
            written[row.variant] = writer.open(row, parent_id)
            writer.finish(written[row.variant], row)
        _delete_doubles(client, experiment.experiment_id, run.run_id, {parent_id, *written.values()})
        writer.finish(parent_id, parent)
    return where(tracking_uri, experiment, parent_id, {row.variant: written[row.variant] for row in children})


@dataclass(frozen=True)
class _Writer:
    """Writes rows into one experiment, over the runs that an earlier tracking of the same pipeline run left there."""

    client: "MlflowClient"
    experiment_id: str
    earlier: "dict[str, Run]"
    """By variant; the pipeline run's own under the empty name."""

    def open(self, row: RunRow, parent_id: str = "", started_at: float = 0.0) -> str:
        """MLflow's id of the row's run, which now holds the row's numbers and words."""
        from mlflow.entities import Metric, Param, RunTag

        tags = {name: value[:_LONGEST_TAG] for name, value in row.tags.items()}
        if parent_id:
            tags["mlflow.parentRunId"] = parent_id
        if row.tables:
            tags["mlflow.loggedArtifacts"] = json.dumps([{"path": name, "type": "table"} for name in row.tables])
        run = self.earlier.get(row.variant)
        if run and _contradicts(run, row):
            self.client.delete_run(run.info.run_id)
            run = None
        if run:
            self.client.update_run(run.info.run_id, status="RUNNING", name=row.name)
        else:
            run = self.client.create_run(
                self.experiment_id, start_time=int(started_at * 1000) or None, tags=tags, run_name=row.name
            )
        now_ms = int(time.time() * 1000)
        self.client.log_batch(
            run.info.run_id,
            # A metric that is logged twice becomes a curve of two points.
            metrics=[Metric(k, v, now_ms, 0) for k, v in row.metrics.items() if k not in run.data.metrics],
            params=[Param(k, v) for k, v in row.params.items() if k not in run.data.params],
            tags=[RunTag(k, v) for k, v in tags.items()],
        )
        if row.datasets and not (run.inputs and run.inputs.dataset_inputs):
            self.client.log_inputs(run.info.run_id, datasets=[_input(each) for each in row.datasets])
        run_id: str = run.info.run_id
        return run_id

    def finish(self, run_id: str, row: RunRow) -> None:
        """Keep the row's files, then end its run."""
        for name, text in row.texts.items():
            self.client.log_text(run_id, text, name)
        for name, columns in row.tables.items():
            # log_table would add the rows to those of an earlier tracking
            table = {"columns": list(columns), "data": [list(each) for each in zip(*columns.values(), strict=True)]}
            self.client.log_text(run_id, json.dumps(table), name)
        for path in row.files:
            self.client.log_artifact(run_id, str(path))
        self.client.set_terminated(run_id, status=row.status)


def _input(each: DataSet) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"where": each.source})
    found = Dataset(name=each.name, digest=each.digest, source_type="benchmark", source=source)
    return DatasetInput(found, tags=[InputTag("mlflow.data.context", "evaluation")])


def _contradicts(run: "Run", row: RunRow) -> bool:
    """True where the run holds a parameter or a metric that the row does not."""
    # MLflow cuts a long parameter, so that its beginning is what can be compared.
    params = any(not row.params.get(key, "").startswith(value) for key, value in run.data.params.items())
    metrics = any(row.metrics.get(key) != value for key, value in run.data.metrics.items())
    return params or metrics


def _earlier(client: "MlflowClient", experiment_id: str, run_id: str) -> "dict[str, Run]":
    return {run.data.tags.get(VARIANT_TAG, ""): run for run in _runs_of(client, experiment_id, run_id)}


def _delete_doubles(client: "MlflowClient", experiment_id: str, run_id: str, kept: set[str]) -> None:
    """Keep no other run of this pipeline run: MLflow's client makes one twice when the first answer is lost."""
    for run in _runs_of(client, experiment_id, run_id):
        if run.info.run_id not in kept:
            client.delete_run(run.info.run_id)


def _runs_of(client: "MlflowClient", experiment_id: str, run_id: str) -> "list[Run]":
    return list(client.search_runs([experiment_id], filter_string=f"tags.`{RUN_ID_TAG}` = '{run_id}'"))


def _experiment(client: "MlflowClient", name: str, tracking_uri: str) -> "Experiment":
    """The experiment of that name, made when it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if not found:
        try:
            return client.get_experiment(client.create_experiment(name, artifact_location(tracking_uri)))
        except MlflowException as refusal:
            if refusal.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another run has just made it
            if not found:
                raise
    if found.lifecycle_stage == "deleted":
        raise PrerequisiteError(
            f"The MLflow experiment {name!r} has been deleted, and MLflow takes no runs into it. Restore it: "
            f"MLFLOW_TRACKING_URI={without_password(tracking_uri)} "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return found
