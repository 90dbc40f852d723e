"""The content of an MLflow server after `track`, and the errors of `track` for an unusable server."""

import base64
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pytest
from mlflow.tracking import MlflowClient

from quantgate.components.errors import PrerequisiteError
from quantgate.components.promote.promotion import promote
from quantgate.components.promote.registry import register
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.connect import HOSTS
from quantgate.components.tracking.facts import RunFiles
from quantgate.components.tracking.tracked_run import TrackedRun
from quantgate.components.tracking.uris import local_tracking_uri
from tests.support.decided import FACTS, called, digested, make_decision, report_files
from tests.support.mlflow_server import Proxy, running_mlflow
from tests.support.registered import stored

NOBODY = "http://127.0.0.1:9"

pytestmark = pytest.mark.slow


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
def test_an_unusable_tracking_uri_is_refused_within_seconds(uri: str, words: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(PrerequisiteError) as refusal:
        track(make_decision(tmp_path), FACTS, RunFiles(), uri)
    assert words in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert time.monotonic() - started < 10
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(PrerequisiteError, match="file is not a database"):
        track(make_decision(tmp_path), FACTS, RunFiles(), local_tracking_uri(tmp_path))


@contextmanager
def answering(status: int, body: str = "", location: str = "") -> Iterator[int]:
    """The port of a server with the same answer to every request."""

    class Other(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(status)
            self.send_header("Location", f"{location}{self.path}")
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        yield other.server_port
        other.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, "", "cannot be reached at"),
        (401, "who are you", "denies access to this run: .*who are you"),
        (403, "not you", "denies access to this run: .*not you"),
        (200, "<html>A wiki.</html>", "cannot be reached at .*A wiki"),
        (200, "<html>" + "A wiki. " * 1000, r"A wiki\. A .* …\n"),
    ],
)
def test_a_server_that_is_not_mlflow_or_denies_access_is_refused(
    status: int, body: str, words: str, tmp_path: Path
) -> None:
    with answering(status, body) as port, pytest.raises(PrerequisiteError, match=words) as refusal:
        track(make_decision(tmp_path), FACTS, RunFiles(), f"http://me:secret@127.0.0.1:{port}")
    assert "MLflow" in str(refusal.value)
    assert f"http://***@127.0.0.1:{port}" in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_a_server_that_never_answers_times_out_after_seconds(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(PrerequisiteError, match="timed out"):
            track(make_decision(tmp_path), FACTS, RunFiles(), f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - started < 20


def test_a_server_shows_a_run_on_its_page_and_a_failed_variant_as_failed(mlflow_server: str, tmp_path: Path) -> None:
    tracked = recorded(tmp_path, mlflow_server, failed="int4-g64")
    client = MlflowClient(mlflow_server)
    page = f"{mlflow_server}/#/experiments/{tracked.experiment_id}/runs/{tracked.run_id}?workflowType=machine_learning"
    assert tracked.page == page
    assert client.get_run(tracked.children["int4-g64"]).info.status == "FAILED"
    assert client.get_run(tracked.children["int4-g128"]).info.status == "FINISHED"


def test_a_server_stores_versions_aliases_and_their_evidence(mlflow_server: str, tmp_path: Path) -> None:
    """A server does not accept this machine's folder as a version's source, so the version points at its run."""
    decision = make_decision(tmp_path)
    weights = tuple(stored(tmp_path, weights) for weights in decision.weights)
    decision = called(decision.model_copy(update={"weights": weights}), "registry")
    registration = register(
        decision, track(digested(decision), FACTS, report_files(tmp_path), mlflow_server), mlflow_server
    )
    done = promote(mlflow_server, registration.model)
    assert (done.variant, done.weights) == ("int8", next(row.uri for row in weights if row.variant == "int8"))
    client = MlflowClient(mlflow_server)
    assert str(client.get_model_version(registration.model, done.champion).source).startswith("runs:/")
    aliases = client.get_registered_model(registration.model).aliases
    assert {name: str(version) for name, version in aliases.items()} == dict.fromkeys(
        ("candidate", "champion"), done.champion
    )
    with pytest.raises(PrerequisiteError, match="its verdict is reject"):
        promote(mlflow_server, registration.model, registration.versions["int4-g64"])


USERNAME, PASSWORD, TOKEN = (f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))
SERVER_CERTIFICATE, CLIENT_CERTIFICATE = (f"MLFLOW_TRACKING_{name}_CERT_PATH" for name in ("SERVER", "CLIENT"))
NOT_LET_IN = f"denies access to this run.*\nSet {USERNAME} and {PASSWORD}, or {TOKEN}"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (USERNAME, PASSWORD, TOKEN, SERVER_CERTIFICATE, CLIENT_CERTIFICATE, HOSTS):
        monkeypatch.delenv(name, raising=False)


def recorded(folder: Path, server: str, failed: str = "") -> TrackedRun:
    """Record a run in a separate experiment."""
    decision = called(make_decision(folder, failed=failed), folder.name)
    return track(decision, FACTS, report_files(folder), server)


def known(_number: int, headers: Message) -> int:
    """Accepts requests with the password or the token; 401 for all others."""
    basic = base64.b64encode(b"me:right").decode()
    return 0 if headers["Authorization"] in (f"Basic {basic}", "Bearer right") else 401


@pytest.mark.parametrize("credentials", [{USERNAME: "me", PASSWORD: "right"}, {TOKEN: "right"}], ids=["name", "token"])
def test_a_user_with_the_password_or_the_token_gets_access(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials: dict[str, str]
) -> None:
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    with Proxy(mlflow_server, before=known) as proxy:
        tracked = recorded(tmp_path, proxy.address)
    assert len(MlflowClient(mlflow_server).search_runs([tracked.experiment_id])) == 1 + 4


@pytest.mark.parametrize(
    "credentials", [{}, {USERNAME: "me", PASSWORD: "wrong"}, {TOKEN: "wrong"}], ids=["nothing", "name", "token"]
)
def test_a_user_without_them_learns_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials: dict[str, str]
) -> None:
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    with Proxy(NOBODY, before=known) as proxy, pytest.raises(PrerequisiteError, match=NOT_LET_IN) as refusal:
        recorded(tmp_path, proxy.address)
    assert len(proxy.requests) == 1
    assert "wrong" not in str(refusal.value)


@pytest.mark.skipif(find_spec("flask_wtf") is None, reason="MLflow's own login needs `pip install 'mlflow[auth]'`")
def test_mlflows_own_login_accepts_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": "a long password", "MLFLOW_FLASK_SERVER_SECRET_KEY": "any"}
    places = (f"sqlite:///{tmp_path}/server.db", str(tmp_path / "files"))
    monkeypatch.setenv(USERNAME, "admin")
    with running_mlflow(*places, secrets, "--app-name", "basic-auth") as server:
        for password in ("", "a wrong password"):
            monkeypatch.setenv(PASSWORD, password)
            with pytest.raises(PrerequisiteError, match=NOT_LET_IN):
                recorded(tmp_path, server)
        monkeypatch.setenv(PASSWORD, "a long password")
        tracked = recorded(tmp_path, server)
        assert len(MlflowClient(server).search_runs([tracked.experiment_id])) == 1 + 4


def test_a_token_with_a_line_break_is_refused_without_being_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "right\n")
    with Proxy(NOBODY) as proxy, pytest.raises(PrerequisiteError, match=f"{TOKEN} contains .* a line break") as refusal:
        recorded(tmp_path, proxy.address)
    assert proxy.connections == 0
    assert "right" not in str(refusal.value)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificates of a server, server.pem, and of a client, client.pem, each with its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command: `apt-get install openssl` brings it")
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "client"):
        file = str(folder / f"{name}.pem")
        new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", file, "-out", f"{file}.only"]
        named = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        subprocess.run([*new, *named], check=True, capture_output=True)
        with (folder / f"{name}.pem").open("a") as both:
            both.write(Path(f"{file}.only").read_text())
    return folder


def test_a_client_certificate_is_sent_if_the_server_requests_one(
    mlflow_server: str, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demands = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    demands.load_cert_chain(certificates / "server.pem")
    demands.load_verify_locations(certificates / "client.pem")
    demands.verify_mode = ssl.CERT_REQUIRED
    with Proxy(mlflow_server, tls=demands) as proxy:
        for name, file in (("", ""), (SERVER_CERTIFICATE, "server.pem"), (CLIENT_CERTIFICATE, "server.pem")):
            if name:
                monkeypatch.setenv(name, str(certificates / file))
            with pytest.raises(PrerequisiteError, match=f"{SERVER_CERTIFICATE} names .* {CLIENT_CERTIFICATE} that"):
                recorded(tmp_path, proxy.address)
        assert proxy.requests == []
        monkeypatch.setenv(CLIENT_CERTIFICATE, str(certificates / "client.pem"))
        tracked = recorded(tmp_path, proxy.address)
    assert len(MlflowClient(mlflow_server).search_runs([tracked.experiment_id])) == 1 + 4


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:{port}",
        "HTTP://127.0.0.1:{port}",
        " http://127.0.0.1:{port}",
        "http://mlflow.example@127.0.0.1:{port}",
        "http://127.0.0.1:{port}\\@mlflow.example/",
        "postgresql+psycopg2://me:secret@127.0.0.1:{port}/mlflow",
    ],
)
def test_a_host_outside_the_allow_list_gets_no_connection(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every form of the URI: MLflow's client parses it differently from Python."""
    monkeypatch.setenv(TOKEN, "secret")
    monkeypatch.setenv(HOSTS, "mlflow.example, localhost")
    with Proxy(NOBODY, before=known) as proxy, pytest.raises(PrerequisiteError, match="is not among those") as refusal:
        recorded(tmp_path, uri.format(port=proxy.server_port))
    assert proxy.connections == 0
    assert "secret" not in str(refusal.value)


def test_a_redirect_from_an_allowed_host_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS, "localhost")
    with (
        Proxy(NOBODY, before=known) as proxy,
        answering(307, location=proxy.address) as port,
        pytest.raises(PrerequisiteError, match="error code 307"),
    ):
        recorded(tmp_path, f"http://localhost:{port}")
    assert proxy.connections == 0
