"""The tasks of a run, read from its Argo workflow."""

import base64
import gzip
import json

from quantgate.components.run.progress import DONE, FAILED, RUNNING, SKIPPED
from quantgate.pipelines.kubeflow.workflow import RunTask, place_of, tasks_of
from tests.support.kfp_workflow import JSON, NAME, TEMPLATE, node, path_of, pod_of, workflow


def manifest_of(*nodes: JSON) -> JSON:
    """A workflow with these nodes."""
    return {
        "metadata": {"name": NAME},
        "status": {"nodes": {workflow_node["id"]: workflow_node for workflow_node in nodes}},
    }


def states(tasks: dict[str, str]) -> list[tuple[str, int | None, str]]:
    """Step, iteration and state of the tasks, as read from the workflow."""
    manifest = json.loads(workflow(tasks, terminated=False))
    return [(task.step, task.iteration, task.state) for task in tasks_of(manifest)]


def test_a_loops_tasks_have_the_number_of_their_iteration() -> None:
    outcomes = {
        "gate": "FAILED: gone",
        "evaluate-tiny 2": "RUNNING",
        "quantize 2": "SUCCEEDED",
        "quantize 1": "SUCCEEDED",
        "execute 1": "SKIPPED",
        "resolve": "PENDING",
    }
    assert states(outcomes) == [
        ("resolve", None, RUNNING),
        ("quantize", 0, DONE),
        ("quantize", 1, DONE),
        ("tiny", 1, RUNNING),
        ("execute", 0, SKIPPED),
        ("gate", None, FAILED),
    ]


def test_nodes_that_argo_has_compressed_are_read() -> None:
    """As `file.CompressEncodeString` of Argo writes them, for a workflow of more than 1 MB."""
    manifest = json.loads(workflow({"gate": "RUNNING", "quantize 9": "SUCCEEDED"}, terminated=False))
    tasks = list(tasks_of(manifest))
    nodes = json.dumps(manifest["status"].pop("nodes")).encode()
    manifest["status"]["compressedNodes"] = base64.b64encode(gzip.compress(nodes)).decode()
    assert list(tasks_of(manifest)) == tasks
    assert [(task.step, task.iteration) for task in tasks] == [("quantize", 8), ("gate", None)]


def test_the_path_is_read_with_attempts_and_another_name_of_the_loop() -> None:
    path = ".root(0).variants.iteration-iterations(11:11)(0).iteration-item.quantize.executor(2)"
    assert place_of(path)[1][-2:] == ["quantize", "executor"]
    assert place_of(".root.variants.iteration-iterations(11:11).iteration-item.quantize")[0] == 11


def test_a_task_has_the_pod_and_the_message_of_its_last_attempt() -> None:
    path = path_of("gate")
    retries = node(f"{path}.executor", "Retry", "Running", TEMPLATE)
    first = node(f"{path}.executor(0)", "Pod", "Failed", TEMPLATE, "OOMKilled (exit code 137)")
    second = node(f"{path}.executor(1)", "Pod", "Running", TEMPLATE) | {"startedAt": "2026-11-21T10:05:00Z"}
    (task,) = tasks_of(manifest_of(node(path, "DAG", "Running", "executor"), retries, first, second))
    assert (task.state, task.message) == (RUNNING, "")
    assert task.pod == f"{NAME}-{TEMPLATE}-{second['id'].rpartition('-')[2]}"


def test_a_task_whose_driver_failed_has_failed_with_the_drivers_message() -> None:
    driver = node(f"{path_of('resolve')}-driver", "Pod", "Failed", "system-container-driver", "no ConfigMap")
    omitted = node(path_of("resolve"), "DAG", "Omitted", "system-container-executor")
    (task,) = tasks_of(manifest_of(driver, omitted))
    assert (task.state, task.message) == (FAILED, "no ConfigMap")
    assert task.pod == f"{NAME}-system-container-driver-{driver['id'].rpartition('-')[2]}"


def test_a_task_has_its_times_and_kfps_own_tasks_are_left_out() -> None:
    manifest = json.loads(workflow({"track": "SUCCEEDED", "root": "SUCCEEDED"}, terminated=False))
    began = 1795255200.0
    assert list(tasks_of(manifest)) == [RunTask("track", None, DONE, began, began + 65, pod_of("track"))]
