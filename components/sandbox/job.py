"""Run the programs in a Job of its own on a cluster: a pod with no rights, no token, no network and nothing of value.

The step `execute` shares its pod with kfp's launcher, which needs the run's token, S3's keys and a network, so no
program of a model's runs there. The step makes

    Lease owns ConfigMap (the programs), Job -> Pod (components/sandbox/pod.py)

reads how each program ended from the pod's log, and deletes the Lease: what it owns goes with it. Of a step that was
killed the reaper does that once nobody has renewed the Lease for LEASE_S. The programs of an earlier attempt are not
waited for: they go, and run again.
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

from components.errors import PrerequisiteError, ServerGoneError
from components.kubernetes import cluster_lease
from components.kubernetes.cluster_client import CONFIG_MAP, JOB, JSON, LEASE, POD, ClusterClient, ObjectKind
from components.kubernetes.labels import INSTANCE, MANAGED_BY, MANAGER, NO_SIDECAR, RUN
from components.kubernetes.owner import own_pod, reference, run_name, workflow
from components.sandbox.containment import Limits, Outcome
from components.sandbox.inside import PATIENCE
from components.sandbox.pod_outcomes import PROGRAMS, WANTED, Heard, heard
from components.servers import objects
from components.servers.cluster_settings import from_environment
from components.servers.vllm_pod import Served, confined, unprivileged
from components.servers.why_not_ready import LOG_LINES, why_not_ready, with_log

SANDBOX = "quantgate.dev/sandbox"
"""The label that tells the pods which may do nothing; its value is the variant."""
IMAGE, RUNTIME_CLASS = "QUANTGATE_SANDBOX_IMAGE", "QUANTGATE_SANDBOX_RUNTIME_CLASS"
ACCOUNT, CONTAINER = "quantgate-sandbox", "programs"
WORKERS, MEMORY, SCRATCH = 2, "4Gi", "256Mi"
RETRIES = 2
"""Of the pod, when its node is drained or dies."""
MOST_BYTES = 900_000
"""Of what a ConfigMap holds, whose end is at 1 MiB."""
LEASE_S, POLL_S = 1800, 5.0
LAST_LOOKS = 12
"""At the log of a Job that is complete, when it lacks outcomes."""
START_WITHIN_S, GONE_WITHIN_S = 1800, 300


@dataclass(frozen=True)
class Sandbox:
    """One Job of a run: whose programs it runs, and until when it is there."""

    cluster: ClusterClient
    run: str
    """The workflow's name."""
    purpose: str
    """The variant that wrote the programs."""

    @property
    def name(self) -> str:
        """The same whenever the step runs again, so that it finds what it left: a DNS label, no server's beginning."""
        return Served(self.run, f"run-{self.purpose}", "", ()).name

    @property
    def labels(self) -> dict[str, str]:
        """On everything that is made for it."""
        return labels(self.run, self.purpose)


def labels(run: str, purpose: str) -> dict[str, str]:
    """Those of a sandbox. Not the one of a variant's server: `undeploy` removes what has that."""
    return {MANAGED_BY: MANAGER, RUN: run, SANDBOX: purpose}


def run_in_job(
    programs: Sequence[str], on_done: Callable[[int, Outcome], None], limits: Limits, purpose: str
) -> list[Outcome]:
    """Each program's outcome, in the order given; raises PrerequisiteError, saying why, where the cluster has none."""
    cluster = ClusterClient(from_environment().namespace)
    sandbox = Sandbox(cluster, run_name(cluster, ""), purpose)
    found: dict[int, Outcome] = {}
    for first, packed, count in portions(programs, limits):

        def tell(number: int, outcome: Outcome, first: int = first) -> None:
            found[first + number] = outcome
            on_done(first + number, outcome)

        run_portion(sandbox, packed, count, limits, tell)
    return [found[number] for number in range(len(programs))]


def portions(programs: Sequence[str], limits: Limits) -> Iterator[tuple[int, bytes, int]]:
    """The programs in as few parts as ConfigMaps can hold: the first one's number, what the pod reads, how many."""
    waiting = [(0, len(programs))]
    while waiting:
        first, end = waiting.pop()
        wanted = {"programs": programs[first:end], "limits": asdict(limits), "workers": WORKERS}
        packed = gzip.compress(json.dumps(wanted).encode(), mtime=0)
        if len(packed) * 4 / 3 <= MOST_BYTES:
            yield first, packed, end - first
        elif end - first == 1:
            raise PrerequisiteError(
                f"A program of {len(programs[first])} characters is more than a ConfigMap can hold."
            )
        else:
            half = (first + end) // 2
            waiting += [(half, end), (first, half)]


def run_portion(
    sandbox: Sandbox, packed: bytes, count: int, limits: Limits, tell: Callable[[int, Outcome], None]
) -> None:
    """Run one Job to its end and tell each outcome once; nothing of it is left."""
    seconds = START_WITHIN_S + math.ceil(count / WORKERS) * PATIENCE * math.ceil(limits.seconds)
    made = [(CONFIG_MAP, config_map(sandbox, packed)), (JOB, job(sandbox, seconds))]
    lease = create(sandbox, LEASE, lease_of(sandbox))
    try:
        with cluster_lease.keeping(sandbox.cluster, sandbox.name):
            owned = {"ownerReferences": [reference(lease)]}
            for kind, body in made:
                create(sandbox, kind, body | {"metadata": body["metadata"] | owned})
            follow(sandbox, count, tell)
    except ServerGoneError as error:
        raise PrerequisiteError(
            f"The Job {sandbox.name} in the namespace {sandbox.cluster.namespace} was removed while its programs ran: "
            "by a second attempt of this step, by the reaper after half an hour without the API, or by somebody."
        ) from error
    finally:
        remove(sandbox, lease)


def remove(sandbox: Sandbox, lease: JSON) -> None:
    """Delete the lease, and with it what it owns; where the API refuses, the reaper does it later."""
    try:
        sandbox.cluster.delete(LEASE, sandbox.name, uid=lease["metadata"]["uid"])
    except PrerequisiteError as error:
        print(f"quantgate: the Job {sandbox.name} could not be removed ({error}); it goes when its lease ends.")


def create(sandbox: Sandbox, kind: ObjectKind, body: JSON) -> JSON:
    """Create the object, once what an earlier attempt left of that name is gone."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (made := sandbox.cluster.create(kind, body)) is None:
        found = sandbox.cluster.get(kind, sandbox.name)
        if found and found["metadata"].get("labels", {}).get(MANAGED_BY) != MANAGER:
            raise PrerequisiteError(
                f"{kind} {sandbox.name} in the namespace {sandbox.cluster.namespace} is not quantgate's. Delete it."
            )
        if found and kind is LEASE:
            sandbox.cluster.delete(LEASE, sandbox.name, uid=found["metadata"]["uid"])
        if time.monotonic() > deadline:
            raise PrerequisiteError(
                f"{kind} {sandbox.name} of an earlier attempt is still there after {GONE_WITHIN_S} s. See what keeps "
                "it: its finalizers, or a garbage collector that does not run."
            )
        time.sleep(POLL_S)
    return made


def follow(sandbox: Sandbox, count: int, tell: Callable[[int, Outcome], None]) -> None:
    """Tell the outcomes as the pod's log has them, until the Job is complete and all are told."""
    began, started, told, looks = time.monotonic(), False, Heard(), LAST_LOOKS
    while True:
        seen = sandbox.cluster.get(JOB, sandbox.name)
        if seen is None or "deletionTimestamp" in seen["metadata"]:
            raise ServerGoneError(f"The Job {sandbox.name} is gone.")
        conditions = {each["type"]: each for each in seen.get("status", {}).get("conditions", ())}
        over = {"Complete", "Failed"} & {name for name, each in conditions.items() if each["status"] == "True"}
        pod = newest(sandbox)
        phase = pod.get("status", {}).get("phase", "Pending") if pod else "Pending"
        if pod and phase != "Pending":
            started = True
            lines = sandbox.cluster.log(pod["metadata"]["name"], CONTAINER, count + LOG_LINES, previous=False)
            for number, outcome in told.fresh(pod["metadata"]["uid"], heard(lines, count)):
                tell(number, outcome)
        if "Failed" in over:
            raise PrerequisiteError(failed(sandbox, conditions["Failed"], pod))
        if over and (len(told.all) == count or not looks):
            break
        looks -= bool(over)  # its node may not give the log just now
        if not over and not started:
            await_start(sandbox, seen, began)
        time.sleep(POLL_S)
    if missing := count - len(told.all):
        raise PrerequisiteError(
            f"The Job {sandbox.name} ran {count} programs, and its log lacks how {missing} of them ended: the log was "
            "cut or its pod removed too early. Run the step again."
        )


def await_start(sandbox: Sandbox, seen: JSON, began: float) -> None:
    """Raise PrerequisiteError, saying why, for a pod that will not start, or has not for too long."""
    reason = why_not_ready(sandbox.cluster, seen, f"{INSTANCE}={sandbox.name}", CONTAINER, less="")
    if reason.final:
        raise PrerequisiteError(f"The Job {sandbox.name}, which runs the programs, cannot start: {reason.text}")
    if time.monotonic() - began > START_WITHIN_S:
        raise PrerequisiteError(
            f"The Job {sandbox.name}, which runs the programs, did not start in {START_WITHIN_S} s: {reason.text}"
        )


def newest(sandbox: Sandbox) -> JSON | None:
    """The Job's latest pod: the Job makes another one where one's node died."""
    found, _ = sandbox.cluster.listed(POD, labels=f"{INSTANCE}={sandbox.name}")
    return max(found, key=lambda each: str(each["metadata"].get("creationTimestamp", "")), default=None)


def failed(sandbox: Sandbox, condition: JSON, pod: JSON | None) -> str:
    """Why the Job failed, with the last lines of its pod."""
    what = f"The Job {sandbox.name}, which runs the programs, failed: "
    what += f"{condition.get('reason', '')}: {condition.get('message', '')}"
    if pod is None:
        return what
    statuses = pod.get("status", {}).get("containerStatuses", ())
    ended = next((each.get("state", {}).get("terminated") or {} for each in statuses), {})
    what += f" Its container ended with status {ended['exitCode']} ({ended.get('reason')})." if ended else ""
    return with_log(what, CONTAINER, sandbox.cluster.log(pod["metadata"]["name"], CONTAINER, LOG_LINES, previous=False))


def lease_of(sandbox: Sandbox) -> JSON:
    """The object that owns the others and says until when they may stay."""
    now = cluster_lease.timestamp(datetime.now(UTC))
    return objects.lease(sandbox.name, sandbox.labels, now, LEASE_S, workflow(sandbox.cluster))


def config_map(sandbox: Sandbox, packed: bytes) -> JSON:
    """The programs."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": sandbox.name, "labels": sandbox.labels},
        "binaryData": {WANTED: base64.b64encode(packed).decode("ascii")},
    }


def job(sandbox: Sandbox, seconds: int) -> JSON:
    """The Job: the pod security standard `restricted`, no token, nothing to write but a small /tmp in memory."""
    if not (image := os.environ.get(IMAGE)):
        raise PrerequisiteError(f"{IMAGE} is not set: it names the project image, in which the programs run.")
    own = (own_pod(sandbox.cluster) or {}).get("spec", {})
    pull = {"imagePullSecrets": own["imagePullSecrets"]} if own.get("imagePullSecrets") else {}
    runtime = {"runtimeClassName": os.environ[RUNTIME_CLASS]} if os.environ.get(RUNTIME_CLASS) else {}
    container = {
        "name": CONTAINER,
        "image": image,
        "command": ["python", "-m", "components.sandbox.pod", f"{PROGRAMS}/{WANTED}"],
        "resources": {
            "requests": {"cpu": str(WORKERS), "memory": MEMORY},
            "limits": {"cpu": str(WORKERS), "memory": MEMORY},
        },
        "securityContext": confined(),
        "volumeMounts": [
            {"name": "programs", "mountPath": PROGRAMS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    spec = {
        **pull,
        **runtime,
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": unprivileged(),
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
