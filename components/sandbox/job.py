"""Run the programs in a Job on a cluster: its pod has no rights, no token, no network and nothing of value.

The step `execute` shares its pod with kfp's launcher, which needs the run's token, S3's keys and a network. So a
model's programs do not run there. The step creates

    Lease owns ConfigMap (the programs), Job -> Pod (components/sandbox/pod.py)

reads how each program ended from the pod's log, and deletes the Lease; the cluster then deletes the objects that it
owns. If the step is killed, the reaper deletes the Lease after LEASE_S without a renewal. The step does not wait for an
earlier attempt's programs: it deletes them, and they run again.
"""

import base64
import gzip
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from quantgate.components.errors import PrerequisiteError, ServerGoneError
from quantgate.components.kubernetes import cluster_lease
from quantgate.components.kubernetes.cluster_client import CONFIG_MAP, JOB, JSON, LEASE, POD, ClusterClient, ObjectKind
from quantgate.components.kubernetes.labels import INSTANCE, MANAGED_BY, MANAGER, NO_SIDECAR, RUN
from quantgate.components.kubernetes.owner import own_pod, reference, run_name, workflow
from quantgate.components.sandbox.containment import Limits, Outcome, Program
from quantgate.components.sandbox.judging_process import PATIENCE
from quantgate.components.sandbox.pod_outcomes import PROGRAMS, PROGRAMS_FILE, ReportedOutcomes, outcomes_in
from quantgate.components.servers import objects
from quantgate.components.servers.cluster_settings import from_environment
from quantgate.components.servers.vllm_pod import Served, confined, unprivileged
from quantgate.components.servers.why_not_ready import LOG_LINES, why_not_ready, with_log

SANDBOX = "quantgate.dev/sandbox"
"""The label of the pods without any access, for the network policies; its value is the variant."""
IMAGE, RUNTIME_CLASS = "QUANTGATE_SANDBOX_IMAGE", "QUANTGATE_SANDBOX_RUNTIME_CLASS"
ACCOUNT, CONTAINER = "quantgate-sandbox", "programs"
CPUS, MEMORY, SCRATCH = "2", "4Gi", "256Mi"
"""One program runs at a time, beside its judge."""
RETRIES = 2
"""Of the pod, if its node is drained or dies."""
MOST_BYTES = 900_000
"""Of a ConfigMap's content; Kubernetes' limit is 1 MiB."""
LEASE_S, POLL_S = 1800, 5.0
LAST_READS = 12
"""Of a complete Job's log, if outcomes are missing from it."""
START_WITHIN_S, GONE_WITHIN_S = 1800, 300
"""Deadlines for the pod to start, and for an earlier attempt's objects to disappear."""


@dataclass(frozen=True)
class Sandbox:
    """The Job that runs one variant's programs in a run."""

    cluster: ClusterClient
    run: str
    """The workflow's name."""
    purpose: str
    """The variant that wrote the programs."""

    @property
    def name(self) -> str:
        """The same in each attempt of the step, to find an earlier one's objects; a DNS label, no server's prefix."""
        return Served(self.run, f"run-{self.purpose}", "", ()).name

    @property
    def labels(self) -> dict[str, str]:
        """The labels of all its objects."""
        return labels(self.run, self.purpose)


def labels(run: str, purpose: str) -> dict[str, str]:
    """The labels of a sandbox's objects; not a server's label VARIANT, by which `undeploy` deletes objects."""
    return {MANAGED_BY: MANAGER, RUN: run, SANDBOX: purpose}


def run_in_job(
    programs: Sequence[Program], on_done: Callable[[int, Outcome], None], limits: Limits, purpose: str
) -> list[Outcome]:
    """Each program's outcome, in the given order; raises PrerequisiteError with the reason if there are none."""
    settings = from_environment()
    cluster = ClusterClient(settings.namespace, settings.ready_within_s)  # a cluster in trouble is waited out
    sandbox = Sandbox(cluster, run_name(cluster, ""), purpose)
    outcomes: dict[int, Outcome] = {}
    for first, packed, count in portions(programs, limits):

        def record(number: int, outcome: Outcome, first: int = first) -> None:
            outcomes[first + number] = outcome
            on_done(first + number, outcome)

        run_portion(sandbox, packed, count, limits, record)
    return [outcomes[number] for number in range(len(programs))]


def portions(programs: Sequence[Program], limits: Limits) -> Iterator[tuple[int, bytes, int]]:
    """The programs in parts that fit into ConfigMaps: the number of the first, the file for the pod, how many."""
    waiting = [(0, len(programs))]
    while waiting:
        first, end = waiting.pop()
        content = {"programs": [asdict(program) for program in programs[first:end]], "limits": asdict(limits)}
        packed = gzip.compress(json.dumps(content).encode(), mtime=0)
        if len(packed) * 4 / 3 <= MOST_BYTES:
            yield first, packed, end - first
        elif end - first == 1:
            raise PrerequisiteError(
                f"A program of {len(programs[first].source)} characters is larger than a ConfigMap can be."
            )
        else:
            half = (first + end) // 2
            waiting += [(half, end), (first, half)]


def run_portion(
    sandbox: Sandbox, packed: bytes, count: int, limits: Limits, on_done: Callable[[int, Outcome], None]
) -> None:
    """Run one Job to its end, report each outcome once, and delete its objects."""
    seconds = START_WITHIN_S + count * PATIENCE * math.ceil(limits.seconds)
    objects_to_create = [(CONFIG_MAP, config_map(sandbox, packed)), (JOB, job(sandbox, seconds))]
    lease = create(sandbox, LEASE, lease_of(sandbox))
    try:
        with cluster_lease.renewing(sandbox.cluster, sandbox.name):
            owned = {"ownerReferences": [reference(lease)]}
            for kind, body in objects_to_create:
                create(sandbox, kind, body | {"metadata": body["metadata"] | owned})
            follow(sandbox, count, on_done)
    except ServerGoneError as error:
        raise PrerequisiteError(
            f"The Job {sandbox.name} in the namespace {sandbox.cluster.namespace} was removed while its programs ran: "
            "by a second attempt of this step, by the reaper after half an hour without the API, or by somebody. Run "
            "the step again."
        ) from error
    finally:
        remove(sandbox, lease)


def remove(sandbox: Sandbox, lease: JSON) -> None:
    """Delete the lease and with it the objects that it owns; if the API refuses, the reaper does so later."""
    try:
        sandbox.cluster.delete(LEASE, sandbox.name, uid=lease["metadata"]["uid"])
    except PrerequisiteError as error:
        print(f"quantgate: the Job {sandbox.name} was not removed ({error}); it is removed when its lease ends.")


def create(sandbox: Sandbox, kind: ObjectKind, body: JSON) -> JSON:
    """Create the object, after an earlier attempt's object of that name is gone."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (created := sandbox.cluster.create(kind, body)) is None:
        existing = sandbox.cluster.get(kind, sandbox.name)
        if existing and existing["metadata"].get("labels", {}).get(MANAGED_BY) != MANAGER:
            raise PrerequisiteError(
                f"{kind} {sandbox.name} in the namespace {sandbox.cluster.namespace} is not quantgate's. Delete it."
            )
        if existing and kind is LEASE:
            sandbox.cluster.delete(LEASE, sandbox.name, uid=existing["metadata"]["uid"])
        if time.monotonic() > deadline:
            raise PrerequisiteError(
                f"{kind} {sandbox.name} of an earlier attempt still exists after {GONE_WITHIN_S} s. Check what "
                "blocks its deletion: its finalizers, or a garbage collector that does not run."
            )
        time.sleep(POLL_S)
    return created


def follow(sandbox: Sandbox, count: int, on_done: Callable[[int, Outcome], None]) -> None:
    """Report the outcomes as they appear in the pod's log, until the Job is complete and all are reported."""
    began, started, reported, reads_left = time.monotonic(), False, ReportedOutcomes(), LAST_READS
    while True:
        current = sandbox.cluster.get(JOB, sandbox.name)
        if current is None or "deletionTimestamp" in current["metadata"]:
            raise ServerGoneError(f"The Job {sandbox.name} is gone.")
        conditions = {condition["type"]: condition for condition in current.get("status", {}).get("conditions", ())}
        over = {"Complete", "Failed"} & {name for name, value in conditions.items() if value["status"] == "True"}
        pod = newest(sandbox)
        phase = pod.get("status", {}).get("phase", "Pending") if pod else "Pending"
        if pod and phase != "Pending":
            started = True
            lines = sandbox.cluster.log(pod["metadata"]["name"], CONTAINER, count + LOG_LINES, previous=False)
            for number, outcome in reported.fresh(pod["metadata"]["uid"], outcomes_in(lines, count)):
                on_done(number, outcome)
        if "Failed" in over:
            raise PrerequisiteError(failed(sandbox, conditions["Failed"], pod))
        if over and (len(reported.all) == count or not reads_left):
            break
        reads_left -= bool(over)  # the node may not serve the log for a moment
        if not over and not started:
            check_start(sandbox, current, began)
        time.sleep(POLL_S)
    if missing := count - len(reported.all):
        raise PrerequisiteError(
            f"The Job {sandbox.name} ran {count} programs, and its log lacks the outcomes of {missing}: the log was "
            "cut or its pod removed too early. Run the step again."
        )


def check_start(sandbox: Sandbox, current: JSON, began: float) -> None:
    """Raise PrerequisiteError with the reason for a pod that cannot start, or did not in time."""
    reason = why_not_ready(sandbox.cluster, current, f"{INSTANCE}={sandbox.name}", CONTAINER, less="")
    if reason.final:
        raise PrerequisiteError(f"The Job {sandbox.name}, which runs the programs, cannot start: {reason.text}")
    if time.monotonic() - began > START_WITHIN_S:
        raise PrerequisiteError(
            f"The Job {sandbox.name}, which runs the programs, did not start in {START_WITHIN_S} s: {reason.text}"
        )


def newest(sandbox: Sandbox) -> JSON | None:
    """The Job's newest pod: the Job creates another one after its node dies. None without a pod."""
    pods, _ = sandbox.cluster.listed(POD, labels=f"{INSTANCE}={sandbox.name}")
    return max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def failed(sandbox: Sandbox, condition: JSON, pod: JSON | None) -> str:
    """Why the Job failed, with the last lines of its pod's log."""
    message = f"The Job {sandbox.name}, which runs the programs, failed: "
    message += f"{condition.get('reason', '')}: {condition.get('message', '')}"
    if pod is None:
        return message
    statuses = pod.get("status", {}).get("containerStatuses", ())
    ended = next((status.get("state", {}).get("terminated") or {} for status in statuses), {})
    message += f" Its container ended with status {ended['exitCode']} ({ended.get('reason')})." if ended else ""
    return with_log(
        message, CONTAINER, sandbox.cluster.log(pod["metadata"]["name"], CONTAINER, LOG_LINES, previous=False)
    )


def lease_of(sandbox: Sandbox) -> JSON:
    """The Lease that owns the other objects and limits how long they stay."""
    now = cluster_lease.timestamp(datetime.now(UTC))
    return objects.lease(sandbox.name, sandbox.labels, now, LEASE_S, workflow(sandbox.cluster))


def config_map(sandbox: Sandbox, packed: bytes) -> JSON:
    """The ConfigMap with the programs."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": sandbox.name, "labels": sandbox.labels},
        "binaryData": {PROGRAMS_FILE: base64.b64encode(packed).decode("ascii")},
    }


def job(sandbox: Sandbox, seconds: int) -> JSON:
    """The Job: the pod security standard `restricted`, no token, only a small /tmp in memory to write to."""
    if not (image := os.environ.get(IMAGE)):
        raise PrerequisiteError(f"{IMAGE} is not set: it names the project image, in which the programs run.")
    own_spec = (own_pod(sandbox.cluster) or {}).get("spec", {})
    pull = {"imagePullSecrets": own_spec["imagePullSecrets"]} if own_spec.get("imagePullSecrets") else {}
    runtime = {"runtimeClassName": os.environ[RUNTIME_CLASS]} if os.environ.get(RUNTIME_CLASS) else {}
    # a cluster whose administrator gives Kubeflow's pods a user namespace gives one to a model's programs too
    users = {"hostUsers": False} if own_spec.get("hostUsers") is False else {}
    copy, tmp = f"/tmp/{PROGRAMS_FILE}", {"name": "tmp", "mountPath": "/tmp"}
    size = {"cpu": CPUS, "memory": MEMORY}
    common = {"image": image, "resources": {"requests": size, "limits": size}, "securityContext": confined()}
    # A program may read what the pod's user may. So its container has the file with all tests only as a copy, which
    # pod.py deletes.
    fetcher = common | {
        "name": "copy",
        "command": ["cp", f"{PROGRAMS}/{PROGRAMS_FILE}", copy],
        "volumeMounts": [{"name": "programs", "mountPath": PROGRAMS, "readOnly": True}, tmp],
    }
    container = common | {
        "name": CONTAINER,
        "command": ["python", "-m", "quantgate.components.sandbox.pod", copy],
        "volumeMounts": [tmp],
    }
    spec = {
        **pull,
        **runtime,
        **users,
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": unprivileged(),
        "initContainers": [fetcher],
        "containers": [container],
        "volumes": [
            {"name": "programs", "configMap": {"name": sandbox.name}},
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": SCRATCH}},
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": sandbox.name, "labels": sandbox.labels},
        "spec": {
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": seconds,
            "template": {
                "metadata": {"labels": {**sandbox.labels, INSTANCE: sandbox.name, **NO_SIDECAR}},
                "spec": spec,
            },
        },
    }
