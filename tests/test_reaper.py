"""Leases and the reaper: it deletes only what nobody renews, also after a start that was killed between two calls."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quantgate.components.errors import ServerGoneError
from quantgate.components.kubernetes import cluster_lease, reaper
from quantgate.components.kubernetes.cluster_client import ClusterClient as Api
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import kserve
from quantgate.components.servers.cluster_settings import DEPLOYMENT, KSERVE, LOCAL, ServingSettings
from tests.support.killed import killed_at
from tests.support.kubernetes_server import USER
from tests.support.kubernetes_state import Cluster, Request
from tests.support.on_cluster import (
    RESULTS,
    WEIGHTS,
    cluster,
    deployed,
    left,
    model,
    ready_at_once,
    settings,
    vllm,
)

__all__ = ["cluster", "deployed", "model", "settings", "vllm"]

Deploy = Callable[..., Server]
LEASES = "apis/coordination.k8s.io/v1/leases"


def later(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_the_reaper_deletes_expired_leases_and_everything_that_they_own(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    deployed(lease_s=600)
    api = Api("quantgate")
    assert reaper.reap(api, later(590)) == []
    assert [name.partition("/")[0] for name in left(cluster)] == ["inferenceservices", "leases", "secrets"]
    removed = reaper.reap(api, later(601))
    assert [f"leases/{name}" for name in removed] != []
    assert left(cluster) == []


def test_the_reaper_keeps_renewed_leases_and_unrelated_objects(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings
) -> None:
    ready_at_once(cluster)
    deployed(lease_s=600)
    own_lease, over = cluster.all("leases")[0], cluster_lease.timestamp(later(-7200))
    spec = {"renewTime": over, "leaseDurationSeconds": 600}
    cluster.create(LEASES, {"metadata": {"name": "kube-scheduler"}, "spec": spec})
    labels = dict(own_lease["metadata"]["labels"])
    del labels["quantgate.dev/run"]
    cluster.create(LEASES, {"metadata": {"name": "of-no-run", "labels": labels}, "spec": spec})
    cluster.change("leases", own_lease["metadata"]["name"], lambda obj: obj["spec"].update(renewTime=over))
    kserve.renew("int8", RESULTS, settings)
    assert reaper.reap(Api("quantgate"), later(0)) == []
    assert len(cluster.all("leases")) == 3
    assert len(cluster.all("inferenceservices")) == 1


def test_a_lease_without_a_time_has_expired(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    deployed()
    cluster.change("leases", cluster.all("leases")[0]["metadata"]["name"], lambda obj: obj.update(spec={}))
    assert len(reaper.reap(Api("quantgate"), later(0))) == 1


def test_a_lease_that_is_renewed_just_before_its_deletion_stays(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings
) -> None:
    ready_at_once(cluster)
    deployed()

    def renewed_in_between(_: int, request: Request) -> None:
        if str(request) == "delete leases":
            now = cluster_lease.timestamp(later(0))
            cluster.change("leases", request.name, lambda obj: obj["spec"].update(renewTime=now))

    cluster.faults = renewed_in_between
    assert reaper.reap(Api("quantgate"), later(settings.lease_s + 1)) == []
    assert cluster.counted()["delete leases"] == 1
    assert len(cluster.all("inferenceservices")) == 1


def test_the_reapers_command_prints_what_it_deleted_or_which_right_it_lacks(
    cluster: Cluster, deployed: Deploy, capsys: pytest.CaptureFixture[str]
) -> None:
    ready_at_once(cluster)
    deployed()
    name, over = cluster.all("leases")[0]["metadata"]["name"], cluster_lease.timestamp(later(-7200))
    cluster.change("leases", name, lambda obj: obj["spec"].update(renewTime=over))
    assert reaper.main(["--namespace", "quantgate"]) == 0
    assert reaper.main(["--namespace", "quantgate"]) == 0
    assert capsys.readouterr().out == f"Removed 1 servers in quantgate: {name}.\nRemoved 0 servers in quantgate.\n"
    cluster.forbidden = {"list leases"}
    assert reaper.main(["--namespace", "quantgate"]) == 2
    assert f"{USER} may not list leases.coordination.k8s.io" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_that_uses_a_server_renews_its_lease(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings
) -> None:
    ready_at_once(cluster)
    server = deployed(lease_s=1)
    before = cluster.all("leases")[0]["spec"]["renewTime"]
    renewals = threading.Semaphore(0)
    cluster.on = lambda what, plural, _: renewals.release() if (what, plural) == ("changed", "leases") else None
    with kserve.kept_alive(server, RESULTS, settings):
        for _ in range(3):  # the first when the block begins
            assert renewals.acquire(timeout=30)
    assert cluster.all("leases")[0]["spec"]["renewTime"] > before
    assert not any(thread.name.startswith("lease of") for thread in threading.enumerate())


@pytest.mark.slow
def test_a_renewal_that_fails_once_does_not_end_the_step(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    ready_at_once(cluster)
    server, renewals = deployed(lease_s=1), threading.Semaphore(0)
    before = cluster.counted()["patch leases"]

    def faults(_: int, request: Request) -> None:
        times = cluster.counted()["patch leases"] - before
        cluster.forbidden = {"patch leases"} if times == 2 else set()
        if times == 4:
            renewals.release()

    cluster.faults = faults
    with kserve.kept_alive(server, RESULTS, settings):
        assert renewals.acquire(timeout=30)
    assert "may not patch leases" in capsys.readouterr().out


def test_a_step_whose_server_is_gone_fails_before_its_work(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings
) -> None:
    ready_at_once(cluster)
    server = deployed()
    kserve.undeploy("int8", RESULTS, settings)
    with (
        pytest.raises(ServerGoneError, match="was removed while it was in use"),
        kserve.kept_alive(server, RESULTS, settings),
    ):
        pytest.fail("there is no server to work with")
    with pytest.raises(ServerGoneError, match="QUANTGATE_SERVING_LEASE_S"):
        kserve.renew("int8", RESULTS, settings)


def test_a_step_whose_server_disappears_fails_with_that_reason(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings
) -> None:
    ready_at_once(cluster)
    server, noticed = deployed(lease_s=1), threading.Event()

    def faults(_: int, request: Request) -> None:
        if str(request) == "patch leases" and not cluster.all("leases"):
            noticed.set()

    def work() -> None:
        cluster.delete(LEASES, cluster.all("leases")[0]["metadata"]["name"], {})
        assert noticed.wait(30)
        raise ConnectionError("the server does not answer")

    cluster.faults = faults
    with pytest.raises(ServerGoneError, match="was removed while it was in use") as caught:  # noqa: SIM117
        with kserve.kept_alive(server, RESULTS, settings):
            work()
    assert isinstance(caught.value.__context__, ConnectionError)


def test_a_server_with_the_same_name_from_another_start_is_not_renewed(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings
) -> None:
    ready_at_once(cluster)
    server, refused = deployed(lease_s=1), threading.Event()
    second = cluster.counted()["patch leases"] + 2
    cluster.faults = lambda *_: refused.set() if cluster.counted()["patch leases"] == second else None
    with pytest.raises(ServerGoneError), kserve.kept_alive(server, RESULTS, settings):  # noqa: PT012
        lease = cluster.all("leases")[0]
        cluster.delete(LEASES, lease["metadata"]["name"], {})
        lease["metadata"].pop("uid")
        cluster.create(LEASES, lease)
        refused.wait(30)
    assert refused.is_set()


def test_a_server_outside_the_cluster_needs_no_lease(cluster: Cluster, settings: ServingSettings) -> None:
    before = len(cluster.requests)
    for server, kind in (
        (Server(variant="int8", url="http://127.0.0.1:1/v1"), LOCAL),
        (Server(variant="int8", failure="it was never made"), KSERVE),
        (Server(variant="int8", scored_in="mlflow run"), KSERVE),
    ):
        with kserve.kept_alive(server, RESULTS, replace(settings, kind=kind)):
            assert len(cluster.requests) == before


def asked_since(cluster: Cluster, what: str, since: str) -> int:
    """The number of requests of one kind after the first of another kind."""
    requests = [str(request) for request in cluster.requests]
    return requests[requests.index(since) :].count(what)


@pytest.mark.slow
def test_a_waiting_start_renews_its_own_lease(cluster: Cluster, deployed: Deploy) -> None:
    assert "It was not ready after 0.7 s" in deployed(ready_within_s=0.7, lease_s=1).failure
    assert asked_since(cluster, "patch leases", "list inferenceservices") >= 2  # while it waits, and at its end


@pytest.mark.slow
def test_a_start_that_waits_for_an_earlier_one_renews_its_own_lease(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings
) -> None:
    ready_at_once(cluster)
    deployed()
    name = cluster.all("inferenceservices")[0]["metadata"]["name"]
    held = {"finalizers": ["inferenceservice.finalizers"]}
    cluster.change("inferenceservices", name, lambda obj: obj["metadata"].update(held))
    kserve.undeploy("int8", RESULTS, settings)
    cluster.requests.clear()

    def ends_late(_: int, request: Request) -> None:
        waits = "create inferenceservices" in cluster.counted() and cluster.all("inferenceservices")
        if str(request) == "patch leases" and waits:
            cluster.change("inferenceservices", name, lambda obj: obj["metadata"].update(finalizers=[]))

    cluster.faults = ends_late
    assert deployed(lease_s=1).failure == ""


def test_a_step_leaves_the_next_one_the_whole_lease(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings
) -> None:
    def renewed() -> datetime:
        return datetime.fromisoformat(cluster.all("leases")[0]["spec"]["renewTime"])

    ready_at_once(cluster)
    server = deployed()
    with kserve.kept_alive(server, RESULTS, settings):
        before = datetime.now(UTC)
    assert renewed() >= before
    assert deployed().failure == ""
    assert [str(request) for request in cluster.requests][-1] == "patch leases"


def test_a_renewal_that_conflicts_with_another_change_is_repeated(
    cluster: Cluster, deployed: Deploy, settings: ServingSettings
) -> None:
    ready_at_once(cluster)
    deployed()
    before = cluster.counted()["patch leases"]
    cluster.faults = lambda *_: 409 if cluster.counted()["patch leases"] == before + 1 else None
    kserve.renew("int8", RESULTS, settings)
    assert cluster.counted()["patch leases"] == before + 2


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
def test_the_reaper_deletes_everything_that_a_killed_start_leaves(
    cluster: Cluster, settings: ServingSettings, deployed: Deploy, model: Path, kind: str, after: bool
) -> None:
    ready_at_once(cluster)
    settings, before = replace(settings, kind=kind), len(cluster.requests)
    deployed(kind=kind)
    calls = len(cluster.requests) - before
    assert calls >= 6
    kserve.undeploy("int8", RESULTS, settings)
    leftovers = []
    for last in range(1, calls + 1):
        assert killed_at(cluster, last, after, kserve.deploy, WEIGHTS, model, RESULTS, settings, 1024)
        leftovers.append(left(cluster))
        owners = {lease["metadata"]["uid"] for lease in cluster.all("leases")}
        assert len(owners) <= 1
        reaper.reap(Api("quantgate"), later(settings.lease_s + 1))
        assert left(cluster) == []
    assert leftovers[0] == []
    assert len(leftovers[-1]) == (3 if kind == KSERVE else 4)
