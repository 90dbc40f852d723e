"""The rights of this account on an experiment of MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.tracking.connect import ACCESS_DENIED, connected
from quantgate.components.tracking.kubeflow_run import kubeflow_run
from quantgate.components.tracking.tags import SOURCE_TAG

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@contextmanager
def rights_on(experiment: str) -> Iterator[None]:
    """Raise PrerequisiteError with the remedy when MLflow denies the block access to the experiment of that name."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as refusal:
        if refusal.error_code not in ACCESS_DENIED:
            raise
        raise PrerequisiteError(
            f"MLflow denies this account access to the experiment {experiment!r}: {refusal.message}\nWhoever creates an"
            " experiment first owns it. Ask its owner or MLflow's administrator to give this account EDIT on the"
            " experiment, or to rename the experiment, and repeat the command."
        ) from refusal


def recording_experiment(tracking_uri: str, own: str) -> str:
    """The experiment in which the run will be recorded: that of Kubeflow's MLflow plugin, where it is on, else `own`.

    `own` too when MLflow does not answer: a run goes on without it.
    """
    plugin = kubeflow_run()
    if plugin is None:
        return own
    try:
        with connected(tracking_uri, "answer") as client:
            taken = plugin.pipeline_run(client, tracking_uri)
            return str(client.get_experiment(taken.info.experiment_id).name) if taken else own
    except PrerequisiteError:
        return own


def check_experiment(tracking_uri: str, experiment: str, source: str) -> None:
    """Raise PrerequisiteError when this account may not record a run of the base model `source` in the experiment.

    An experiment that does not exist yet passes, and so does a server that does not answer: a run goes on without
    MLflow. MLflow shows the rights of an account to its administrator only, so the check sets the experiment's tag
    `quantgate.source`, which needs the same right as a run.
    """
    try:
        with connected(tracking_uri, "answer") as client:
            denial = _denial(client, experiment, source)
    except PrerequisiteError:
        return
    if denial:
        raise denial


def _denial(client: "MlflowClient", experiment: str, source: str) -> PrerequisiteError | None:
    try:
        with rights_on(experiment):
            known = client.get_experiment_by_name(experiment)
            if known and known.lifecycle_stage == "active":
                client.set_experiment_tag(known.experiment_id, SOURCE_TAG, source)
    except PrerequisiteError as denial:
        return denial
    return None
