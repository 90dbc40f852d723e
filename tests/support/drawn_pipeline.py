"""What Kubeflow's page shows of the compiled pipeline: its tasks, their pods and the names of their artifacts."""

import ast
from typing import Any

JSON = dict[str, Any]


def artifact_titles(spec: JSON) -> dict[tuple[str, str], str]:
    """The display name of each output artifact by its task and its key; "" for one without."""
    executors = spec["deploymentSpec"]["executors"]
    titles = {}
    for component, body in spec["components"].items():
        if "executorLabel" not in body:
            continue
        source = executors[body["executorLabel"]]["container"]["command"][-1]
        given = assigned_titles(source)
        for key in body.get("outputDefinitions", {}).get("artifacts", {}):
            titles[component.removeprefix("comp-"), key] = given.get(key, "")
    return titles


def assigned_titles(source: str) -> dict[str, str]:
    """What a component's source assigns to `metadata["display_name"]` of its artifacts."""
    assignments = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign)]
    pairs = [pair for node in assignments for pair in paired(node.targets[0], node.value)]
    return {
        ast.unparse(target).partition(".")[0]: str(value.value)
        for target, value in pairs
        if ast.unparse(target).endswith("metadata['display_name']") and isinstance(value, ast.Constant)
    }


def paired(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Each target of an assignment with its value."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]
