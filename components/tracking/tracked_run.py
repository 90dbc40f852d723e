"""The location of a pipeline run in MLflow."""

from typing import TYPE_CHECKING

from quantgate.components.storage.artifact import Artifact
from quantgate.components.tracking.links import compare_page, run_page
from quantgate.components.tracking.tags import USER_TAG
from quantgate.components.tracking.uris import is_server, without_password

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run


class TrackedRun(Artifact):
    """The location of a pipeline run in MLflow."""

    tracking_uri: str
    """Without a password."""
    experiment: str
    experiment_id: str
    run_id: str
    """MLflow's id of the parent run."""
    children: dict[str, str]
    """MLflow's run id of each variant, in the decision's order."""
    models: dict[str, str] = {}
    """MLflow's id of each variant's LoggedModel; empty for a variant without one."""
    page: str
    """The run's page: a URL of the tracking server, or the part after the address that `open_command` serves."""
    compare_page: str
    """The page that shows the variants side by side."""
    spooled: str = ""
    """Why MLflow does not have the run; it stays in the results' folder until `quantgate track` sends it."""

    @property
    def link(self) -> str:
        """How to find the run: its page, or its id and store if no server serves a page."""
        return self.page if is_server(self.tracking_uri) else f"run {self.run_id} of {self.tracking_uri}"


def run_location(tracking_uri: str, experiment: "Experiment", run_id: str, children: dict[str, str]) -> TrackedRun:
    """The location of a run in MLflow; `children` are MLflow's run ids of its variants."""
    experiment_id = experiment.experiment_id
    return TrackedRun(
        tracking_uri=without_password(tracking_uri),
        experiment=experiment.name,
        experiment_id=experiment_id,
        run_id=run_id,
        children=children,
        page=run_page(tracking_uri, experiment_id, run_id),
        compare_page=compare_page(tracking_uri, [experiment_id], children.values()),
    )


def logged_model_of(run: "Run") -> str:
    """MLflow's id of the LoggedModel of a variant's run; empty if it has none."""
    models = run.outputs.model_outputs if run.outputs else []
    return str(models[0].model_id) if models else ""


def describe_run(run: "Run", location: TrackedRun, signed: bool) -> str:
    """The run's name, the account that recorded it, and its link, in one line.

    MLflow's client names its user itself: only a signature says that it was this account.
    """
    user = run.data.tags.get(USER_TAG) or "an unnamed user"
    account = f"this account as {user}" if signed else user
    return " ".join(f"{run.info.run_name}, recorded by {account}, {location.link}".split())
