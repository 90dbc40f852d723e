"""The tasks of a run, from the Argo workflow that Kubeflow keeps of it.

The v2beta1 API lists a run's tasks by their display names alone. So the three tasks `quantize` of a loop look the same
there, and no pod and no reason is named. The workflow, which the v1beta1 API returns with the run, has all of it: a
node's name is its path, with the number of the loop's iteration:

    WORKFLOW.root.for-loop-1.iteration-iterations(0:0).iteration-item.quantize.executor
"""

import base64
import gzip
import json
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kfp_server_api import ApiException

from quantgate.components.run.progress import DONE, FAILED, MARK, RUNNING, SKIPPED
from quantgate.pipelines.cluster import STEPS
from quantgate.pipelines.kubeflow.connection import ANSWER_S, Kubeflow

SEGMENT = re.compile(r"(?P<task>[\w-]+)(\((?P<number>\d+)(:[^)]*)?\))?")
LOG_ARTIFACT = "main-logs"
"""Argo's name of the log of a pod's main container, which Kubeflow has it keep in the object store."""
ITERATIONS, DRIVER, EXECUTOR = "iteration-iterations", "-driver", "executor"
POD = "Pod"
STATES = {
    "Running": RUNNING,
    "Succeeded": DONE,
    "Failed": FAILED,
    "Error": FAILED,
    "Skipped": SKIPPED,
    "Omitted": SKIPPED,
}
"""By the node's phase; a pending one has no state yet."""
STAGE = "evaluate-"
"""What the task's name has before the name of its events."""
NO_API = (400, 403, 404, 405, 410, 500, 501)
"""The answers of a Kubeflow that does not give the workflow or a log."""


@dataclass(frozen=True)
class RunTask:
    """One task of a run: a step, for one variant if it is in the loop."""

    step: str
    """The name of its events, e.g. `tiny`."""
    iteration: int | None
    """The number of the variant; None outside of the loop."""
    state: str
    began: float
    ended: float
    """Seconds since the epoch; 0 while it runs."""
    pod: str = ""
    """The pod with its log: the last attempt's."""
    message: str = ""
    """Argo's message, with the pod's termination message."""


@dataclass(frozen=True)
class Workflow:
    """A run's workflow."""

    namespace: str
    terminated: bool
    """Whether a person has terminated it: Kubeflow sets its deadline to zero seconds."""
    tasks: tuple[RunTask, ...]


def get_workflow(kubeflow: Kubeflow, run_id: str) -> Workflow | None:
    """The run's workflow; None before it has begun, and from a Kubeflow that does not give it."""
    answer = get(kubeflow, f"apis/v1beta1/runs/{run_id}", "show the run's workflow")
    try:
        manifest = json.loads(json.loads(answer)["pipeline_runtime"]["workflow_manifest"])
    except (ValueError, KeyError, TypeError):
        return None
    metadata, deadline = manifest["metadata"], manifest.get("spec", {}).get("activeDeadlineSeconds")
    return Workflow(metadata.get("namespace", ""), deadline == 0, tuple(tasks_of(manifest)))


def get_log(kubeflow: Kubeflow, run_id: str, pod: str, namespace: str, *, has_ended: bool) -> str:
    """The log of a task's pod: the pod's own, or the artifact that Argo keeps of it; empty when Kubeflow has neither.

    The pod's own log is an API of the server, and of the page, which passes on only the server's newer APIs. Where the
    pod is gone, the server answers with status 200 and its error as the text.
    """
    node = f"runs/{run_id}/nodes/{pod}"
    of_page = urllib.parse.urlencode({"podname": pod, "podnamespace": namespace, "runid": run_id})
    for path in (f"apis/v1alpha1/{node}/log", f"k8s/pod/logs?{of_page}"):
        log = get(kubeflow, path, "show a step's log").decode(errors="replace")
        if MARK in log:
            return log
    if not has_ended:
        return ""
    kept = get(kubeflow, f"apis/v2beta1/{node}/artifacts/{LOG_ARTIFACT}:read", "show a step's log")
    try:
        return base64.b64decode(json.loads(kept)["data"]).decode(errors="replace")
    except (ValueError, KeyError, TypeError):
        return ""


def get(kubeflow: Kubeflow, path: str, action: str) -> bytes:
    """Kubeflow's answer at a path that kfp's client has no method for; empty where Kubeflow does not give it."""
    with kubeflow.request(action):
        try:
            answer = kubeflow.client.runs.api_client.call_api(
                f"/{path}",
                "GET",
                auth_settings=["Bearer"],
                _return_http_data_only=True,
                _preload_content=False,
                _request_timeout=ANSWER_S,
            )
        except ApiException as refusal:
            if refusal.status not in NO_API:
                raise
            return b""
        return bytes(answer.data)


def tasks_of(manifest: dict[str, Any]) -> Iterator[RunTask]:
    """The tasks of the pipeline that have begun, in the pipeline's order; kfp's own are left out."""
    nodes: dict[tuple[int | None, str], list[tuple[str, dict[str, Any]]]] = {}
    for node in all_nodes(manifest).values():
        iteration, path = place_of(node["name"].removeprefix(manifest["metadata"]["name"]))
        for step in STEPS:
            if path[-1:] in ([step], [step + DRIVER]) or path[-2:] == [step, EXECUTOR]:
                nodes.setdefault((iteration, step), []).append((path[-1], node))
    for iteration, step in sorted(nodes, key=lambda key: (list(STEPS).index(key[1]), key[0] or 0)):
        if task := task_of(step, iteration, nodes[iteration, step], manifest):
            yield task


def all_nodes(manifest: dict[str, Any]) -> dict[str, Any]:
    """The workflow's nodes by their ids; Argo compresses them when the workflow is larger than 1 MB."""
    status = manifest.get("status", {})
    if compressed := status.get("compressedNodes"):
        return dict(json.loads(gzip.decompress(base64.b64decode(compressed))))
    return status.get("nodes") or {}


def place_of(name: str) -> tuple[int | None, list[str]]:
    """The number of the iteration, and the path's names without the numbers of attempts."""
    iteration, path = None, []
    for segment in name.strip(".").split("."):
        match = SEGMENT.fullmatch(segment)
        task, number = (match["task"], match["number"]) if match else (segment, None)
        if task == ITERATIONS and number is not None:
            iteration = int(number)
        path.append(task)
    return iteration, path


def task_of(
    step: str, iteration: int | None, nodes: list[tuple[str, dict[str, Any]]], manifest: dict[str, Any]
) -> RunTask | None:
    """The task from its nodes: kfp's driver, the task itself, and its pods; None before it begins."""
    drivers = [node for name, node in nodes if name == step + DRIVER]
    own = [node for name, node in nodes if name == step]
    pods = sorted(
        (node for name, node in nodes if name == EXECUTOR and node.get("type") == POD), key=lambda node: moment(node)
    )
    failed = [node for node in drivers if STATES.get(node.get("phase", "")) == FAILED and not pods]
    state = FAILED if failed else STATES.get(own[-1].get("phase", ""), RUNNING) if own else RUNNING
    first = min(filter(None, (moment(node) for _, node in nodes)), default=0.0)
    if not first and state == RUNNING:
        return None
    source = (failed or pods or own or drivers)[-1]
    own_log = source if source.get("type") == POD else None
    return RunTask(
        step=step.removeprefix(STAGE),
        iteration=iteration,
        state=state,
        began=first,
        ended=0.0 if state == RUNNING else moment((failed or own or [source])[-1], "finishedAt"),
        pod=pod_name(own_log, manifest) if own_log else "",
        message=source.get("message", ""),
    )


def pod_name(node: dict[str, Any], manifest: dict[str, Any]) -> str:
    """The name of the node's pod, which Argo makes of the workflow, the template and the end of the node's id."""
    metadata = manifest["metadata"]
    if metadata.get("annotations", {}).get("workflows.argoproj.io/pod-name-format") == "v1":
        return str(node["id"])
    return f"{metadata['name']}-{node['templateName']}-{node['id'].rpartition('-')[2]}"


def moment(node: dict[str, Any], key: str = "startedAt") -> float:
    """A time of the node in seconds since the epoch; 0 when it has none."""
    text = node.get(key)
    return datetime.fromisoformat(text).timestamp() if text else 0.0
