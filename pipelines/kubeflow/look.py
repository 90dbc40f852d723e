"""Look whether a source has a new model, and start one run for it.

A look reads lists and small files, so it costs one small pod. What it has started is in looks/NAME.json beside the
results, written once Kubeflow has the run. The run's name is the look's name with the model's fingerprint: after a
crash between the two, the next look finds the run by its name and starts nothing. Looks of one name that find something
new take turns, by a lease beside that file.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.published import NotPublishedError, Published, published_at
from quantgate.components.resolve.run_settings import PLACES
from quantgate.components.run.results import ResultFile, claims_of_looks, looks_of
from quantgate.components.storage.artifact import Artifact
from quantgate.components.storage.bucket_lease import held
from quantgate.components.tracking.model_versions import SCHEME, newest_version
from quantgate.pipelines.kubeflow.run_parameters import checked, results_of

if TYPE_CHECKING:
    from quantgate.pipelines.kubeflow.connection import Kubeflow, Place
    from quantgate.pipelines.kubeflow.runs import Version

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,62}", re.ASCII)
SHOWN_DIGITS = 12


class StartedRun(Artifact):
    """The run that a look has started for a model."""

    run_id: str
    model: str
    """What the look saw."""


class Looks(Artifact):
    """What the looks of one name have started, by the model's fingerprint."""

    started: dict[str, StartedRun] = {}


@dataclass(frozen=True)
class Watch:
    """A source that is looked at under a name, and the run that a new model starts."""

    name: str
    source: str
    tracking_uri: str
    """MLflow, for a registered model; empty: the cluster's own."""
    settled_s: float
    parameters: Callable[[str], dict[str, Any]]
    """The parameters of a run on this model; raises PrerequisiteError."""
    pipeline: Path
    service_account: str
    place: "Place"

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise PrerequisiteError(
                f"{self.name!r} is not a name for a look. Use letters, digits, '.', '_' and '-', 63 at most."
            )


def look(watch: Watch) -> str:
    """Start a run if the source has a model for which this name has started none; returns what was seen and done."""
    try:
        model = seen(watch)
    except NotPublishedError as reason:
        return f"{watch.name}: nothing to start: {reason}"
    done = f"{watch.name}: {start_if_new(watch, model)}"
    return f"{done}\n{watch.name}: passed over: {model.passed_over}" if model.passed_over else done


def start_if_new(watch: Watch, model: Published) -> str:
    """Start a run on the model if this name has started none for it; returns what was seen and done."""
    from quantgate.pipelines.kubeflow.connection import connected
    from quantgate.pipelines.kubeflow.runs import read_pipeline, upload

    parameters = watch.parameters(model.source)
    file = checked(read_pipeline(watch.pipeline), parameters)
    record = looks_of(results_of(parameters), watch.name)
    if run := started_for(model, record):
        return nothing_new(model, run)
    with connected(watch.place) as kubeflow:
        version = upload(kubeflow, file)
        with held(record.location, claims_of_looks(watch.name)):
            if run := started_for(model, record):  # by another look, while this one waited
                return nothing_new(model, run)
            run_id, is_new = start_once(kubeflow, watch, model, version, parameters)
            run = StartedRun(run_id=run_id, model=model.description)
            record.write(Looks(started={**read(record).started, model.fingerprint: run}))
        page = kubeflow.page(run_id)
    outcome = "started" if is_new else "an earlier look has started"
    return f"new: {model.description}; {outcome} the run {run_id} {page}"


def nothing_new(model: Published, run: StartedRun) -> str:
    """What is said about a model that has its run."""
    return f"nothing new: {model.description}, for which it has started the run {run.run_id}"


def started_for(model: Published, record: ResultFile) -> StartedRun | None:
    """The run that the looks have started for the model; None if they have started none."""
    return read(record).started.get(model.fingerprint)


def seen(watch: Watch) -> Published:
    """The model that the source publishes now."""
    if watch.source.startswith(SCHEME):
        tracking_uri = watch.tracking_uri or os.environ.get(PLACES["tracking_uri"]) or ""
        return newest_version(watch.source, tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", ""))
    return published_at(watch.source, watch.settled_s)


def read(record: ResultFile) -> Looks:
    """What the looks have started; raises PrerequisiteError when the file is damaged."""
    try:
        return record.read(Looks) or Looks()
    except ValidationError as error:
        raise PrerequisiteError(
            f"{record} is not the record of a look. Delete it: runs that Kubeflow still has are not started again."
        ) from error


def start_once(
    kubeflow: "Kubeflow", watch: Watch, model: Published, version: "Version", parameters: dict[str, Any]
) -> tuple[str, bool]:
    """The id of the model's run, and whether it was started now."""
    from quantgate.pipelines.kubeflow.runs import run_named, start

    name = f"{watch.name} {model.fingerprint[:SHOWN_DIGITS]}"
    if run := run_named(kubeflow, name):
        return run, False
    return start(kubeflow, version, name, parameters, watch.service_account), True
