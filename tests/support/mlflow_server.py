"""Real MLflow servers for tests, each with its own database and files, stopped by their owner.

The fixtures, one of each a session: `mlflow_server` on a SQLite file and a folder, `mlflow_on_postgres` on a PostgreSQL
and an S3 server; `mlflow_backend` runs a test on both.
"""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from tests.support.seaweed import S3Server, free_ports

READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20
WEBHOOKS = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
}
"""A server with these sends webhooks to this machine, and at once to a new one."""


def postgres_binaries() -> Path | None:
    """The folder of PostgreSQL's programs: on the PATH, or where Debian keeps those of the newest version."""
    binary = shutil.which("postgres")
    if binary and shutil.which("initdb"):
        return Path(binary).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max((binary.parent for binary in debian), key=lambda binary: float(binary.parent.name), default=None)


@contextlib.contextmanager
def running_postgres(binaries: Path) -> Iterator[str]:
    """The URI of an empty database, on a socket in a folder that is gone with the context.

    PostgreSQL refuses to run as root: there it runs as `nobody`, to whom the folder belongs. Nobody else can enter it,
    so it needs no password.
    """
    # a socket's path must be short: pytest's folders are too deep, and other users cannot enter them
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder, data, log = Path(name), Path(name) / "data", Path(name) / "log.txt"
        user = "nobody" if os.getuid() == 0 else None
        if user:
            shutil.chown(folder, user)
        programs = {program: str(binaries / program) for program in ("initdb", "postgres", "pg_isready")}
        initdb_options = ["--no-sync", "--auth=trust", "--username=mlflow", "--encoding=UTF8", "--no-locale"]
        initialize = [programs["initdb"], *initdb_options, str(data)]
        subprocess.run(initialize, user=user, cwd=folder, check=True, stdout=subprocess.PIPE)
        options = ["-D", str(data), "-k", name, "-c", "listen_addresses=", "-c", "fsync=off"]
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [programs["postgres"], *options],
                user=user,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        ready = [programs["pg_isready"], "--quiet", "--host", name]
        try:
            wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, process, "PostgreSQL", log)
            yield f"postgresql+psycopg2://mlflow@/postgres?host={folder}"
        finally:
            stop(process, signal.SIGINT)  # which ends the clients too; SIGTERM would wait for them


@contextlib.contextmanager
def running_mlflow(
    store: str, artifacts: str, environment: Mapping[str, str] | None = None, *options: str
) -> Iterator[str]:
    """The address of an MLflow server on this database that keeps its runs' files there."""
    with tempfile.TemporaryDirectory(prefix="mlflow-") as name:
        log, port = Path(name) / "log.txt", free_ports(1)[0]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", store, "--artifacts-destination", artifacts, *options]
        # MLflow's job server is only for features with language models, and starts further processes
        settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                cwd=name,
                env={**os.environ, **settings, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: healthy(address), process, "MLflow", log)
            yield address
        finally:
            stop(process, signal.SIGKILL)  # after SIGTERM it would wait for its clients' connections


def healthy(address: str) -> bool:
    """True once the server answers."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=1):
            return True
    except OSError:
        return False


def wait_until(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", name: str, log: Path) -> None:
    """Return when it is ready; raises RuntimeError with the log's end when the process dies or is late."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return
        time.sleep(0.1)
    state = "did not answer" if process.poll() is None else f"ended with {process.returncode}"
    raise RuntimeError(f"{name} {state}; its log ends:\n{log.read_text(errors='replace')[-2000:]}")


def stop(process: "subprocess.Popen[bytes]", how: signal.Signals) -> None:
    """End the process and those of its group, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server on a SQLite file and a folder."""
    folder = tmp_path_factory.mktemp("mlflow")
    with running_mlflow(f"sqlite:///{folder}/server.db", f"{folder}/files", WEBHOOKS) as address:
        yield address


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of an empty PostgreSQL database."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("needs PostgreSQL: `apt-get install postgresql` brings it")
    with running_postgres(binaries) as uri:
        yield uri


@pytest.fixture(scope="session")
def mlflow_on_postgres(postgres: str, s3_server: S3Server) -> Iterator[str]:
    """The address of an MLflow server on PostgreSQL that keeps its files in S3."""
    with running_mlflow(postgres, f"s3://{s3_server.bucket}/mlflow", s3_server.environment()) as address:
        yield address


@pytest.fixture(scope="session", params=["mlflow_server", "mlflow_on_postgres"])
def mlflow_backend(request: pytest.FixtureRequest) -> str:
    """Each MLflow server in turn."""
    address: str = request.getfixturevalue(request.param)
    return address


class Proxy(ThreadingHTTPServer):
    """A proxy between a client and a server: it records each request, and can refuse it or lose its answer.

    `before` is called with the request's number, from 1, and its headers, and gives the status to refuse it with, or 0;
    `after` is called when the server has answered: what it raises loses the answer.
    """

    daemon_threads = True

    def __init__(
        self,
        upstream: str,
        before: Callable[[int, Message], int] = lambda _number, _headers: 0,
        after: Callable[[int], None] = lambda _number: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Forward)
        self.upstream, self.before, self.after = urlsplit(upstream), before, after
        self.requests: list[str] = []
        self.connections = 0
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection = super().get_request()
        self.connections += 1
        return connection

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: killed clients and lost answers are intended."""

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Forward(BaseHTTPRequestHandler):
    """Forwards a request, and returns the answer."""

    server: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: the second would wait 40 ms for the first's ACK

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        number = len(self.server.requests)
        refused = self.server.before(number, self.headers)
        if refused:
            self.answer(refused, {}, b"")
            return
        with contextlib.closing(HTTPConnection(str(self.server.upstream.netloc), timeout=60)) as upstream:
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            response = upstream.getresponse()
            content = response.read()
        self.server.after(number)
        self.answer(response.status, dict(response.getheaders()), content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass
