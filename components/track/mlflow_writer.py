"""Write the rows of a pipeline run into MLflow, and write them again without duplicates.

MLflow never changes a parameter and never deletes a metric. So an MLflow run that is written again is updated if its
numbers still hold, completed if some are missing, and replaced if it contradicts the new decision.

The run that Kubeflow's plugin has made for the pipeline run is taken up as the parent, but never replaced, renamed or
ended: the plugin does that. If it contradicts the decision, after a retry in Kubeflow, the parent is a run below it.
"""

import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.verdicts import Decision
from quantgate.components.track.logged_models import delete_models, log_model
from quantgate.components.track.mlflow_rows import DataSet, RunRow, run_row, variant_rows
from quantgate.components.tracking.connect import connected
from quantgate.components.tracking.experiments import rights_on
from quantgate.components.tracking.facts import RunFacts, RunFiles, user_here
from quantgate.components.tracking.kubeflow_run import PARENT
from quantgate.components.tracking.signature import signature
from quantgate.components.tracking.tags import (
    EVIDENCE,
    RECORDED,
    RUN_ID_TAG,
    SIGNATURE,
    USER_TAG,
    VARIANT_TAG,
    experiment_name,
)
from quantgate.components.tracking.tracked_run import TrackedRun, run_location
from quantgate.components.tracking.uris import artifact_location, without_password

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Experiment, Run
    from mlflow.tracking import MlflowClient


_LONGEST_TAG = 8000
"""Characters: a database refuses more, and MLflow cuts the tags of an existing run only."""


def track(decision: Decision, run: RunFacts, files: RunFiles, tracking_uri: str) -> TrackedRun:
    """Record the decision in MLflow as a parent run with a child for each variant, and return their location.

    Called again with the same `run.run_id`, it updates those runs. Raises PrerequisiteError when MLflow cannot be
    reached or refuses, and FileNotFoundError when one of the files is missing.
    """
    files.check()
    name = experiment_name(decision.model.source, decision.use_case)
    parent, children = run_row(decision, run, files), variant_rows(decision, run, files)
    with connected(tracking_uri, "record the run") as client, rights_on(name):
        plugins = run.kubeflow.pipeline_run(client, tracking_uri, run.run_id) if run.kubeflow else None
        taken = plugins if plugins and not _disagrees(plugins, parent) else None
        if plugins and not taken:
            _release(client, plugins, parent)
        of_plugin = client.get_experiment(plugins.info.experiment_id) if plugins else None
        experiment = of_plugin or _experiment(client, name, tracking_uri)
        earlier = _earlier(client, experiment.experiment_id, run.run_id) | ({"": taken} if taken else {})
        writer = _Writer(client, experiment.experiment_id, earlier, taken.info.run_id if taken else "")
        parent_id = writer.open(parent, plugins.info.run_id if plugins and not taken else "").run_id
        written = {}
        for row in reversed(children):  # without times MLflow lists the one that was written last on top: the baseline
            written[row.variant] = writer.open(row, parent_id)
            writer.finish(written[row.variant].run_id, row)
        child_ids = {row.variant: written[row.variant].run_id for row in children}
        _delete_duplicates(client, experiment.experiment_id, run.run_id, {parent_id, *child_ids.values()})
        if signed := signature(parent_id, parent.params.get(EVIDENCE, ""), tracking_uri):
            client.set_tag(parent_id, SIGNATURE, signed)
        writer.finish(parent_id, parent)
    location = run_location(tracking_uri, experiment, parent_id, child_ids)
    return location.model_copy(update={"models": {row.variant: written[row.variant].model_id for row in children}})


@dataclass(frozen=True)
class _Written:
    """MLflow's ids of a row's run and of its LoggedModel, if it has one."""

    run_id: str
    model_id: str


@dataclass(frozen=True)
class _Writer:
    """Writes rows into one experiment, and reuses the runs that an earlier tracking of the same pipeline run wrote."""

    client: "MlflowClient"
    experiment_id: str
    earlier: "dict[str, Run]"
    """By variant; the pipeline run's own under the empty name."""
    taken: str
    """MLflow's id of the run of Kubeflow's plugin that is the parent; empty for a parent of our own."""

    def open(self, row: RunRow, parent_id: str = "") -> _Written:
        """Write the row's model, parameters, metrics and tags."""
        tags = {name: value[:_LONGEST_TAG] for name, value in row.tags.items()}
        if user := user_here():
            tags[USER_TAG] = user
        if parent_id:
            tags[PARENT] = parent_id
        if row.tables:
            tags["mlflow.loggedArtifacts"] = json.dumps([{"path": name, "type": "table"} for name in row.tables])
        run = self.earlier.get(row.variant)
        if run and run.info.run_id == self.taken:
            if RECORDED in run.data.tags:
                self.client.delete_tag(self.taken, RECORDED)
            return self._write(run, row, tags)
        if run and _contradicts(run, row):
            delete_models(self.client, self.experiment_id, run.info.run_id)
            self.client.delete_run(run.info.run_id)
            run = None
        if run:
            self.client.update_run(run.info.run_id, status="RUNNING", name=row.name)
        else:
            run = self.client.create_run(
                self.experiment_id, start_time=row.times.start_ms, tags=tags, run_name=row.name
            )
        return self._write(run, row, tags)

    def _write(self, run: "Run", row: RunRow, tags: dict[str, str]) -> _Written:
        from mlflow.entities import Metric, Param, RunTag

        run_id, model_id = str(run.info.run_id), ""
        if row.model:
            model_id = log_model(self.client, self.experiment_id, run_id, row.model)
        measured_ms, of_model = row.times.end_ms or int(time.time() * 1000), {"model_id": model_id or None}
        self.client.log_batch(
            run_id,
            # A metric that is logged twice becomes a curve with two points.
            metrics=[
                Metric(name, value, measured_ms, 0, **of_model)
                for name, value in row.metrics.items()
                if name not in run.data.metrics
            ],
            params=[Param(k, v) for k, v in row.params.items() if k not in run.data.params],
            tags=[RunTag(k, v) for k, v in tags.items()],
        )
        if row.datasets and not (run.inputs and run.inputs.dataset_inputs):
            self.client.log_inputs(run_id, datasets=[_input(dataset) for dataset in row.datasets])
        return _Written(run_id, model_id)

    def finish(self, run_id: str, row: RunRow) -> None:
        """Upload the row's files, then end its run."""
        for name, text in row.texts.items():
            self.client.log_text(run_id, text, name)
        for name, columns in row.tables.items():
            # log_table would append the rows to those of an earlier tracking
            cells = [[_finite(cell) for cell in row_cells] for row_cells in zip(*columns.values(), strict=True)]
            table = {"columns": list(columns), "data": cells}
            self.client.log_text(run_id, json.dumps(table, allow_nan=False), name)
        for path in row.files:
            self.client.log_artifact(run_id, str(path))
        if run_id == self.taken:
            self.client.set_tag(run_id, RECORDED, "true")
        else:
            self.client.set_terminated(run_id, status=row.status, end_time=row.times.end_ms)


def _finite(cell: Any) -> Any:
    """The cell; None for NaN and infinities, which JSON does not have: MLflow's page could not read the table."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _input(dataset: DataSet) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"where": dataset.source})
    logged = Dataset(name=dataset.name, digest=dataset.digest, source_type="benchmark", source=source)
    return DatasetInput(logged, tags=[InputTag("mlflow.data.context", "evaluation")])


def _contradicts(run: "Run", row: RunRow) -> bool:
    """Whether the run contains a parameter or a metric that differs from the row's."""
    # MLflow cuts a long parameter, so only its beginning can be compared.
    params = any(not row.params.get(key, "").startswith(value) for key, value in run.data.params.items())
    # A resumed run has no system metrics of the work that it reuses.
    measured = {key: value for key, value in run.data.metrics.items() if not key.startswith("system/")}
    metrics = any(row.metrics.get(key) != value for key, value in measured.items())
    return params or metrics


def _disagrees(plugins: "Run", row: RunRow) -> bool:
    """Whether the plugin's run has a parameter of the row with another value; other parameters are not ours."""
    return any(
        name in row.params and not row.params[name].startswith(value) for name, value in plugins.data.params.items()
    )


def _release(client: "MlflowClient", plugins: "Run", row: RunRow) -> None:
    """Remove our tags from the plugin's run, so that it no longer counts as the run of a decision."""
    for name in {*row.tags, SIGNATURE, RECORDED} & plugins.data.tags.keys():
        client.delete_tag(plugins.info.run_id, name)


def _earlier(client: "MlflowClient", experiment_id: str, run_id: str) -> "dict[str, Run]":
    return {run.data.tags.get(VARIANT_TAG, ""): run for run in _runs_of(client, experiment_id, run_id)}


def _delete_duplicates(client: "MlflowClient", experiment_id: str, run_id: str, current: set[str]) -> None:
    """Delete this pipeline run's other MLflow runs: the client creates a run twice when the first answer is lost."""
    for run in _runs_of(client, experiment_id, run_id):
        if run.info.run_id not in current:
            delete_models(client, experiment_id, run.info.run_id)
            client.delete_run(run.info.run_id)


def _runs_of(client: "MlflowClient", experiment_id: str, run_id: str) -> "list[Run]":
    return list(client.search_runs([experiment_id], filter_string=f"tags.`{RUN_ID_TAG}` = '{run_id}'"))


def _experiment(client: "MlflowClient", name: str, tracking_uri: str) -> "Experiment":
    """The experiment of that name, created if it is missing."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if not experiment:
        try:
            return client.get_experiment(client.create_experiment(name, artifact_location(tracking_uri)))
        except MlflowException as refusal:
            if refusal.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another run has just created it
            if not experiment:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise PrerequisiteError(
            f"The MLflow experiment {name!r} has been deleted, and MLflow adds no runs to it. Restore it: "
            f"MLFLOW_TRACKING_URI={without_password(tracking_uri)} "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return experiment
