"""The roles match the code's requests: they grant every right that it uses, and no other."""

from collections.abc import Callable

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes import reaper
from quantgate.components.kubernetes.cluster_client import ClusterClient
from quantgate.components.run.artifacts import Server
from quantgate.components.sandbox import job
from quantgate.components.sandbox.containment import Program
from quantgate.components.sandbox.programs import run_programs
from quantgate.components.servers import kserve
from quantgate.components.servers.cluster_settings import DEPLOYMENT, KSERVE, ServingSettings
from tests.support.job_node import Node, node
from tests.support.kubernetes_state import JSON, Cluster
from tests.support.kustomized import Object, of_kind
from tests.support.on_cluster import (
    PLURALS,
    RESULTS,
    WORKFLOW,
    cluster,
    deployed,
    mark_ready,
    model,
    ready_at_once,
    settings,
    vllm,
)

__all__ = ["cluster", "deployed", "model", "node", "settings", "vllm"]

CONFIG_MAPS = "api/v1/configmaps"


def granted_by(role: Object) -> set[str]:
    """The rights that a role grants, as `verb resource`."""
    return {f"{verb} {resource}" for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}


def crash(cluster: Cluster, plural: str, name: str) -> None:
    """Give the server a pod whose container has ended twice."""
    label = "serving.kserve.io/inferenceservice" if plural == "inferenceservices" else "app.kubernetes.io/instance"
    status = {
        "name": "vllm",
        "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
    }
    body: JSON = {"metadata": {"name": f"{name}-x", "labels": {label: name}}, "status": {"containerStatuses": [status]}}
    cluster.create("api/v1/pods", body)


def become_ready(cluster: Cluster) -> None:
    """Make every server ready once it is watched."""
    waiting: list[tuple[str, str]] = []

    def on(what: str, plural: str, obj: JSON) -> None:
        if what == "created" and plural in PLURALS.values():
            waiting.append((plural, obj["metadata"]["name"]))

    def faults(number: int, request: object) -> None:
        if str(request).startswith("watch") and waiting:
            mark_ready(cluster, *waiting.pop())

    cluster.on, cluster.faults = on, faults


@pytest.mark.slow
def test_steps_have_exactly_the_rights_on_servers_and_jobs_that_they_use(
    cluster: Cluster, settings: ServingSettings, deployed: Callable[..., Server], node: Node
) -> None:
    node.lines = ('{"program": 0, "passed": true, "reason": ""}',)
    for _ in range(2):
        run_programs([Program("", "assert True")], purpose="int8")
    name = job.sandbox(ClusterClient("quantgate"), WORKFLOW, "int8").name
    cluster.create(CONFIG_MAPS, {"metadata": {"name": name}})
    with pytest.raises(PrerequisiteError, match="is not quantgate's"):
        run_programs([Program("", "assert True")], purpose="int8")
    cluster.delete(CONFIG_MAPS, name, {})
    for kind in (KSERVE, DEPLOYMENT):
        become_ready(cluster)
        assert deployed(kind=kind).failure == ""
        assert deployed(kind=kind).failure == "", "the attempt that finds what the first one made"
        kserve.renew("int8", RESULTS, settings)
        kserve.undeploy("int8", RESULTS, settings)

        def on(what: str, plural: str, obj: JSON) -> None:
            if what == "created" and plural in PLURALS.values():
                crash(cluster, plural, obj["metadata"]["name"])

        cluster.on = on
        assert "ended" in deployed(kind=kind).failure
        cluster.objects = {key: obj for key, obj in cluster.objects.items() if not key[1].endswith("-x")}
    role = of_kind("kubeflow", "Role")["quantgate-deploy"]
    assert set(cluster.counted()) == granted_by(role)


def test_the_reaper_has_exactly_the_rights_that_it_uses(cluster: Cluster, deployed: Callable[..., Server]) -> None:
    ready_at_once(cluster)
    deployed(lease_s=0)
    cluster.requests.clear()
    assert reaper.main(["--namespace", "quantgate"]) == 0
    assert set(cluster.counted()) == granted_by(of_kind("kubeflow", "Role")["quantgate-reaper"])
