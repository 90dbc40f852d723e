"""The MLflow run that Kubeflow Pipelines' own plugin (2.17, `plugins.mlflow`) makes for a pipeline run.

Where the plugin is on, each step's pod has the variables below and MLflow's variables for credentials. MLFLOW_RUN_ID is
then a run of that step, below the run of the pipeline. Quantgate writes nothing into either: its own runs name the
pipeline's run as their parent.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

IN_A_POD = "KUBERNETES_SERVICE_HOST"
PARENT = "mlflow.parentRunId"
LOGIN = ("MLFLOW_TRACKING_AUTH", "MLFLOW_WORKSPACE")
"""The variables of the plugin's that no Secret of ours has: MLflow's client would send the pod's token, and the
workspace, to any server."""


@dataclass(frozen=True)
class KubeflowRun:
    """What the plugin says of this step."""

    tracking_uri: str
    experiment_id: str
    run_id: str
    """Of the step's own run in MLflow."""

    def is_at(self, tracking_uri: str) -> bool:
        """Whether that is the plugin's MLflow."""
        return tracking_uri.rstrip("/") == self.tracking_uri.rstrip("/")

    def pipeline_run(self, client: "MlflowClient", tracking_uri: str) -> str:
        """MLflow's id of the pipeline's run; empty when `tracking_uri` is another MLflow, or the run is not there.

        The experiment must be the plugin's too: an id that means another run in another MLflow is never used.
        """
        from mlflow.exceptions import MlflowException

        if not self.is_at(tracking_uri):
            return ""
        try:
            step = client.get_run(self.run_id)
        except MlflowException:
            return ""
        if step.info.experiment_id != self.experiment_id:
            return ""
        return str(step.data.tags.get(PARENT, self.run_id))


def others_login(tracking_uri: str) -> tuple[str, ...]:
    """The variables of the plugin's login, if `tracking_uri` is not the plugin's MLflow; empty without the plugin."""
    plugin = kubeflow_run()
    return () if plugin is None or plugin.is_at(tracking_uri) else LOGIN


def kubeflow_run(environment: Mapping[str, str] = os.environ) -> KubeflowRun | None:
    """The run of the plugin; None outside a pod, where such variables are the user's own, and without the plugin."""
    variables = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")
    values = [environment.get(name, "") for name in variables]
    return KubeflowRun(*values) if environment.get(IN_A_POD) and all(values) else None
