"""The MLflow run that Kubeflow Pipelines' own plugin makes is taken up as the parent, and the plugin keeps its own."""

import http.server
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from quantgate.components.promote.promotion import promote
from quantgate.components.promote.registry import register
from quantgate.components.run.verdicts import Decision
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.connect import connected
from quantgate.components.tracking.earlier import find_verdicts, trusted_runs
from quantgate.components.tracking.earlier_attempts import tracked_judgements
from quantgate.components.tracking.experiments import recording_experiment
from quantgate.components.tracking.facts import RunFacts, RunFiles
from quantgate.components.tracking.kubeflow_run import kubeflow_run
from quantgate.components.tracking.tracked_run import TrackedRun
from tests.support.decided import FACTS, digested, make_decision
from tests.support.mlflow_store import empty_store, local
from tests.support.registered import placed, stored

__all__ = ["empty_store", "local"]

pytestmark = pytest.mark.slow


@pytest.fixture
def mlflow(local: str) -> MlflowClient:
    return MlflowClient(local)


@pytest.fixture
def plugin(mlflow: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Run]:
    """The runs that the plugin made: of the pipeline, and of this step."""
    experiment = mlflow.create_experiment("KFP-Default")
    tags = {"kfp.pipeline_run_id": FACTS.run_id}
    pipeline = mlflow.create_run(experiment, run_name="quantgate-ship 1", start_time=1_000_000, tags=tags)
    step = mlflow.create_run(experiment, run_name="track", tags={"mlflow.parentRunId": pipeline.info.run_id})
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.tracking_uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", step.info.run_id)
    return mlflow.get_run(pipeline.info.run_id), mlflow.get_run(step.info.run_id)


def recorded(mlflow: MlflowClient, decision: Decision, **changes: object) -> TrackedRun:
    """Record the decision as the step in this pod does."""
    facts = FACTS.model_copy(update={"kubeflow": kubeflow_run(), "judged_at": 1_700_000_100.0, **changes})
    return track(decision, facts, RunFiles(), mlflow.tracking_uri)


def experiments(mlflow: MlflowClient) -> set[str]:
    return {experiment.name for experiment in mlflow.search_experiments()} - {"Default"}


def test_the_pipelines_run_is_the_parent_and_the_plugin_keeps_its_name_status_and_end(
    mlflow: MlflowClient, plugin: tuple[Run, Run], tmp_path: Path
) -> None:
    pipeline, step = plugin
    for _ in range(2):
        tracked = recorded(mlflow, make_decision(tmp_path))
    assert (tracked.run_id, tracked.experiment) == (pipeline.info.run_id, "KFP-Default")
    parent = mlflow.get_run(tracked.run_id)
    kept = ("run_name", "status", "start_time", "end_time", "lifecycle_stage")
    assert [getattr(parent.info, name) for name in kept] == ["quantgate-ship 1", "RUNNING", 1_000_000, None, "active"]
    assert (parent.data.params["model_digest"], parent.data.tags["quantgate.recorded"]) == ("base", "true")
    assert mlflow.get_run(step.info.run_id).to_dictionary() == step.to_dictionary()
    assert experiments(mlflow) == {"KFP-Default"}
    runs = mlflow.search_runs([tracked.experiment_id])
    assert len(runs) == 2 + 4
    children = [run for run in runs if run.info.run_id in tracked.children.values()]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {pipeline.info.run_id}
    assert {run.info.status for run in children} == {"FINISHED"}


def test_parameters_of_others_on_the_pipelines_run_are_no_contradiction(
    mlflow: MlflowClient, plugin: tuple[Run, Run], tmp_path: Path
) -> None:
    mlflow.log_param(plugin[0].info.run_id, "team", "chat")
    assert recorded(mlflow, make_decision(tmp_path)).run_id == plugin[0].info.run_id


def test_another_decision_after_a_retry_is_a_run_below_the_pipelines_run(
    mlflow: MlflowClient, plugin: tuple[Run, Run], tmp_path: Path
) -> None:
    recorded(mlflow, make_decision(tmp_path))
    other = make_decision(tmp_path).model_copy(update={"suite": "demo"})
    for _ in range(2):
        tracked = recorded(mlflow, other)
    pipeline = mlflow.get_run(plugin[0].info.run_id)
    assert pipeline.info.lifecycle_stage == "active"
    assert not {"quantgate.run_id", "quantgate.recorded", "verdicts"} & pipeline.data.tags.keys()
    parent = mlflow.get_run(tracked.run_id)
    assert parent.data.tags["mlflow.parentRunId"] == pipeline.info.run_id
    assert (parent.info.status, parent.data.params["suite"]) == ("FINISHED", "demo")
    assert len(mlflow.search_runs([tracked.experiment_id])) == 2 + 1 + 4


def test_a_run_that_is_sent_later_through_a_forwarded_port_is_taken_up_too(
    mlflow: MlflowClient, plugin: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside the pod the plugin's variables are gone, and MLflow has another address."""
    in_pod = RunFacts.model_validate_json(FACTS.model_copy(update={"kubeflow": kubeflow_run()}).model_dump_json())
    assert in_pod.kubeflow
    elsewhere = in_pod.kubeflow.model_copy(update={"tracking_uri": "http://mlflow.kubeflow:5000"})
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    decision = make_decision(tmp_path)
    assert recorded(mlflow, decision, kubeflow=elsewhere).run_id == plugin[0].info.run_id
    foreign = recorded(mlflow, decision, kubeflow=elsewhere, run_id="run-2")
    assert foreign.experiment.startswith("quantgate/")


def test_what_is_recorded_in_the_pipelines_run_is_found_and_may_serve_before_the_pipeline_ends_and_after_it_failed(
    mlflow: MlflowClient, plugin: tuple[Run, Run], tmp_path: Path
) -> None:
    """The step promote is part of the pipeline run, and --fail-run-on fails a pipeline run that has a good verdict."""
    decision = digested(placed(make_decision(tmp_path)))
    decision = decision.model_copy(update={"weights": tuple(stored(tmp_path, row) for row in decision.weights)})
    decision = digested(decision)
    tracked = recorded(mlflow, decision)
    registered = register(decision, tracked, mlflow.tracking_uri, 1.0)
    for status in ("RUNNING", "FAILED"):
        mlflow.update_run(tracked.run_id, status=status)
        found = list(trusted_runs(mlflow, "KFP-Default", "params.model_digest = 'base'", mlflow.tracking_uri))
        assert [run.info.run_id for _, run in found] == [tracked.run_id]
        assert find_verdicts(FACTS.run_id, mlflow.tracking_uri)[0][:2] == ("int8", "ship")
        assert promote(mlflow.tracking_uri, registered.model).variant == "int8"
    mlflow.delete_tag(tracked.run_id, "quantgate.recorded")
    assert list(trusted_runs(mlflow, "KFP-Default", "params.model_digest = 'base'", mlflow.tracking_uri)) == []


def test_a_run_looks_for_earlier_ones_in_the_plugins_experiment(mlflow: MlflowClient, plugin: tuple[Run, Run]) -> None:
    assert recording_experiment(mlflow.tracking_uri, "quantgate/ours") == "KFP-Default"
    assert recording_experiment("http://127.0.0.1:9", "quantgate/ours") == "quantgate/ours"


def test_attempts_in_a_shared_experiment_are_those_of_the_use_case(
    mlflow: MlflowClient, plugin: tuple[Run, Run], tmp_path: Path
) -> None:
    decision = make_decision(tmp_path)
    judged = tuple(row.model_copy(update={"form": "evidence"}) for row in decision.verdicts)
    recorded(mlflow, digested(decision.model_copy(update={"verdicts": judged})))
    counts = [
        len(tracked_judgements("base", use_case, "KFP-Default", mlflow.tracking_uri))
        for use_case in ("general-chat", "code")
    ]
    assert counts == [1, 0]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_TRACKING_URI", "http://another-mlflow:5000"),
        ("MLFLOW_RUN_ID", "0" * 32),
        ("MLFLOW_EXPERIMENT_ID", "99"),
        ("KUBERNETES_SERVICE_HOST", ""),
    ],
)
def test_a_run_of_another_mlflow_or_another_experiment_is_not_taken_up(
    mlflow: MlflowClient,
    plugin: tuple[Run, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    mlflow.delete_tag(plugin[0].info.run_id, "kfp.pipeline_run_id")
    monkeypatch.setenv(variable, value)
    tracked = recorded(mlflow, make_decision(tmp_path))
    assert tracked.experiment.startswith("quantgate/")
    assert "mlflow.parentRunId" not in mlflow.get_run(tracked.run_id).data.tags


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
