"""Serving on a cluster that refuses, is busy or is unreachable: which errors are reported, and which are retried."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kubernetes.client.exceptions import ApiException
from tenacity import RetryCallState, Retrying

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes import cluster_client
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import kserve
from quantgate.components.servers.cluster_settings import DEPLOYMENT, KSERVE, ServingSettings
from tests.support.kubernetes_server import LOST, LOST_AFTER, USER
from tests.support.kubernetes_state import JSON, Cluster, Request
from tests.support.on_cluster import (
    PLURALS,
    RESULTS,
    WORKFLOW,
    cluster,
    deployed,
    left,
    mark_ready,
    model,
    ready_at_once,
    settings,
    the_one,
    vllm,
)

pytestmark = pytest.mark.slow  # each test asks servers that stand in for a cluster

__all__ = ["cluster", "deployed", "model", "settings", "vllm"]

Deploy = Callable[..., Server]


@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
def test_a_missing_right_is_reported_with_its_account(cluster: Cluster, deployed: Deploy, kind: str) -> None:
    plural = PLURALS[kind]
    group = {KSERVE: "serving.kserve.io", DEPLOYMENT: "apps"}[kind]
    for verb, resource, in_message in (
        ("create", "leases", "leases.coordination.k8s.io"),
        ("create", plural, f"{plural}.{group}"),
        ("list", plural, f"{plural}.{group}"),
        ("watch", plural, f"{plural}.{group}"),
        ("list", "pods", "pods"),
        ("list", "events", "events"),
    ):
        cluster.forbidden = {f"{verb} {resource}"}
        assert f"{USER} may not {verb} {in_message} in the namespace quantgate" in deployed(kind=kind).failure
        assert left(cluster) == []


def test_an_account_without_the_right_to_delete_leaves_it_to_the_reaper_and_says_so(
    cluster: Cluster, deployed: Deploy
) -> None:
    cluster.forbidden = {"delete leases", "list pods"}
    failure = deployed().failure
    assert "may not list pods" in failure
    assert f"{USER} may not delete leases.coordination.k8s.io" in failure
    assert "it goes when its lease ends" in failure


def test_a_pod_that_may_not_read_itself_serves_without_an_owner(
    cluster: Cluster, deployed: Deploy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready_at_once(cluster)
    cluster.forbidden = {"get pods"}
    monkeypatch.setenv("QUANTGATE_RUN", WORKFLOW)
    assert deployed().failure == ""
    lease = the_one(cluster, "leases")["metadata"]
    assert "ownerReferences" not in lease
    assert lease["labels"]["quantgate.dev/run"] == WORKFLOW
    assert "no Workflow owns the server" in capsys.readouterr().out


def test_outside_a_pod_the_run_is_named_after_its_results(
    cluster: Cluster, settings: ServingSettings, deployed: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready_at_once(cluster)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    deployed()
    run = the_one(cluster, "leases")["metadata"]["labels"]["quantgate.dev/run"]
    assert run.startswith("results-")
    kserve.undeploy("int8", "s3://bucket/other-results", settings)
    assert len(cluster.all("leases")) == 1
    kserve.undeploy("int8", RESULTS, settings)
    assert left(cluster) == []


def test_a_missing_resource_kind_is_reported_with_the_alternative(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings
) -> None:
    cluster.absent = {"inferenceservices"}
    failure = deployed().failure
    assert "The cluster has no inferenceservices.serving.kserve.io" in failure
    assert "QUANTGATE_SERVING=deployment" in failure
    with pytest.raises(PrerequisiteError, match="There is no ServingRuntime other in the namespace quantgate"):
        deployed(runtime="other")


def test_a_throttled_request_is_repeated_after_the_servers_retry_after(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    cluster.headers = {"Retry-After": "0"}
    answers = {1: 429, 2: 503, 3: 429}

    def busy(_: int, request: Request) -> int | None:
        return answers.get(cluster.counted()[str(request)]) if str(request) == "create leases" else None

    cluster.faults = busy
    assert deployed().failure == ""
    assert cluster.counted()["create leases"] == 4
    state = RetryCallState(Retrying(), None, (), {})
    refusal = ApiException(status=429)
    refusal.headers = {"Retry-After": "7"}
    state.set_exception((ApiException, refusal, None))
    assert cluster_client.pause_s(state) == 7
    refusal.headers = {"Retry-After": "3600"}
    assert cluster_client.pause_s(state) == cluster_client.LONGEST_PAUSE_S


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that retries a call for a moment only, unless it has a deadline: an outage in seconds, not minutes."""
    monkeypatch.setattr(cluster_client.ClusterClient.__init__, "__defaults__", (0.3,))


@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
@pytest.mark.usefixtures("impatient")
def test_an_unreachable_admission_webhook_is_waited_out_with_a_line_that_says_so(
    cluster: Cluster, deployed: Deploy, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ready_at_once(cluster)
    plural = PLURALS[kind]
    cluster.unreachable_webhooks = {plural: 3}
    assert deployed(kind=kind).failure == ""
    assert cluster.counted()[f"create {plural}"] == 4
    lines = [line for line in capsys.readouterr().out.splitlines() if "failed calling webhook" in line]
    assert len(lines) == 1
    assert f"cannot create {plural}" in lines[0]
    assert " in quantgate now, trying for up to 60 s: " in lines[0]
    assert "connection reset by peer" in lines[0]


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, 520, LOST])
@pytest.mark.usefixtures("impatient")
def test_an_api_in_trouble_is_waited_out_as_long_as_a_server_may_take_to_start(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings, fault: int
) -> None:
    def troubled(_: int, request: Request) -> int | None:
        return fault if request.plural == "leases" and cluster.counted()[str(request)] <= 2 else None

    ready_at_once(cluster)
    cluster.faults = troubled
    server = deployed()
    assert server.failure == ""
    with kserve.kept_alive(server, RESULTS, settings):
        pass
    kserve.undeploy("int8", RESULTS, settings)
    assert left(cluster) == []


@pytest.mark.usefixtures("impatient")
def test_a_webhook_that_stays_unreachable_is_the_reason_of_the_failure(cluster: Cluster, deployed: Deploy) -> None:
    cluster.unreachable_webhooks = {"inferenceservices": 1000}
    failure = deployed(ready_within_s=1).failure
    assert "The cluster refused to create inferenceservices.serving.kserve.io in quantgate for 1 s: " in failure
    assert "failed calling webhook" in failure
    assert failure.endswith("Check the controller that it names.")
    assert left(cluster) == []


def test_a_tls_failure_counts_as_an_unreachable_api(cluster: Cluster) -> None:
    file = Path(os.environ["KUBECONFIG"])
    file.write_text(file.read_text().replace("http://", "https://"))  # the stand-in speaks no TLS
    with pytest.raises(PrerequisiteError, match="(?s)did not answer for 0 s: SSLError.*this pod may reach it") as error:
        cluster_client.ClusterClient("quantgate", patience_s=0.0).listed(cluster_client.LEASE)
    assert error.value.__cause__
    assert cluster_client.is_transient(error.value.__cause__)


@pytest.mark.parametrize("fault", [403, 500, LOST])
def test_an_unreadable_log_does_not_end_a_start(cluster: Cluster, deployed: Deploy, fault: int) -> None:
    def on(what: str, plural: str, obj: JSON) -> None:
        if what == "created" and plural == "inferenceservices":
            name = obj["metadata"]["name"]
            metadata = {"name": f"{name}-predictor-1", "labels": {"serving.kserve.io/inferenceservice": name}}
            status = {"containerStatuses": [{"name": "kserve-container", "state": {"running": {}}}]}
            cluster.create("api/v1/pods", {"metadata": metadata, "status": status})

    def kubelet(_: int, request: Request) -> int | None:
        if request.verb == "watch":
            mark_ready(cluster, "inferenceservices", the_one(cluster, "inferenceservices")["metadata"]["name"])
        return fault if request.plural == "pods/log" else None

    cluster.on, cluster.faults = on, kubelet
    assert deployed().failure == ""
    assert cluster.counted()["get pods/log"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
@pytest.mark.parametrize("fault", [LOST, LOST_AFTER])
def test_a_start_survives_the_loss_of_every_other_connection(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings, kind: str, fault: int
) -> None:
    ready_at_once(cluster)
    cluster.faults = lambda number, _: fault if number % 2 else None
    assert deployed(kind=kind).failure == ""
    assert len(cluster.all(PLURALS[kind])) == len(cluster.all("leases")) == 1
    kserve.undeploy("int8", RESULTS, replace(settings, kind=kind))
    assert left(cluster) == []


def test_an_api_that_does_not_answer_is_reported(cluster: Cluster) -> None:
    cluster.faults = lambda *_: LOST
    with pytest.raises(PrerequisiteError, match="did not answer for 0 s: .*Check that this pod may reach it"):
        cluster_client.ClusterClient("quantgate", patience_s=0.0).listed(cluster_client.LEASE)


def test_a_missing_cluster_configuration_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(PrerequisiteError, match="No connection to a cluster is configured: .*QUANTGATE_SERVING=local"):
        cluster_client.ClusterClient("quantgate")
