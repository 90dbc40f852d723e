"""The load test of a server on a cluster: a Job, whose pod's containers a stand-in of a node really runs.

vLLM is a fake at the process edge, which asks the server once with the key that the pod got.
"""

import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quantgate.components.evaluate.load_test import after_full_stage
from quantgate.components.kubernetes import reaper
from quantgate.components.kubernetes.cluster_client import LEASE
from quantgate.components.kubernetes.cluster_client import ClusterClient as Api
from quantgate.components.models.digest import digest_of
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.load_results import LoadSettings, LoadTest
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.servers import bench_job, kserve, step_job
from quantgate.components.servers.access import key_of
from quantgate.components.servers.bench_command import PROGRAM, runs
from quantgate.components.servers.bench_serve import load_test
from quantgate.components.servers.cluster_settings import DEPLOYMENT, KSERVE, ServingSettings
from quantgate.components.servers.vllm_pod import Served
from quantgate.components.storage.store import FolderStore
from tests.support import schemas
from tests.support.fake_vllm import serving_python
from tests.support.job_node import Node, node
from tests.support.killed import killed_at
from tests.support.kubernetes_server import USER
from tests.support.kubernetes_state import JSON, Cluster
from tests.support.on_cluster import (
    PLURALS,
    WEIGHTS,
    WORKFLOW,
    cluster,
    deployed,
    left,
    mark_ready,
    model,
    settings,
    vllm,
)
from tests.support.smallest_model import smallest_model

__all__ = ["cluster", "deployed", "model", "node", "settings", "vllm"]

FEW = LoadSettings((1, 4), prompt_tokens=16, answer_tokens=8, least_requests=2, requests_each=1)
SAVED = json.loads((Path(__file__).parent / "support" / "bench_serve_saved.json").read_text(encoding="utf-8"))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run's results, with the address of weights that a pod can fetch: a relative one, as /tmp is the pod's own."""
    monkeypatch.chdir(tmp_path)
    digest = digest_of(smallest_model(tmp_path / "made"))
    FolderStore(tmp_path / "store").put_folder(tmp_path / "made", "weights/int8", digest)
    weights = WEIGHTS.model_copy(update={"uri": "store/weights/int8", "digest": digest})
    RunResults(str(tmp_path / "run")).weights("int8").write(weights)
    return str(tmp_path / "run")


@pytest.fixture(params=[KSERVE, DEPLOYMENT])
def server(
    request: pytest.FixtureRequest,
    cluster: Cluster,
    node: Node,
    deployed: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Server:
    """A server of int8, ready, on a cluster whose node runs a Job's containers."""
    monkeypatch.setenv("QUANTGATE_SERVING", request.param)
    node.python3 = str(serving_python(tmp_path / "python3"))

    def on(what: str, plural: str, obj: JSON) -> None:
        if what == "created" and plural in PLURALS.values():
            mark_ready(cluster, plural, obj["metadata"]["name"])
        node.on(what, plural, obj)

    cluster.on = on
    server = deployed(kind=request.param)
    assert server.failure == ""
    return server


only_kserve = pytest.mark.parametrize("server", [KSERVE], indirect=True)


@pytest.mark.slow
def test_a_load_test_on_a_cluster_has_the_numbers_that_vllm_saved(
    cluster: Cluster, server: Server, results: str
) -> None:
    before = left(cluster)
    test = load_test(server, FEW, results)
    assert (test.failure, test.prompt_tokens, test.answer_tokens, test.memory_bytes) == ("", 16, 8, 0)
    assert [(level.concurrency, level.requests, level.failed) for level in test.levels] == [(1, 2, 0), (4, 4, 0)]
    assert test.levels[1].output_tokens_per_s == SAVED["output_throughput"]
    assert test.levels[1].first_token_p95_ms == SAVED["p95_ttft_ms"]
    assert test.levels[1].between_tokens_ms == SAVED["median_itl_ms"]
    assert left(cluster) == before, "only the server's objects"


@pytest.mark.slow
@only_kserve
def test_the_step_saves_the_load_test_as_on_one_machine(server: Server, results: str) -> None:
    plan = EvaluationPlan(variants=("bf16", "int8"), store="", results=results, speed="1,4")
    after_full_stage(server, Scores(variant="int8", suite="demo", stage="full"), plan)
    saved = RunResults(results).load_test("int8").read(LoadTest)
    assert saved
    assert [level.concurrency for level in saved.levels] == [1, 4]
    assert saved.ended_at > 0


@pytest.mark.slow
def test_the_pod_has_no_token_and_its_spec_not_the_key(cluster: Cluster, server: Server, results: str) -> None:
    seen: list[tuple[str, JSON]] = []
    on = cluster.on

    def remember(what: str, plural: str, obj: JSON) -> None:
        if what == "created":
            seen.append((plural, obj))
        on(what, plural, obj)

    cluster.on = remember
    assert load_test(server, FEW, results).failure == ""
    assert [plural for plural, _ in seen] == ["leases", "jobs", "pods"]
    assert key_of(server) not in json.dumps([seen, *cluster.logs.values()])
    (_, lease), (_, job_object), _ = seen
    schemas.check(
        {**job_object, "metadata": {k: v for k, v in job_object["metadata"].items() if k != "resourceVersion"}}
    )
    assert lease["metadata"]["ownerReferences"][0]["name"] == WORKFLOW
    assert job_object["metadata"]["ownerReferences"][0]["uid"] == lease["metadata"]["uid"]
    pod = job_object["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("quantgate-serving", False)
    assert pod["securityContext"]["runAsNonRoot"] is True
    (fetch,), (container,) = pod["initContainers"], pod["containers"]
    assert fetch["command"][-1] == "--without-weights"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert "nvidia.com/gpu" not in json.dumps(container["resources"])
    key = {"secretKeyRef": {"name": server.key_secret, "key": "VLLM_API_KEY"}}
    assert {"name": "OPENAI_API_KEY", "valueFrom": key} in container["env"]
    there = server.model_copy(update={"model_path": "/mnt/models/model"})
    assert container["command"] == ["python3", "-c", PROGRAM, json.dumps(runs(there, FEW, "/tmp"))]
    if os.environ["QUANTGATE_SERVING"] == KSERVE:
        assert container["image"] == "vllm/vllm-openai@sha256:abc", "the server's"


NO_NODE: JSON = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: 3 Insufficient memory."}],
}
NO_IMAGE: JSON = {
    "phase": "Pending",
    "containerStatuses": [
        {
            "name": "load-test",
            "image": "vllm/vllm-openai@sha256:abc",
            "state": {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}},
        }
    ],
}


@pytest.mark.slow
@only_kserve
@pytest.mark.fault(
    "servers",
    "the Job of a load test on a cluster does not start, fails, or its log is cut",
    "a row with the reason and without a speed",
)
@pytest.mark.parametrize(
    ("status", "within_s", "reason"),
    [
        (NO_NODE, 0, "did not start in 0 s: No node can take it: not enough memory (it asks for 4Gi)"),
        (NO_IMAGE, 60, "cannot start: The image vllm/vllm-openai@sha256:abc cannot be pulled"),
    ],
    ids=["no node", "no image"],
)
def test_a_load_test_whose_pod_does_not_start_has_its_reason_and_no_speed(
    cluster: Cluster,
    node: Node,
    server: Server,
    results: str,
    monkeypatch: pytest.MonkeyPatch,
    status: JSON,
    within_s: int,
    reason: str,
) -> None:
    before = left(cluster)
    node.status = status
    monkeypatch.setattr(step_job, "START_WITHIN_S", within_s)
    test = load_test(server, FEW, results)
    assert "which load-tests the server of int8, " + reason in test.failure
    assert test.levels == ()
    assert left(cluster) == before


@pytest.mark.slow
@only_kserve
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("dies", "load-test ended with status 1 (Error). ValueError: the tokenizer of the load test is missing"),
        ("fails", "All 2 requests failed, 1 at a time."),
        ("damaged", "vLLM's results at concurrency 1 are invalid: 1 validation error for LoadLevel"),
    ],
)
def test_a_load_test_that_fails_in_its_pod_has_its_reason_and_no_speed(
    cluster: Cluster, server: Server, results: str, monkeypatch: pytest.MonkeyPatch, mode: str, reason: str
) -> None:
    before = left(cluster)
    monkeypatch.setenv("VLLM_FAKE_BENCH", mode)
    test = load_test(server, FEW, results)
    assert reason in test.failure
    assert test.levels == ()
    assert left(cluster) == before


@pytest.mark.slow
@only_kserve
def test_a_tokenizer_that_is_not_the_runs_is_named(server: Server, results: str) -> None:
    file = RunResults(results).weights("int8")
    file.write(WEIGHTS.model_copy(update={"uri": "store/weights/int8"}))
    failure = load_test(server, FEW, results).failure
    assert re.search(r"Its container weights ended with status 2(.|\n)*and the run has " + "d" * 64, failure)


@only_kserve
def test_a_log_that_is_cut_gives_no_speed(node: Node, server: Server, results: str) -> None:
    node.lines = (json.dumps({"load_test_seed": 1, "saved": SAVED}), '{"load_test_seed": 4, "sav')
    short = replace(FEW, concurrencies=(1,), least_requests=8)
    test = load_test(server, replace(short, concurrencies=(4,)), results)
    assert test.failure == "The log of the load test lacks vLLM's results at concurrency 4."
    assert "instead of 8, 1 at a time" in load_test(server, short, results).failure


@only_kserve
def test_a_server_that_is_removed_meanwhile_is_reported(cluster: Cluster, server: Server, results: str) -> None:
    on = cluster.on

    def undeploy(what: str, plural: str, obj: JSON) -> None:
        if (what, plural) == ("created", "jobs"):
            thread = threading.Thread(target=kserve.undeploy, args=("int8", results, ServingSettings(kind=KSERVE)))
            thread.start()
        else:
            on(what, plural, obj)

    cluster.on = undeploy
    test = load_test(server, FEW, results)
    assert "was removed" in test.failure
    assert left(cluster) == []


def test_each_variant_has_a_job_of_its_own(cluster: Cluster) -> None:
    """Names are cut: those of long variants must differ where the variants do, and from their servers'."""
    variants = [f"int4-autoround-g128.seed1.{rest}" for rest in ("calib1", "calib2", "calib1.kv-fp8")]
    served = [Served("run", variant, "", ()) for variant in variants]
    names = [bench_job.load_job(Api("team"), one).name for one in served] + [one.name for one in served]
    assert len(set(names)) == len(names)


@only_kserve
def test_undeploying_the_variant_removes_a_load_test_that_a_killed_step_left(
    cluster: Cluster, server: Server, results: str
) -> None:
    api = Api("quantgate")
    job = bench_job.load_job(api, bench_job.served_by(api, server, results))
    step_job.create(job, LEASE, step_job.lease_of(job))
    assert f"leases/{job.name}" in left(cluster)
    kserve.undeploy("int8", results, ServingSettings(kind=KSERVE))
    assert left(cluster) == []


@only_kserve
def test_a_step_without_the_right_to_create_jobs_says_so(cluster: Cluster, server: Server, results: str) -> None:
    before = left(cluster)
    cluster.forbidden = {"create jobs"}
    assert load_test(server, FEW, results).failure.startswith(f"{USER} may not create jobs.batch")
    assert left(cluster) == before


def run_one(server: JSON, results: str) -> None:
    """Load-test the server, in a process that will be killed."""
    step_job.POLL_S = 0.02
    load_test(Server.model_validate(server), FEW, results)


@pytest.mark.slow
@only_kserve
@pytest.mark.parametrize("after", [False, True])
def test_the_reaper_deletes_the_job_that_a_killed_step_leaves(
    cluster: Cluster, node: Node, server: Server, results: str, after: bool
) -> None:
    node.lines = ("",)
    for seed in (0, 1, 4):
        node.lines += (json.dumps({"load_test_seed": seed, "saved": SAVED}),)
    servers, before = left(cluster), len(cluster.requests)
    load_test(server, FEW, results)
    calls, most = len(cluster.requests) - before, 0
    for last in range(1, calls + 1):
        if not killed_at(cluster, last, after, run_one, server.model_dump(mode="json"), results):
            break
        most = max(most, len(left(cluster)) - len(servers))
        cluster.change("leases", servers_lease(servers), lambda lease: lease["spec"].update(leaseDurationSeconds=9999))
        reaper.reap(Api("quantgate"), datetime.now(UTC) + timedelta(seconds=step_job.LEASE_S + 1))
        assert left(cluster) == servers
    assert most == 3  # lease, Job, pod


def servers_lease(names: list[str]) -> str:
    """The name of the server's lease, of the only one among these objects."""
    (lease,) = (name.partition("/")[2] for name in names if name.startswith("leases/"))
    return lease
