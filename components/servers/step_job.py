"""A Job on a cluster that a step creates, watches to its end and deletes.

    Lease owns Job -> Pod, and what else the Job needs

The step reads the Job's results from its pod's log. Then it deletes the Lease, and the cluster deletes the objects that
the Lease owns. If the step is killed, the reaper deletes the Lease after LEASE_S without a renewal. The step does not
wait for an earlier attempt's Job: it deletes it, and starts a new one.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from quantgate.components.errors import PrerequisiteError, ServerGoneError
from quantgate.components.kubernetes import cluster_lease
from quantgate.components.kubernetes.cluster_client import JOB, JSON, LEASE, POD, ClusterClient, ObjectKind
from quantgate.components.kubernetes.labels import INSTANCE, MANAGED_BY, MANAGER, NO_SIDECAR
from quantgate.components.kubernetes.owner import reference, workflow
from quantgate.components.servers import objects
from quantgate.components.servers.why_not_ready import LOG_LINES, why_not_ready, with_log

LEASE_S, POLL_S = 1800, 5.0
LAST_READS = 12
"""Of a complete Job's log, if results are missing from it."""
START_WITHIN_S, GONE_WITHIN_S = 1800, 300
"""Deadlines for the pod to start, and for an earlier attempt's objects to disappear."""


@dataclass(frozen=True)
class StepJob:
    """One Job of a step."""

    cluster: ClusterClient
    name: str
    """The same in each attempt of the step, to find an earlier one's objects."""
    labels: dict[str, str]
    """Of all its objects."""
    container: str
    """The container whose log has the results."""
    work: str
    """What it does, for messages: `runs the programs`."""

    @property
    def title(self) -> str:
        """The Job as the subject of a message."""
        return f"The Job {self.name}, which {self.work},"

    def body(self, spec: JSON, seconds: float, retries: int = 0) -> JSON:
        """The Job whose pod has that spec, may work so many seconds, and is replaced so often if it fails."""
        labels = {**self.labels, INSTANCE: self.name, **NO_SIDECAR}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name, "labels": self.labels},
            "spec": {
                "backoffLimit": retries,
                "activeDeadlineSeconds": START_WITHIN_S + int(seconds),
                "template": {"metadata": {"labels": labels}, "spec": {**spec, "restartPolicy": "Never"}},
            },
        }


def run(
    job: StepJob, owned: Sequence[tuple[ObjectKind, JSON]], read: Callable[[str, list[str]], bool], lines: int
) -> None:
    """Create the objects, watch the Job to its end, and delete all of them.

    `read` gets the pod's uid and the last lines of its log, more than `lines` of them; it returns whether they have all
    results. It may never do so: a log can be cut. Raises PrerequisiteError with the reason if the Job fails.
    """
    lease = create(job, LEASE, lease_of(job))
    try:
        with cluster_lease.renewing(job.cluster, job.name):
            owner = {"ownerReferences": [reference(lease)]}
            for kind, body in owned:
                create(job, kind, body | {"metadata": body["metadata"] | owner})
            follow(job, read, lines + LOG_LINES)
    except ServerGoneError as error:
        raise PrerequisiteError(
            f"{job.title} was removed from the namespace {job.cluster.namespace} while it ran: by a second attempt of "
            "this step, by the reaper after half an hour without the API, or by somebody. Run the step again."
        ) from error
    finally:
        remove(job, lease)


def lease_of(job: StepJob) -> JSON:
    """The Lease that owns the other objects and limits how long they stay."""
    now = cluster_lease.timestamp(datetime.now(UTC))
    return objects.lease(job.name, job.labels, now, LEASE_S, workflow(job.cluster))


def remove(job: StepJob, lease: JSON) -> None:
    """Delete the lease and with it the objects that it owns; if the API refuses, the reaper does so later."""
    try:
        job.cluster.delete(LEASE, job.name, uid=lease["metadata"]["uid"])
    except PrerequisiteError as error:
        print(f"quantgate: the Job {job.name} was not removed ({error}); it is removed when its lease ends.")


def create(job: StepJob, kind: ObjectKind, body: JSON) -> JSON:
    """Create the object, after an earlier attempt's object of that name is gone."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (created := job.cluster.create(kind, body)) is None:
        existing = job.cluster.get(kind, job.name)
        if existing and existing["metadata"].get("labels", {}).get(MANAGED_BY) != MANAGER:
            raise PrerequisiteError(
                f"{kind} {job.name} in the namespace {job.cluster.namespace} is not quantgate's. Delete it."
            )
        if existing and kind is LEASE:
            job.cluster.delete(LEASE, job.name, uid=existing["metadata"]["uid"])
        if time.monotonic() > deadline:
            raise PrerequisiteError(
                f"{kind} {job.name} of an earlier attempt still exists after {GONE_WITHIN_S} s. Check what "
                "blocks its deletion: its finalizers, or a garbage collector that does not run."
            )
        time.sleep(POLL_S)
    return created


def follow(job: StepJob, read: Callable[[str, list[str]], bool], lines: int) -> None:
    """Read the pod's log until the Job is complete and the log has all results, or lacks some for good."""
    began, started, complete, reads_left = time.monotonic(), False, False, LAST_READS
    while True:
        current = job.cluster.get(JOB, job.name)
        if current is None or "deletionTimestamp" in current["metadata"]:
            raise ServerGoneError(f"The Job {job.name} is gone.")
        conditions = {condition["type"]: condition for condition in current.get("status", {}).get("conditions", ())}
        over = {"Complete", "Failed"} & {name for name, value in conditions.items() if value["status"] == "True"}
        pod = newest(job)
        phase = pod.get("status", {}).get("phase", "Pending") if pod else "Pending"
        if pod and phase != "Pending":
            started = True
            log = job.cluster.log(pod["metadata"]["name"], job.container, lines, previous=False)
            complete = read(pod["metadata"]["uid"], log)
        if "Failed" in over:
            raise PrerequisiteError(failed(job, conditions["Failed"], pod))
        if over and (complete or not reads_left):
            return
        reads_left -= bool(over)  # the node may not serve the log for a moment
        if not over and not started:
            check_start(job, current, began)
        time.sleep(POLL_S)


def check_start(job: StepJob, current: JSON, began: float) -> None:
    """Raise PrerequisiteError with the reason for a pod that cannot start, or did not in time."""
    reason = why_not_ready(job.cluster, current, f"{INSTANCE}={job.name}", job.container, less="")
    if reason.final:
        raise PrerequisiteError(f"{job.title} cannot start: {reason.text}")
    if time.monotonic() - began > START_WITHIN_S:
        raise PrerequisiteError(f"{job.title} did not start in {START_WITHIN_S} s: {reason.text}")


def newest(job: StepJob) -> JSON | None:
    """The Job's newest pod: the Job creates another one after its node dies. None without a pod."""
    pods, _ = job.cluster.listed(POD, labels=f"{INSTANCE}={job.name}")
    return max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def failed(job: StepJob, condition: JSON, pod: JSON | None) -> str:
    """Why the Job failed, with the last lines of the container that ended with an error."""
    message = f"{job.title} failed: {condition.get('reason', '')}: {condition.get('message', '')}"
    if pod is None:
        return message
    status = pod.get("status", {})
    containers = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    ends = {entry["name"]: entry.get("state", {}).get("terminated") or {} for entry in containers}
    name = next((name for name, end in ends.items() if end.get("exitCode")), job.container)
    if end := ends.get(name):
        message += f" Its container {name} ended with status {end['exitCode']} ({end.get('reason')})."
    return with_log(message, name, job.cluster.log(pod["metadata"]["name"], name, LOG_LINES, previous=False))
