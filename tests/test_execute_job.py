"""Programs in their own Job: the API server is a stand-in, and its node really runs the pod's command."""

import json
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes import cluster_lease, reaper
from quantgate.components.kubernetes.cluster_client import LEASE
from quantgate.components.kubernetes.cluster_client import ClusterClient as Api
from quantgate.components.kubernetes.owner import reference
from quantgate.components.sandbox import job
from quantgate.components.sandbox.containment import Containment, Limits, Outcome, Program
from quantgate.components.sandbox.pod_outcomes import outcomes_in
from quantgate.components.sandbox.programs import check_sandbox, run_programs
from quantgate.components.servers import kserve, step_job
from quantgate.components.servers.cluster_settings import KSERVE, ServingSettings
from quantgate.components.servers.step_job import StepJob
from tests.support import schemas
from tests.support.job_node import Node, node
from tests.support.killed import killed_at
from tests.support.kubernetes_server import USER
from tests.support.kubernetes_state import JSON, Cluster, Request
from tests.support.on_cluster import WORKFLOW, cluster, left

__all__ = ["cluster", "node"]

HONEST, WRONG = Program("def one(): return 1", "assert one() == 1"), Program("def one(): return 2", "assert one() == 1")
LOUD = Program("print('{\"program\": 0}')", "")
PASSED, FALSE = Outcome(passed=True, reason=""), Outcome(passed=False, reason="AssertionError")
LIMITS = Limits(seconds=5)


FORGER = Program(
    'import os\nopen(f\'/proc/{os.getppid()}/fd/1\', \'w\').write(\'{"program": 1, "passed": true, "reason": ""}\')', ""
)


@pytest.mark.fault(
    "programs",
    "a program in a pod looks for the tests of all programs, which the pod gets as a file",
    "only an init container mounts the file, and its copy is deleted before the first program runs",
)
@pytest.mark.slow
def test_programs_run_in_a_job_that_is_deleted_completely(cluster: Cluster, node: Node) -> None:
    reported: dict[int, Outcome] = {}
    programs = [HONEST, WRONG, LOUD, Program("import os; os.fork()", ""), FORGER]
    outcomes = run_programs(programs, reported.__setitem__, LIMITS, purpose="int8")
    refused = Outcome(passed=False, reason="PermissionError")
    assert outcomes == [PASSED, FALSE, PASSED, refused, refused]
    assert reported == dict(enumerate(outcomes))
    assert left(cluster) == []
    (pod,) = Path(os.environ["KUBECONFIG"]).parent.glob("*-0")
    assert [file.relative_to(pod).as_posix() for file in pod.rglob("*.gz")] == ["programs/wanted.json.gz"]


DUMPABLE = """import ctypes, sys
from quantgate.components.sandbox import pod
try:
    pod.main()
except FileNotFoundError:
    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


@pytest.mark.fault(
    "programs",
    "a program writes verdicts to the output of the pod's own process, where the kernel lacks Landlock",
    "no process of its user opens that process: it is not dumpable before it reads the programs",
)
def test_the_pods_own_process_is_closed_to_its_user(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DUMPABLE, str(tmp_path / "wanted.json.gz")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0\n"


def test_the_pod_has_no_rights_no_token_and_no_access_to_the_run(
    cluster: Cluster, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[JSON] = []
    node.lines = ('{"program": 0, "passed": true, "reason": ""}',)
    monkeypatch.setenv("QUANTGATE_SANDBOX_RUNTIME_CLASS", "gvisor")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    pull = [{"name": "registry"}]
    cluster.change("pods", "own-pod", lambda pod: pod.update(spec={"imagePullSecrets": pull, "hostUsers": False}))

    def on(what: str, plural: str, obj: JSON) -> None:
        if what == "created" and plural in ("leases", "configmaps", "jobs"):
            seen.append(obj)
        node.on(what, plural, obj)

    cluster.on = on
    assert run_programs([HONEST], limits=LIMITS, purpose="int4-g128") == [PASSED]
    lease, programs, job_object = seen
    for obj in seen:
        schemas.check({**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}})
        assert obj["metadata"]["labels"] == {
            "app.kubernetes.io/managed-by": "quantgate",
            "quantgate.dev/run": WORKFLOW,
            "quantgate.dev/sandbox": "int4-g128",
        }
    assert lease["metadata"]["ownerReferences"][0]["name"] == WORKFLOW
    owner = lease["metadata"]["uid"]
    assert [obj["metadata"]["ownerReferences"][0]["uid"] for obj in (programs, job_object)] == [owner] * 2
    assert job_object["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    pod = job_object["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("quantgate-sandbox", False)
    assert (pod["runtimeClassName"], pod["imagePullSecrets"], pod["hostUsers"]) == ("gvisor", pull, False)
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (copy,), (container,) = pod["initContainers"], pod["containers"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    assert (
        copy["securityContext"]
        == container["securityContext"]
        == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    )
    assert not {"env", "envFrom"} & {*container, *copy}
    assert {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]} == {"configMap", "emptyDir"}
    assert "a-secret" not in json.dumps(seen)


def test_undeploying_the_variant_does_not_touch_its_programs(cluster: Cluster, node: Node) -> None:
    node.lines = ('{"program": 0, "passed": true, "reason": ""}',)
    undeployed = []

    def on(what: str, plural: str, obj: JSON) -> None:
        if (what, plural) == ("created", "jobs"):
            cluster.on = node.on
            thread = threading.Thread(target=undeploy)
            node.threads.append(thread)
            thread.start()
        node.on(what, plural, obj)

    def undeploy() -> None:
        kserve.undeploy("int8", "", ServingSettings(kind=KSERVE))
        undeployed.append(True)

    cluster.on = on
    assert run_programs([HONEST], limits=LIMITS, purpose="int8") == [PASSED]
    node.threads[0].join()
    assert undeployed == [True]


def test_programs_that_exceed_a_config_map_run_in_several_jobs_in_turn(
    cluster: Cluster, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.lines = tuple(json.dumps({"program": number, "passed": True, "reason": ""}) for number in range(2))
    monkeypatch.setattr(job, "MOST_BYTES", 12_000)
    finished: list[int] = []
    programs = [Program(os.urandom(2000).hex(), "") for _ in range(4)]
    outcomes = run_programs(programs, lambda number, _: finished.append(number), LIMITS)
    assert outcomes == [PASSED] * 4
    assert finished == [0, 1, 2, 3]
    assert cluster.counted()["create jobs"] >= 2
    with pytest.raises(PrerequisiteError, match="is larger than a ConfigMap can be"):
        run_programs([Program(os.urandom(10_000).hex(), "")], limits=LIMITS)


def test_the_log_of_a_replacement_pod_is_read_from_the_start(node: Node) -> None:
    node.phases = ("Failed", "Succeeded")
    node.lines = ('{"program": 0, "passed": true, "reason": ""}',)
    assert run_programs([HONEST], limits=LIMITS) == [PASSED]


@pytest.mark.parametrize(
    ("status", "within_s", "message"),
    [
        (
            {
                "phase": "Pending",
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: 3 Insufficient memory."}
                ],
            },
            0,
            "did not start in 0 s: No node can take it: not enough memory (it asks for 4Gi)",
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    {
                        "name": "programs",
                        "image": "quantgate@sha256:abc",
                        "state": {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}},
                    }
                ],
            },
            60,
            "cannot start: The image quantgate@sha256:abc cannot be pulled",
        ),
    ],
    ids=["no node", "no image"],
)
def test_the_reason_why_programs_do_not_start_is_reported(
    cluster: Cluster, node: Node, monkeypatch: pytest.MonkeyPatch, status: JSON, within_s: int, message: str
) -> None:
    node.status = status
    monkeypatch.setattr(step_job, "START_WITHIN_S", within_s)
    with pytest.raises(PrerequisiteError, match=re.escape(message)):
        check_sandbox(Containment.JOB)
    assert left(cluster) == []


def test_the_reason_why_a_job_failed_is_reported_with_its_last_lines(cluster: Cluster, node: Node) -> None:
    node.phases, node.lines = ("Failed",), ("The sandbox did not start a program",)
    with pytest.raises(
        PrerequisiteError, match=r"failed: DeadlineExceeded: it was active too long(.|\n)*did not start"
    ):
        run_programs([HONEST], limits=LIMITS)
    assert left(cluster) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"program": 0, "passed": true, "reason": ""}', '{"program": 1, "pas'], "lacks the outcomes of 1"),
        (['{"program": 7, "passed": true, "reason": ""}'], "contains an invalid outcome"),
        (
            ['{"program": 0, "passed": false, "reason": "x"}', '{"program": 0, "passed": true, "reason": ""}'],
            "contains an invalid outcome",
        ),
    ],
)
def test_a_truncated_or_forged_log_gives_no_score(cluster: Cluster, node: Node, lines: list[str], message: str) -> None:
    node.lines = tuple(lines)
    with pytest.raises(PrerequisiteError, match=message):
        run_programs([HONEST, HONEST], limits=LIMITS)
    assert left(cluster) == []


def test_a_log_that_is_temporarily_unreadable_is_read_again(cluster: Cluster, node: Node) -> None:
    node.lines = ('{"program": 0, "passed": true, "reason": ""}',)

    def faults(_: int, request: Request) -> int | None:
        return 500 if str(request) == "get pods/log" and cluster.counted()["get pods/log"] <= 3 else None

    cluster.faults = faults
    assert run_programs([HONEST], limits=LIMITS) == [PASSED]
    assert cluster.counted()["get pods/log"] > 3


def test_other_lines_of_the_log_are_ignored() -> None:
    lines = ["Warning: slow", "[]", '{"a": 1}', '{"program": 1, "passed": false, "reason": "KeyError"}', "{"]
    assert outcomes_in(lines, 2) == {1: Outcome(passed=False, reason="KeyError")}


def test_an_earlier_attempts_objects_are_deleted_first(cluster: Cluster, node: Node) -> None:
    node.lines = ('{"program": 0, "passed": true, "reason": ""}',)
    cluster.faults = lambda _, request: 500 if str(request) == "create jobs" else None
    api = Api("quantgate", patience_s=0.1)
    sandbox = job.sandbox(api, WORKFLOW, "int8")
    lease = step_job.create(sandbox, LEASE, step_job.lease_of(sandbox))
    cluster.create("api/v1/configmaps", job.config_map(sandbox, b"") | {"metadata": owned(sandbox, lease)})
    cluster.faults = lambda *_: None
    cluster.collects_garbage, collected = False, threading.Timer(0.3, cluster.collect)
    collected.start()
    assert run_programs([HONEST], limits=LIMITS, purpose="int8") == [PASSED]
    collected.join()
    assert left(cluster) == []


def owned(sandbox: StepJob, lease: JSON) -> JSON:
    """The metadata of an object that the lease owns."""
    return {"name": sandbox.name, "labels": sandbox.labels, "ownerReferences": [reference(lease)]}


def test_other_peoples_objects_are_left_alone(cluster: Cluster, node: Node) -> None:
    name = job.sandbox(Api("quantgate"), WORKFLOW, "int8").name
    cluster.create("api/v1/configmaps", {"metadata": {"name": name}})
    with pytest.raises(PrerequisiteError, match="is not quantgate's"):
        run_programs([HONEST], limits=LIMITS, purpose="int8")
    assert len(cluster.all("configmaps")) == 1
    assert left(cluster) == []


def test_a_job_that_is_deleted_while_it_runs_is_reported(cluster: Cluster, node: Node) -> None:
    def on(what: str, plural: str, obj: JSON) -> None:
        if (what, plural) == ("created", "jobs"):
            cluster.delete("apis/coordination.k8s.io/v1/leases", obj["metadata"]["name"], {})

    cluster.on = on
    with pytest.raises(PrerequisiteError, match="was removed from the namespace quantgate while it ran"):
        run_programs([HONEST], limits=LIMITS)


def test_a_step_without_the_right_to_create_jobs_fails_before_it_creates_anything(cluster: Cluster, node: Node) -> None:
    cluster.forbidden = {"create jobs"}
    with pytest.raises(PrerequisiteError, match=rf"{USER} may not create jobs\.batch"):
        check_sandbox()
    assert left(cluster) == []


def test_a_step_without_the_images_name_is_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTGATE_SANDBOX_IMAGE")
    with pytest.raises(PrerequisiteError, match="QUANTGATE_SANDBOX_IMAGE is not set"):
        check_sandbox()


def run_one() -> None:
    """Run a program in a Job, in a process that will be killed."""
    step_job.POLL_S = 0.02
    job.run_in_job([HONEST], lambda *_: None, LIMITS, "int8")


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_the_reaper_deletes_everything_that_a_killed_step_leaves(cluster: Cluster, node: Node, after: bool) -> None:
    node.lines = ('{"program": 0, "passed": true, "reason": ""}',)
    before = len(cluster.requests)
    run_programs([HONEST], limits=LIMITS, purpose="int8")
    calls = len(cluster.requests) - before
    assert calls >= 8
    most = 0
    for last in range(1, calls + 1):
        if not killed_at(cluster, last, after, run_one):  # it had less to ask this time
            break
        most = max(most, len(left(cluster)))
        lapsed = datetime.now(UTC) + timedelta(seconds=step_job.LEASE_S + 1)
        reaper.reap(Api("quantgate"), lapsed)
        assert left(cluster) == []
    assert most == 4  # lease, programs, Job, pod


@pytest.mark.slow
def test_the_lease_is_renewed_while_the_programs_run(
    cluster: Cluster, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_job, "LEASE_S", 1)
    renewed = threading.Semaphore(0)
    renewals: list[str] = []

    def on(what: str, plural: str, obj: JSON) -> None:
        if (what, plural) == ("created", "jobs"):
            renewals.append(obj["metadata"]["name"])
        if (what, plural) == ("changed", "leases") and renewals:
            renewed.release()

    cluster.on = on

    def end() -> None:
        for _ in range(cluster_lease.RENEWALS):
            assert renewed.acquire(timeout=30)
        cluster.delete("apis/batch/v1/jobs", renewals[0], {})

    thread = threading.Thread(target=end)
    node.threads.append(thread)
    thread.start()
    with pytest.raises(PrerequisiteError, match="was removed from"):
        run_programs([HONEST], limits=LIMITS)
