"""Where MLflow keeps a pipeline run."""

from typing import TYPE_CHECKING

from components.storage.artifact import Artifact
from components.tracking.links import compare_page, run_page
from components.tracking.uris import is_server, without_password

if TYPE_CHECKING:
    from mlflow.entities import Experiment


class TrackedRun(Artifact):
    """Where MLflow keeps a pipeline run."""

    tracking_uri: str
    """Without a password."""
    experiment: str
    experiment_id: str
    run_id: str
    """MLflow's id of the parent run."""
    children: dict[str, str]
    """MLflow's run id of each variant, in the decision's order."""
    page: str
    """The run's page: a URL of the tracking server, or the part behind the address that `open_command` serves."""
    compare_page: str
    """The page that shows the variants side by side."""
    spooled: str = ""
    """Why MLflow does not have the run yet: it lies in the results' folder until `quantgate track` sends it."""

    @property
    def link(self) -> str:
        """The run in words that lead there: its page, or its id where no server serves one."""
        return self.page if is_server(self.tracking_uri) else f"run {self.run_id} of {self.tracking_uri}"


def where(tracking_uri: str, experiment: "Experiment", run_id: str, children: dict[str, str]) -> TrackedRun:
    """The pages of a run that MLflow holds; `children` are its variants' runs."""
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
