"""The listener for MLflow's webhook: it starts a run for a new version of a registered model, and for nothing else."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from mlflow.tracking import MlflowClient

from quantgate.components.errors import PrerequisiteError
from quantgate.components.tracking.model_versions import newest_version
from quantgate.pipelines.cli.look_commands import watch
from quantgate.pipelines.kubeflow.connection import Place
from quantgate.pipelines.kubeflow.listen import FRESH_S, LONGEST_BODY, WebhookServer
from quantgate.pipelines.kubeflow.look import Watch
from quantgate.pipelines.options import OPTIONS
from tests.support.command import quantgate
from tests.support.kfp_server import State
from tests.support.on_kubeflow import kubeflow, pipeline
from tests.support.seaweed import S3Server

__all__ = ["kubeflow", "pipeline"]

SECRET = "a secret of the webhook's"


def watched(state: State, pipeline: Path, model: str, tracking_uri: str, results: str) -> Watch:
    """What `quantgate listen` watches with these options."""
    values = {name: option.default for name, option in OPTIONS.items()}
    values |= {"model": f"models:/{model}", "tracking_uri": tracking_uri, "results": results}
    return watch(Place(host=state.host), values, "webhook", pipeline, "quantgate-pipeline")


@contextmanager
def listening(watch: Watch) -> Iterator[str]:
    """The address of a listener on this machine."""
    with WebhookServer(("127.0.0.1", 0), watch, SECRET) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def unused(kubeflow: State, pipeline: Path) -> Iterator[str]:
    """The address of a listener whose looks would fail, for there is no MLflow."""
    with listening(watched(kubeflow, pipeline, "base", "http://127.0.0.1:9", "s3://bucket/results")) as address:
        yield address


def event(name: str = "base", entity: str = "model_version", action: str = "created") -> bytes:
    """The body of a delivery, as mlflow/webhooks/delivery.py makes it."""
    data: dict[str, object] = {
        "name": name,
        "version": "1",
        "source": "s3://b/m",
        "run_id": None,
        "tags": {},
        "description": None,
    }
    return json.dumps({"entity": entity, "action": action, "timestamp": "2026-11-27T00:00:00", "data": data}).encode()


def signed(body: bytes, at_s: float, secret: str = SECRET) -> dict[str, str]:
    """The headers of a delivery at that time."""
    delivery_id, timestamp = str(uuid.uuid4()), str(int(at_s))
    digest = hmac.new(secret.encode(), f"{delivery_id}.{timestamp}.{body.decode()}".encode(), hashlib.sha256).digest()
    return {
        "X-MLflow-Delivery-Id": delivery_id,
        "X-MLflow-Timestamp": timestamp,
        "X-MLflow-Signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def post(address: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return httpx.post(address, content=body, headers=raw, timeout=60, verify=False, trust_env=False)


def without(headers: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}


def test_a_request_that_is_no_fresh_delivery_with_the_webhooks_signature_starts_nothing(
    unused: str, kubeflow: State, capsys: pytest.CaptureFixture[str]
) -> None:
    now, body = time.time(), event()
    good = signed(body, now)
    for headers, content, status in (
        (without(good, "X-MLflow-Signature"), body, 401),
        (without(good, "X-MLflow-Delivery-Id"), body, 401),
        (good | {"X-MLflow-Signature": "v1,"}, body, 401),
        (good | {"X-MLflow-Signature": good["X-MLflow-Signature"].removeprefix("v1,")}, body, 401),
        (good | {"X-MLflow-Signature": "v1,ünicode"}, body, 401),
        (good | {"X-MLflow-Timestamp": str(int(now) + 1)}, body, 401),
        (good, event("other"), 401),
        (signed(body, now, "another secret"), body, 401),
        (signed(body, now - FRESH_S - 5), body, 400),
        (signed(body, now + FRESH_S + 5), body, 400),
        (signed(b"no JSON", now), b"no JSON", 400),
        (signed(b"[]", now), b"[]", 400),
    ):
        assert post(unused, content, headers).status_code == status, headers
    assert capsys.readouterr().err.count("refused a delivery from 127.0.0.1: ") == 12
    assert kubeflow.requests == []


def test_a_body_without_a_length_or_over_the_bound_is_refused_unread(unused: str) -> None:
    host, _, port = unused.removeprefix("http://").partition(":")
    for header, status in (
        ("", "411"),
        (f"Content-Length: {LONGEST_BODY + 1}\r\n", "413"),
        ("Content-Length: -1\r\n", "411"),
    ):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
            assert connection.makefile().readline().split()[1] == status


def test_events_of_other_models_and_of_other_kinds_are_ignored(unused: str, kubeflow: State) -> None:
    for body in (event("example_model"), event(entity="registered_model"), event(action="set")):
        answer = post(unused, body, signed(body, time.time()))
        assert (answer.status_code, "ignored" in answer.text) == (200, True)
    assert (httpx.get(f"{unused}/health").status_code, httpx.get(unused).status_code) == (200, 404)
    assert kubeflow.requests == []


def test_a_look_that_fails_is_answered_so_that_mlflow_repeats_the_delivery(
    unused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.webhooks.delivery import _create_webhook_session

    body = event()
    answer = post(unused, body, signed(body, time.time()))
    retried = _create_webhook_session().get_adapter("http://").max_retries
    assert answer.status_code in retried.status_forcelist
    assert "127.0.0.1:9" not in answer.text, "who posts here learns nothing about the cluster"
    assert "MLflow cannot be reached at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("secret", "what"),
    [("", "Set QUANTGATE_WEBHOOK_SECRET"), ("short", "16 characters or more"), (SECRET, "names no registered model")],
)
def test_a_listener_without_a_secret_or_a_registered_model_does_not_start(secret: str, what: str) -> None:
    done = quantgate("listen", "webhook", "--model", "hf:org/name", "--port", "0", QUANTGATE_WEBHOOK_SECRET=secret)
    assert (done.returncode, what in done.stderr) == (2, True)


def test_an_address_in_use_is_reported(unused: str) -> None:
    port = unused.rpartition(":")[2]
    arguments = ("listen", "webhook", "--model", "models:/base", "--port", port)
    done = quantgate(*arguments, QUANTGATE_WEBHOOK_SECRET=SECRET)
    assert (done.returncode, f"Cannot listen on 127.0.0.1, port {port}" in done.stderr) == (2, True)


ON_ONE_SERVER = pytest.mark.parametrize("mlflow_backend", ["mlflow_server"], indirect=True)
"""The id of such a test brings it to the worker that has the server."""


@pytest.mark.slow
@ON_ONE_SERVER
def test_a_delivery_of_a_real_mlflow_starts_one_run_for_a_new_version(
    mlflow_backend: str, kubeflow: State, pipeline: Path, s3_server: S3Server, s3_location: str
) -> None:
    client, model = MlflowClient(mlflow_backend), f"base-{uuid.uuid4().hex}"
    client.create_registered_model(model)
    runs = kubeflow.objects["runs"]
    with listening(watched(kubeflow, pipeline, model, mlflow_backend, f"{s3_location}/results")) as address:
        hook = client.create_webhook(model, address, ["model_version.created"], secret=SECRET)
        other = client.create_webhook("forged", address, ["model_version.created"], secret="another secret")
        try:
            assert client.test_webhook(hook.webhook_id).response_status == 200
            assert client.test_webhook(other.webhook_id).response_status == 401
            client.create_model_version(model, "s3://bucket/models/run-1")
            deadline = time.monotonic() + 30
            while not runs and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            for webhook in (hook, other):
                client.delete_webhook(webhook.webhook_id)
    (run,) = runs.values()
    assert run["runtime_config"]["parameters"]["model"] == "s3://bucket/models/run-1"


@pytest.mark.slow
@ON_ONE_SERVER
def test_each_new_version_that_a_run_can_read_starts_one_run(
    mlflow_backend: str, kubeflow: State, pipeline: Path, s3_server: S3Server, s3_location: str
) -> None:
    from quantgate.pipelines.kubeflow.look import look

    client, model = MlflowClient(mlflow_backend), f"base-{uuid.uuid4().hex}"
    base = watched(kubeflow, pipeline, model, mlflow_backend, f"{s3_location}/results")
    assert look(base) == f"webhook: nothing to start: MLflow has no version of {model} that is ready."
    client.create_registered_model(model)
    for source in ("s3://bucket/run-1", "s3://bucket/run-1", "s3://bucket/run-2/"):
        version = client.create_model_version(model, source)
        assert f"new: version {version.version} of {model}, {source.rstrip('/')}; started the run" in look(base)
        assert f"nothing new: version {version.version}" in look(base)
    models = [run["runtime_config"]["parameters"]["model"] for run in kubeflow.objects["runs"].values()]
    assert models == ["s3://bucket/run-1", "s3://bucket/run-1", "s3://bucket/run-2"]
    run = client.create_run("0")
    client.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id)
    with pytest.raises(PrerequisiteError, match="Version 4 .* lies at mlflow-artifacts:.*, which a run cannot read"):
        newest_version(f"models:/{model}", mlflow_backend)
    client.create_model_version(model, "s3://bucket/int8", tags={"quantgate.variant": "int8"})
    with pytest.raises(PrerequisiteError, match="holds variants that quantgate has registered"):
        newest_version(f"models:/{model}", mlflow_backend)
