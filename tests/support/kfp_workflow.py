"""What the stand-in for Kubeflow Pipelines answers about a run's tasks: the list of tasks, and the Argo workflow.

As in Kubeflow Pipelines 2.17: the list names a task by its display name alone, once for each iteration of a loop, and
has neither an error nor a pod. The workflow has the nodes of kfp's drivers, of the loop's iterations and of the pods.
"""

import json
import zlib
from typing import Any

JSON = dict[str, Any]
NAME = "quantgate-ship-x7k2p"
PHASES = {"RUNNING": "Running", "SUCCEEDED": "Succeeded", "FAILED": "Failed", "SKIPPED": "Omitted"}
BEGAN, ENDED = "2026-11-21T10:00:00Z", "2026-11-21T10:01:05Z"
TEMPLATE = "metadata-0-2-system-container-impl"


def path_of(task: str) -> str:
    """The node's name of a task; `quantize 2` is that of the second variant."""
    step, _, number = task.partition(" ")
    if not number:
        return f"{NAME}.root.{step}"
    iteration = int(number) - 1
    return f"{NAME}.root.for-loop-1.iteration-iterations({iteration}:{iteration}).iteration-item.{step}"


def node(name: str, kind: str, phase: str, template: str, message: str = "") -> JSON:
    """A node of the workflow."""
    ended = {} if phase in ("Running", "Pending") else {"finishedAt": ENDED}
    return {
        "id": f"{NAME}-{zlib.crc32(name.encode())}",
        "name": name,
        "displayName": name.rpartition(".")[2],
        "type": kind,
        "templateName": template,
        "phase": phase,
        "startedAt": BEGAN,
        **ended,
        **({"message": message} if message else {}),
    }


def nodes_of(tasks: dict[str, str]) -> list[JSON]:
    """The nodes of the tasks, whose outcomes are like `RUNNING` or `FAILED: OOMKilled`."""
    nodes = []
    for task, outcome in tasks.items():
        state, _, message = outcome.partition(": ")
        path = path_of(task)
        if state == "PENDING":
            nodes.append(node(f"{path}-driver", "Pod", "Running", "system-container-driver"))
            continue
        nodes.append(node(path, "DAG", PHASES[state], "system-container-executor"))
        if state != "SKIPPED":
            nodes.append(node(f"{path}-driver", "Pod", "Succeeded", "system-container-driver"))
            nodes.append(node(f"{path}.executor", "Pod", PHASES[state], TEMPLATE, message))
    return nodes


def workflow(tasks: dict[str, str], *, terminated: bool) -> str:
    """The workflow as JSON text."""
    spec = {"activeDeadlineSeconds": 0} if terminated else {}
    nodes = {workflow_node["id"]: workflow_node for workflow_node in nodes_of(tasks)}
    return json.dumps({"metadata": {"name": NAME, "namespace": "team"}, "spec": spec, "status": {"nodes": nodes}})


def task_details(tasks: dict[str, str]) -> list[JSON]:
    """The tasks in the list of the v2beta1 API."""
    phases = {phase: state for state, phase in PHASES.items()}
    return [
        {"display_name": workflow_node["displayName"], "state": phases[workflow_node["phase"]]}
        for workflow_node in nodes_of(tasks)
    ]


def pod_of(task: str) -> str:
    """The name of the pod with the task's log."""
    return f"{NAME}-{TEMPLATE}-{zlib.crc32(f'{path_of(task)}.executor'.encode())}"
