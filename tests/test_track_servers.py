"""What an MLflow server holds after `track`, and what `track` says to one that is not there."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from mlflow.tracking import MlflowClient

from components.errors import PrerequisiteError
from components.promote import promote, register
from components.track import RunFiles, local_tracking_uri, track
from tests.decided import FACTS, make_decision, report_files

READY_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server that keeps its files to itself."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(address, process, log)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_healthy(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the MLflow server died:\n{log.read_text()}"
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=1):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"the MLflow server is not up after {READY_TIMEOUT_S} s:\n{log.read_text()}")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "No MLflow tracking URI"),
        ("http://127.0.0.1:9", "Connection refused"),
        ("gopher://x", "unsupported URI"),
        ("file:mlruns", "sqlite:///mlflow.db"),
        ("sqlite:////proc/none/mlflow.db", "/proc/none"),
        ("sqlite:////proc/mlflow.db", "unable to open database file"),
        ("postgresql+nodriver://user:secret@127.0.0.1:9/x", "Can't load plugin"),
    ],
)
def test_a_tracking_uri_that_cannot_be_used_is_refused_within_seconds(uri: str, words: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(PrerequisiteError) as refusal:
        track(make_decision(tmp_path), FACTS, RunFiles(), uri)
    assert words in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert time.monotonic() - started < 10
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(PrerequisiteError, match="file is not a database"):
        track(make_decision(tmp_path), FACTS, RunFiles(), local_tracking_uri(tmp_path))


@pytest.mark.parametrize(("status", "body"), [(404, ""), (401, "who are you"), (200, "<html>A wiki.</html>")])
def test_a_server_that_is_not_mlflow_is_refused(status: int, body: str, tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        uri = f"http://me:secret@127.0.0.1:{other.server_port}"
        with pytest.raises(PrerequisiteError, match=r"MLflow cannot be reached at http://\*\*\*@") as refusal:
            track(make_decision(tmp_path), FACTS, RunFiles(), uri)
        other.shutdown()
    assert "secret" not in str(refusal.value)


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up_after_seconds(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(PrerequisiteError, match="timed out"):
            track(make_decision(tmp_path), FACTS, RunFiles(), f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_a_server_holds_the_runs_and_gives_the_files_back(server: str, tmp_path: Path) -> None:
    tracked = track(make_decision(tmp_path, failed="int4-g64"), FACTS, report_files(tmp_path), server)
    client = MlflowClient(server)
    runs = {run.info.run_name: run for run in client.search_runs([tracked.experiment_id])}

    assert set(runs) == {"nightly", "bf16", "int8", "int4-g128", "int4-g64"}
    assert runs["int8"].data.metrics["hellaswag.drop"] == 1 - 0.39 / 0.40
    assert runs["int8"].data.tags["verdict"] == "ship"
    assert runs["int4-g64"].info.status == "FAILED"
    assert (
        tracked.page
        == f"{server}/#/experiments/{tracked.experiment_id}/runs/{tracked.run_id}?workflowType=machine_learning"
    )
    report = client.download_artifacts(tracked.run_id, "report.html", str(tmp_path))
    assert Path(report).read_text() == "This is report.html."
    records = client.download_artifacts(tracked.children["int8"], "records.parquet", str(tmp_path))
    assert Path(records).read_text() == "rows of int8"


@pytest.mark.slow
def test_tracking_again_on_a_server_doubles_nothing(server: str, tmp_path: Path) -> None:
    facts = FACTS.model_copy(update={"run_id": "run-2", "name": "twice"})
    first = track(make_decision(tmp_path), facts, report_files(tmp_path), server)
    again = track(make_decision(tmp_path), facts, report_files(tmp_path), server)
    client = MlflowClient(server)

    assert again == first
    mine = client.search_runs([first.experiment_id], "tags.`quantgate.run_id` = 'run-2'")
    assert len(mine) == 5
    assert len(client.get_metric_history(first.children["int8"], "hellaswag.score")) == 1


def test_a_server_keeps_versions_aliases_and_what_they_rest_on(server: str, tmp_path: Path) -> None:
    """A server takes no folder of this machine for a version's source: the version points at its run."""
    decision = make_decision(tmp_path)
    weights = tuple(each.model_copy(update={"uri": str(tmp_path / each.variant)}) for each in decision.weights)
    decision = decision.model_copy(update={"weights": weights, "use_case": "registry"})
    found = register(decision, track(decision, FACTS, report_files(tmp_path), server), server)
    done = promote(server, found.model)
    assert (done.variant, done.weights) == ("int8", str(tmp_path / "int8"))
    client = MlflowClient(server)
    assert str(client.get_model_version(found.model, done.champion).source).startswith("runs:/")
    aliases = client.get_registered_model(found.model).aliases
    assert {name: str(each) for name, each in aliases.items()} == dict.fromkeys(
        ("candidate", "champion"), done.champion
    )
    with pytest.raises(PrerequisiteError, match="its verdict is reject"):
        promote(server, found.model, found.versions["int4-g64"])
