"""MLflow on SQLite with a folder, and on PostgreSQL with S3: tracking, promotion, and recovery after a kill."""

import json
import multiprocessing
import random
import uuid
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from quantgate.components.errors import PrerequisiteError
from quantgate.components.promote.promotion import promote, rollback
from quantgate.components.promote.registry import Registered, register
from quantgate.components.run.artifacts import RowsOrigin
from quantgate.components.run.verdicts import Decision
from quantgate.components.track import step
from quantgate.components.track import step as track_step
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.facts import RunFiles
from quantgate.components.tracking.tags import RUN_ID_TAG, VARIANT_TAG
from quantgate.components.tracking.tracked_run import TrackedRun
from quantgate.pipelines.cli.app import answer
from tests.support.decided import FACTS, SCORES, VERDICTS, digested, make_decision, report_files
from tests.support.mlflow_server import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = (
    RowsOrigin(task="hellaswag", where="Rowan/hellaswag from hub", sha256="0123456789abcdef"),
    RowsOrigin(task="piqa", where="baber/piqa from hub", sha256="fedcba9876543210"),
)
FLIPS: dict[str, list[Any]] = {"task": ["piqa", "piqa"], "item_id": [3, 7], "lost": [True, False]}
CALLS = ("runs/create", "runs/log-batch", "runs/log-inputs", "mlflow-artifacts/", "runs/update")
"""The requests of a recording; the test kills it at each of them."""


def decision_on(folder: Path, model: str) -> Decision:
    """A decision on a model with that name, with locations of the variants' weights and names of the rows."""
    decision = make_decision(folder)
    weights = tuple(
        weights.model_copy(update={"uri": f"s3://bucket/{weights.variant}"}) for weights in decision.weights
    )
    scores = tuple(scores.model_copy(update={"row_origins": ROWS}) for scores in decision.scores)
    of_model = decision.model.model_copy(update={"source": f"hf:org/{model}"})
    return digested(decision.model_copy(update={"model": of_model, "weights": weights, "scores": scores}))


def tracked(folder: Path, server: str, model: str, run_id: str = "run-1") -> TrackedRun:
    files = RunFiles(report_files(folder).report, flips={"int8": FLIPS})
    return track(decision_on(folder, model), FACTS.model_copy(update={"run_id": run_id}), files, server)


def registered(folder: Path, server: str, model: str) -> Registered:
    return register(decision_on(folder, model), tracked(folder, server, model), server)


def runs_of(client: MlflowClient, tracked_run: TrackedRun, run_id: str = "run-1") -> dict[str, Run]:
    """The pipeline run's runs by variant, the parent under the empty name; each once."""
    runs = client.search_runs([tracked_run.experiment_id], f"tags.`{RUN_ID_TAG}` = '{run_id}'")
    by_variant = {run.data.tags.get(VARIANT_TAG, ""): run for run in runs}
    assert len(by_variant) == len(runs)
    return by_variant


def artifacts_of(client: MlflowClient, run: Run, folder: Path) -> dict[str, bytes]:
    names = [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
    folder = folder / run.info.run_id
    folder.mkdir(exist_ok=True)
    return {name: Path(client.download_artifacts(run.info.run_id, name, str(folder))).read_bytes() for name in names}


def data_sets_of(run: Run) -> list[tuple[str, str]]:
    """Names and digests, sorted: PostgreSQL gives them in any order."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return sorted((data_set.dataset.name, data_set.dataset.digest) for data_set in inputs)


def champion_of(client: MlflowClient, model: str) -> str:
    return str(client.get_registered_model(model).aliases.get("champion", "none"))


def quantgate(*arguments: str) -> int:
    """The exit status of the command."""
    with pytest.raises(SystemExit) as end:
        answer(list(arguments))
    return int(end.value.code or 0)


@pytest.fixture
def model() -> str:
    """A model name that no other test uses."""
    return uuid.uuid4().hex


def test_a_parent_and_its_children_contain_numbers_texts_tables_data_sets_and_files(
    mlflow_backend: str, model: str, tmp_path: Path
) -> None:
    tracked_run = tracked(tmp_path, mlflow_backend, model)
    client = MlflowClient(mlflow_backend)
    runs = runs_of(client, tracked_run)
    parent, int8 = runs[""], runs["int8"]

    assert {name: run.info.run_id for name, run in runs.items()} == {"": tracked_run.run_id, **tracked_run.children}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {runs[name].data.tags["mlflow.parentRunId"] for name in tracked_run.children} == {tracked_run.run_id}
    assert parent.data.params["model"] == f"hf:org/{model}"
    assert {name: runs[name].data.tags["verdict"] for name in tracked_run.children} == VERDICTS
    for name, scores in SCORES.items():
        assert runs[name].data.metrics["hellaswag.score"] == scores["hellaswag"]
        assert runs[name].data.metrics["mean_score"] == sum(scores.values()) / 2
    assert int8.data.metrics["hellaswag.drop"] == 1 - 0.39 / 0.40
    assert int8.data.params["scheme"] == "W4A16"
    assert data_sets_of(int8) == [("hellaswag", "0123456789abcdef"), ("piqa", "fedcba9876543210")]

    files = artifacts_of(client, parent, tmp_path)
    assert files["report.html"] == b"This is report.html."
    matrix = json.loads(files["decision_matrix.json"])
    assert dict(zip(matrix["columns"], zip(*matrix["data"], strict=True), strict=True))["verdict"] == tuple(
        VERDICTS.values()
    )
    files = artifacts_of(client, int8, tmp_path)
    assert files["records.parquet"] == b"rows of int8"
    assert json.loads(files["flips.json"]) == {
        "columns": ["task", "item_id", "lost"],
        "data": [["piqa", 3, True], ["piqa", 7, False]],
    }
    assert json.loads(files["verdict.json"])["verdict"] == "ship"


def test_tracking_again_creates_no_duplicates(mlflow_backend: str, model: str, tmp_path: Path) -> None:
    first, again = (tracked(tmp_path, mlflow_backend, model) for _ in range(2))
    client = MlflowClient(mlflow_backend)
    runs = runs_of(client, first)
    assert again == first
    assert len(runs) == 1 + 4
    assert len(client.get_metric_history(first.children["int8"], "hellaswag.score")) == 1
    assert [len(data_sets_of(run)) for run in runs.values()] == [2] * 5


def test_a_lost_response_creates_no_duplicates(mlflow_backend: str, model: str, tmp_path: Path) -> None:
    """MLflow's client repeats the request, although the server has executed it."""
    lost: set[str] = set()

    def lose_the_first(number: int) -> None:
        call = proxy.requests[number - 1].split("?")[0]
        if "/runs/" in call and call not in lost:
            lost.add(call)
            raise ConnectionAbortedError

    with Proxy(mlflow_backend, after=lose_the_first) as proxy:
        tracked_run = tracked(tmp_path, proxy.address, model)
    assert {call.rpartition("/")[2] for call in lost} >= {"create", "log-batch", "log-inputs", "update"}
    runs = runs_of(MlflowClient(mlflow_backend), tracked_run)
    assert {name: run.info.run_id for name, run in runs.items()} == {"": tracked_run.run_id, **tracked_run.children}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_a_database_without_a_server_is_refused_because_it_stores_no_files(
    postgres: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrerequisiteError, match=f"stores no files: MLflow would write the run's to {tmp_path}/mlruns"):
        tracked(tmp_path, postgres, model)
    assert not (tmp_path / "mlruns").exists()


def test_three_runs_of_a_model_are_three_parents_with_four_children_each(
    mlflow_backend: str, model: str, tmp_path: Path
) -> None:
    tracked_runs = [tracked(tmp_path, mlflow_backend, model, run_id) for run_id in ("run-1", "run-2", "run-3")]
    client = MlflowClient(mlflow_backend)
    assert len({tracked_run.experiment_id for tracked_run in tracked_runs}) == 1
    parents = client.search_runs([tracked_runs[0].experiment_id], "tags.verdicts != ''")
    assert {run.info.run_id for run in parents} == {tracked_run.run_id for tracked_run in tracked_runs}
    for tracked_run in tracked_runs:
        children = client.search_runs(
            [tracked_run.experiment_id], f"tags.`mlflow.parentRunId` = '{tracked_run.run_id}'"
        )
        assert {run.info.run_name: run.info.run_id for run in children} == tracked_run.children
        assert len(children) == 4
    assert len(client.search_runs([tracked_runs[0].experiment_id])) == 3 * (1 + 4)


@pytest.mark.usefixtures("weights_of_no_store")
def test_a_variant_that_ships_becomes_champion_and_is_rolled_back(
    mlflow_backend: str, model: str, tmp_path: Path
) -> None:
    registration = registered(tmp_path, mlflow_backend, model)
    client = MlflowClient(mlflow_backend)
    assert registered(tmp_path, mlflow_backend, model) == registration
    assert len(client.search_model_versions(f"name='{registration.model}'")) == 4
    promote(mlflow_backend, registration.model, registration.versions["bf16"])
    done = promote(mlflow_backend, registration.model)
    assert (done.variant, done.verdict, done.weights) == ("int8", "ship", "s3://bucket/int8")
    assert champion_of(client, registration.model) == registration.versions["int8"]
    back = rollback(mlflow_backend, registration.model)
    assert (back.variant, champion_of(client, registration.model)) == ("bf16", registration.versions["bf16"])


def test_a_rejected_variant_is_refused_in_every_way_despite_its_tags(
    mlflow_backend: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registration = registered(tmp_path, mlflow_backend, model)
    client = MlflowClient(mlflow_backend)
    rejected = registration.versions["int4-g64"]
    run_id = str(client.get_model_version(registration.model, rejected).run_id)
    command = ("promote", registration.model, "--tracking-uri", mlflow_backend, "--version", rejected)
    for edited in (False, True):
        if edited:
            client.set_model_version_tag(registration.model, rejected, "quantgate.verdict", "ship")
            client.set_tag(run_id, "verdict", "ship")
            client.set_registered_model_alias(registration.model, "candidate", rejected)
        for _ in range(2):
            with pytest.raises(PrerequisiteError, match="its verdict is reject"):
                promote(mlflow_backend, registration.model, rejected)
            assert quantgate(*command) == 2
            assert "its verdict is reject" in capsys.readouterr().err
    with pytest.raises(PrerequisiteError, match="its verdict is reject"):
        promote(mlflow_backend, registration.model)
    assert champion_of(client, registration.model) == "none"


def arguments(results: Path, run_id: str, server: str) -> tuple[str, str, str, str, str, str, str]:
    """The arguments of the step `track`, for the results of the earlier steps."""
    decision, page, text, tracked_file = (
        str(results / name) for name in ("decision.json", "report.html", "report.md", "tracked.json")
    )
    return decision, run_id, str(results), server, page, text, tracked_file


def kill_at(number: int, results: Path, run_id: str, server: str) -> None:
    """Run the step in a process that is killed when its n-th request arrives; the request is lost."""

    def kill(arrived: int, _headers: object) -> int:
        if arrived == number:
            process.kill()
        return 503 if arrived >= number else 0

    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["mlflow.tracking", step.__name__])  # so that no process imports MLflow anew
    with Proxy(server, before=kill) as proxy:
        process = processes.Process(target=step.track, args=arguments(results, run_id, proxy.address))
        process.start()
        process.join(120)
        assert process.exitcode == -SIGKILL


def held(client: MlflowClient, tracked_run: TrackedRun, run_id: str, folder: Path) -> dict[str, object]:
    """MLflow's content of a pipeline run without ids, times and the commit, which may change during the tests."""
    named = {RUN_ID_TAG, "mlflow.parentRunId", "mlflow.source.git.commit"}
    return {
        variant: (
            run.info.status,
            run.data.params,
            run.data.metrics,
            {key: value for key, value in run.data.tags.items() if key not in named},
            data_sets_of(run),
            artifacts_of(client, run, folder),
        )
        for variant, run in runs_of(client, tracked_run, run_id).items()
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    decision_on(folder, uuid.uuid4().hex).write(folder / "decision.json")
    report_files(folder)
    (folder / "variants" / "int8").mkdir(parents=True)
    (folder / "variants" / "int8" / "flips.json").write_text(json.dumps(FLIPS))
    return folder


@pytest.fixture(scope="module")
def undisturbed(mlflow_backend: str, results: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """MLflow's content of a run without faults, and under `requests` its requests."""
    track_step.track(*arguments(results, "undisturbed-0", mlflow_backend))  # makes the experiment
    with Proxy(mlflow_backend) as proxy:
        track_step.track(*arguments(results, "undisturbed", proxy.address))
    tracked_run = TrackedRun.read(results / "tracked.json")
    content = held(MlflowClient(mlflow_backend), tracked_run, "undisturbed", tmp_path_factory.mktemp("undisturbed"))
    return {**content, "requests": proxy.requests}


@pytest.mark.parametrize("call", CALLS)
def test_after_a_kill_anywhere_and_a_repetition_each_variant_has_one_complete_run(
    mlflow_backend: str, undisturbed: dict[str, Any], results: Path, tmp_path: Path, call: str
) -> None:
    """The step is killed at one of these calls, its repetition is killed anywhere, and the third one completes."""
    run_id, source = f"undisturbed {call}", random.Random(call)
    calls = [number for number, request in enumerate(undisturbed["requests"], start=1) if call in request]
    for number in (source.choice(calls), source.randint(1, len(undisturbed["requests"]))):
        kill_at(number, results, run_id, mlflow_backend)
    track_step.track(*arguments(results, run_id, mlflow_backend))
    tracked_run = TrackedRun.read(results / "tracked.json")
    client = MlflowClient(mlflow_backend)
    content = held(client, tracked_run, run_id, tmp_path)
    assert len(content) == 1 + 4
    for variant, what in content.items():
        assert what == undisturbed[variant], variant
    assert {len(client.get_metric_history(child, "piqa.score")) for child in tracked_run.children.values()} == {1}
