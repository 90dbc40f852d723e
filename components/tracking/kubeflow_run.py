"""The MLflow run that Kubeflow Pipelines' own plugin (2.17, `plugins.mlflow`) makes for a pipeline run.

Where the plugin is on, each step's pod has the variables below and MLflow's variables for credentials. MLFLOW_RUN_ID is
then a run of that step, below the run of the pipeline. `track` takes the pipeline's run up: it is the parent of the
variants' runs, so that a pipeline run is one run in MLflow. The plugin keeps what is its own: the run's name, its
beginning, and its end and status, which it sets when the pipeline run ends, sometimes later as FAILED. So a tag says
that the recording is complete. The runs of the steps stay as they are.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from quantgate.components.storage.artifact import Artifact
from quantgate.components.tracking.tags import RECORDED

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

IN_A_POD = "KUBERNETES_SERVICE_HOST"
PARENT = "mlflow.parentRunId"
LOGIN = ("MLFLOW_TRACKING_AUTH", "MLFLOW_WORKSPACE")
"""The variables of the plugin's that no Secret of ours has: MLflow's client would send the pod's token, and the
workspace, to any server."""


KFP_RUN = "kfp.pipeline_run_id"
"""The plugin's tag on the pipeline's run, with Kubeflow's id."""


class KubeflowRun(Artifact):
    """What the plugin says of this step."""

    tracking_uri: str
    experiment_id: str
    run_id: str
    """Of the step's own run in MLflow."""

    def is_at(self, tracking_uri: str) -> bool:
        """Whether that is the plugin's MLflow."""
        return tracking_uri.rstrip("/") == self.tracking_uri.rstrip("/")

    def pipeline_run(self, client: "MlflowClient", tracking_uri: str, run_id: str = "") -> "Run | None":
        """The pipeline's run; None when `tracking_uri` is another MLflow, or the run is not there.

        `run_id` is Kubeflow's id of the pipeline run: the plugin's tag proves that another address, as that of a
        forwarded port, is the same MLflow. The experiment must be the plugin's too: an id that means another run in
        another MLflow is never used.
        """
        from mlflow.exceptions import MlflowException

        try:
            step = client.get_run(self.run_id)
            found = client.get_run(step.data.tags.get(PARENT, self.run_id))
        except MlflowException:
            return None
        if {step.info.experiment_id, found.info.experiment_id} != {self.experiment_id}:
            return None
        if found.info.lifecycle_stage != "active":
            return None
        same = self.is_at(tracking_uri) or bool(run_id and found.data.tags.get(KFP_RUN) == run_id)
        return found if same else None


def is_complete(run: "Run") -> bool:
    """Whether the pipeline run is recorded completely in this run of MLflow."""
    return run.info.status == "FINISHED" or RECORDED in run.data.tags


def others_login(tracking_uri: str) -> tuple[str, ...]:
    """The variables of the plugin's login, if `tracking_uri` is not the plugin's MLflow; empty without the plugin."""
    plugin = kubeflow_run()
    return () if plugin is None or plugin.is_at(tracking_uri) else LOGIN


def kubeflow_run(environment: Mapping[str, str] = os.environ) -> KubeflowRun | None:
    """The run of the plugin; None outside a pod, where such variables are the user's own, and without the plugin."""
    variables = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")
    values = [environment.get(name, "") for name in variables]
    if not environment.get(IN_A_POD) or not all(values):
        return None
    return KubeflowRun(tracking_uri=values[0], experiment_id=values[1], run_id=values[2])
