"""Run the programs in a Job on a cluster: its pod has no rights, no token, no network and nothing of value.

The step `execute` shares its pod with kfp's launcher, which needs the run's token, S3's keys and a network. So a
model's programs do not run there. The step runs a Job (components/servers/step_job.py) whose pod gets the programs from
a ConfigMap and prints how each ended (components/sandbox/pod.py).
"""

import base64
import gzip
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import CONFIG_MAP, JOB, JSON, ClusterClient
from quantgate.components.kubernetes.labels import MANAGED_BY, MANAGER, RUN
from quantgate.components.kubernetes.owner import own_pod, run_name
from quantgate.components.sandbox.containment import Limits, Outcome, Program
from quantgate.components.sandbox.judging_process import PATIENCE
from quantgate.components.sandbox.pod_outcomes import PROGRAMS, PROGRAMS_FILE, ReportedOutcomes, outcomes_in
from quantgate.components.servers import step_job
from quantgate.components.servers.cluster_settings import from_environment
from quantgate.components.servers.step_job import StepJob
from quantgate.components.servers.vllm_pod import Served, confined, unprivileged

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


def sandbox(cluster: ClusterClient, run: str, purpose: str) -> StepJob:
    """The Job that runs the programs of the variant `purpose` in the run of that name; no server's name begins so."""
    name = Served(run, f"run-{purpose}", "", ()).name
    return StepJob(cluster, name, labels(run, purpose), CONTAINER, "runs the programs")


def labels(run: str, purpose: str) -> dict[str, str]:
    """The labels of a sandbox's objects; not a server's label VARIANT, by which `undeploy` deletes objects."""
    return {MANAGED_BY: MANAGER, RUN: run, SANDBOX: purpose}


def run_in_job(
    programs: Sequence[Program], on_done: Callable[[int, Outcome], None], limits: Limits, purpose: str
) -> list[Outcome]:
    """Each program's outcome, in the given order; raises PrerequisiteError with the reason if there are none."""
    settings = from_environment()
    cluster = ClusterClient(settings.namespace, settings.ready_within_s)  # a cluster in trouble is waited out
    job = sandbox(cluster, run_name(cluster, ""), purpose)
    outcomes: dict[int, Outcome] = {}
    for first, packed, count in portions(programs, limits):

        def record(number: int, outcome: Outcome, first: int = first) -> None:
            outcomes[first + number] = outcome
            on_done(first + number, outcome)

        run_portion(job, packed, count, limits, record)
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
    job: StepJob, packed: bytes, count: int, limits: Limits, on_done: Callable[[int, Outcome], None]
) -> None:
    """Run one Job to its end, report each outcome once as it appears in the pod's log, and delete its objects."""
    reported = ReportedOutcomes()

    def read(pod: str, lines: list[str]) -> bool:
        for number, outcome in reported.fresh(pod, outcomes_in(lines, count)):
            on_done(number, outcome)
        return len(reported.all) == count

    body = job.body(pod_spec(job), count * PATIENCE * math.ceil(limits.seconds), RETRIES)
    step_job.run(job, [(CONFIG_MAP, config_map(job, packed)), (JOB, body)], read, count)
    if missing := count - len(reported.all):
        raise PrerequisiteError(
            f"The Job {job.name} ran {count} programs, and its log lacks the outcomes of {missing}: the log was "
            "cut or its pod removed too early. Run the step again."
        )


def config_map(job: StepJob, packed: bytes) -> JSON:
    """The ConfigMap with the programs."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": job.name, "labels": job.labels},
        "binaryData": {PROGRAMS_FILE: base64.b64encode(packed).decode("ascii")},
    }


def pod_spec(job: StepJob) -> JSON:
    """The Job's pod: the pod security standard `restricted`, no token, only a small /tmp in memory to write to."""
    if not (image := os.environ.get(IMAGE)):
        raise PrerequisiteError(f"{IMAGE} is not set: it names the project image, in which the programs run.")
    own_spec = (own_pod(job.cluster) or {}).get("spec", {})
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
    return {
        **pull,
        **runtime,
        **users,
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": unprivileged(),
        "initContainers": [fetcher],
        "containers": [container],
        "volumes": [
            {"name": "programs", "configMap": {"name": job.name}},
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": SCRATCH}},
        ],
    }
