"""Runs under the MLflow run that Kubeflow Pipelines' own plugin makes: they nest there, and change nothing of it."""

import http.server
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.connect import connected
from quantgate.components.tracking.facts import RunFiles
from quantgate.components.tracking.uris import local_tracking_uri
from tests.support.decided import FACTS, make_decision

pytestmark = pytest.mark.slow


@pytest.fixture
def mlflow(tmp_path: Path) -> MlflowClient:
    return MlflowClient(local_tracking_uri(tmp_path / "mlflow"))


@pytest.fixture
def plugin(mlflow: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Run]:
    """The runs that the plugin made: of the pipeline, and of this step."""
    experiment = mlflow.create_experiment("KFP-Default")
    pipeline = mlflow.create_run(experiment, run_name="quantgate-ship 1")
    step = mlflow.create_run(experiment, run_name="track", tags={"mlflow.parentRunId": pipeline.info.run_id})
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.tracking_uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", step.info.run_id)
    return mlflow.get_run(pipeline.info.run_id), mlflow.get_run(step.info.run_id)


def recorded(mlflow: MlflowClient, folder: Path) -> dict[str, str]:
    """The tags of the run's own MLflow run."""
    tracked = track(make_decision(folder), FACTS, RunFiles(), mlflow.tracking_uri)
    tags: dict[str, str] = mlflow.get_run(tracked.run_id).data.tags
    return tags


def test_a_run_nests_under_the_pipelines_run_and_leaves_the_plugins_runs_alone(
    mlflow: MlflowClient, plugin: tuple[Run, Run], tmp_path: Path
) -> None:
    pipeline, step = plugin
    assert recorded(mlflow, tmp_path)["mlflow.parentRunId"] == pipeline.info.run_id
    for run in (pipeline, step):
        assert mlflow.get_run(run.info.run_id).to_dictionary() == run.to_dictionary()
    assert len(mlflow.search_runs([step.info.experiment_id])) == 2


def test_a_run_that_is_recorded_again_stays_one_run(
    mlflow: MlflowClient, plugin: tuple[Run, Run], tmp_path: Path
) -> None:
    recorded(mlflow, tmp_path)
    recorded(mlflow, tmp_path)
    (experiment,) = mlflow.search_experiments(filter_string="name LIKE 'quantgate/%'")
    runs = mlflow.search_runs([experiment.experiment_id])
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == plugin[0].info.run_id]
    assert (len(runs), len(nested)) == (5, 1)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_TRACKING_URI", "http://another-mlflow:5000"),
        ("MLFLOW_RUN_ID", "0" * 32),
        ("MLFLOW_EXPERIMENT_ID", "99"),
        ("KUBERNETES_SERVICE_HOST", ""),
    ],
)
def test_a_run_of_another_mlflow_or_another_experiment_is_no_parent(
    mlflow: MlflowClient,
    plugin: tuple[Run, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv(variable, value)
    assert "mlflow.parentRunId" not in recorded(mlflow, tmp_path)


class Answering(http.server.BaseHTTPRequestHandler):
    """An MLflow without experiments, which remembers the headers of each request."""

    seen: ClassVar[list[dict[str, str]]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.seen.append(dict(self.headers))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"experiments": []}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("plugins", [False, True], ids=["another server", "the plugin's server"])
def test_the_plugins_login_goes_to_the_plugins_mlflow_only(monkeypatch: pytest.MonkeyPatch, plugins: bool) -> None:
    """With authType kubernetes MLflow's client sends the pod's token, whatever user name and password there are."""
    Answering.seen.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        here = f"http://127.0.0.1:{server.server_port}"
        variables = {
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            "MLFLOW_TRACKING_URI": here if plugins else "http://kfp-mlflow:5000",
            "MLFLOW_EXPERIMENT_ID": "7",
            "MLFLOW_RUN_ID": "abc",
            "MLFLOW_TRACKING_AUTH": "kubernetes",
            "MLFLOW_TRACKING_USERNAME": "quantgate",
            "MLFLOW_TRACKING_PASSWORD": "secret",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("mlflow.tracking.request_auth.registry.fetch_auth", lambda _name: token)
        try:
            with connected(here, "answer"):
                pass
        finally:
            server.shutdown()
    scheme = "Bearer the-pods" if plugins else "Basic "
    assert [request["Authorization"].startswith(scheme) for request in Answering.seen] == [True]
    assert os.environ["MLFLOW_TRACKING_AUTH"] == "kubernetes"


def token(request: Any) -> Any:
    """In place of MLflow's provider, which reads the token in the pod."""
    request.headers["Authorization"] = "Bearer the-pods"
    return request
