"""The script of the Job mlflow-account, with a server that answers like MLflow's basic-auth app."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.support.kustomized import MANIFESTS

SCRIPT = MANIFESTS / "base" / "mlflow" / "account.py"
ADMIN = "Basic " + base64.b64encode(b"admin:the-administrators-own").decode()


class Users(ThreadingHTTPServer):
    """A server with users and passwords that only the administrator may change."""

    def __init__(self) -> None:
        self.passwords: dict[str, str] = {}
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(BaseHTTPRequestHandler):
    """The two calls of MLflow's API that the script uses."""

    server: Users

    def do_POST(self) -> None:
        """Create a user, or refuse if the user exists."""
        body = self.request_body()
        if self.path != "/api/2.0/mlflow/users/create" or self.headers["Authorization"] != ADMIN:
            self.answer(403, "Permission denied")
        elif body["username"] in self.server.passwords:
            self.answer(400, json.dumps({"error_code": "RESOURCE_ALREADY_EXISTS", "message": "exists"}))
        else:
            self.keep(body)

    def do_PATCH(self) -> None:
        """Set a password."""
        body = self.request_body()
        known = self.path == "/api/2.0/mlflow/users/update-password" and body["username"] in self.server.passwords
        if known and self.headers["Authorization"] == ADMIN:
            self.keep(body)
        else:
            self.answer(404, "no such user")

    def request_body(self) -> dict[str, str]:
        """The request's JSON body."""
        body: dict[str, str] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def keep(self, body: dict[str, str]) -> None:
        """Store the password."""
        self.server.passwords[body["username"]] = body["password"]
        self.answer(200, "{}")

    def answer(self, status: int, text: str) -> None:
        """Send it."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *values: object) -> None:
        """Keep it off the terminal."""


@pytest.fixture
def users() -> Iterator[Users]:
    """A server with no users."""
    with Users() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(server: Users, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the Job does."""
    server_settings = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.server_port}/",
        "ADMIN_USERNAME": "admin",
        "ADMIN_PASSWORD": "the-administrators-own",
        "MLFLOW_TRACKING_USERNAME": "quantgate",
        "MLFLOW_TRACKING_PASSWORD": "first",
    }
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", **server_settings, **changed}
    return subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_runs_get_their_account_and_later_its_new_password(users: Users) -> None:
    assert run(users).returncode == 0
    assert users.passwords == {"quantgate": "first"}
    assert run(users, MLFLOW_TRACKING_PASSWORD="second").returncode == 0
    assert users.passwords == {"quantgate": "second"}


def test_a_refusal_fails_the_job_with_mlflows_message(users: Users) -> None:
    done = run(users, ADMIN_PASSWORD="wrong")
    assert (done.returncode, done.stderr.strip()) == (1, "MLflow answered 403: Permission denied")
    assert not users.passwords


def test_runs_never_get_the_administrators_account(users: Users) -> None:
    done = run(users, MLFLOW_TRACKING_USERNAME="admin")
    assert done.returncode == 1
    assert "Set another user name" in done.stderr
    assert not users.passwords
