"""lm-eval's own definitions of its tasks, as they lie in its package.

Nothing of them is resolved that the scoring here does not need: some aggregations fetch a pickle, and the tasks of
programs run one when they are imported.
"""

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval

# the public way to a task's definition goes through a TaskManager that has read all of them
from lm_eval.tasks._yaml_loader import _import_fun_from_str, load_yaml

FOLDER = Path(lm_eval.__file__).resolve().parent / "tasks"
GENERATED = "generated"
"""The metric of a program that is not run yet."""


@cache
def task_file(task: str) -> Path:
    """Where lm-eval defines the task or group, by most files' names and by what stands in them."""
    line = re.compile(rf"^\"?(?:task|group)\"?: \"?{re.escape(task)}\"?$", re.MULTILINE)
    for name in (f"{task}.yaml", f"_{task}.yaml", "*.yaml"):
        for file in sorted(FOLDER.glob(f"**/{name}")):
            if line.search(file.read_text(encoding="utf-8")):
                return file
    raise ValueError(f"lm-eval {lm_eval.__version__} has no task {task!r}")


@cache
def leaf_files(task: str) -> tuple[Path, ...]:
    """The files of the tasks that a group consists of, sorted by their tasks' names; of a task its own."""
    file = task_file(task)
    if "group" not in load_yaml(file, resolve_func=False):
        return (file,)
    beside = {each: load_yaml(each, resolve_func=False) for each in sorted(file.parent.glob("*.yaml"))}
    wanted, grown = {task}, True
    while grown:
        named = [name for found in beside.values() if found.get("group") in wanted for name in listed(found["task"])]
        grown = not wanted >= set(named)
        wanted |= set(named)
    leaves = [
        each
        for each, found in beside.items()
        if isinstance(found.get("task"), str) and not wanted.isdisjoint([found["task"], *listed(found.get("tag"))])
    ]
    return tuple(sorted(leaves, key=lambda each: str(beside[each]["task"])))


def listed(value: Any) -> list[str]:
    """What a YAML file gives as one name or as a list of names."""
    return [value] if isinstance(value, str) else list(value or ())


def raw_definition(file: Path) -> dict[str, Any]:
    """What stands in a task's file and those that it includes, functions by their names."""
    return dict(load_yaml(file, resolve_func=False))


def definition(file: Path) -> dict[str, Any]:
    """The task in the file for lm-eval's ConfigurableTask, without its data.

    Aggregations are left out: a score here is the mean over the records. A task of programs is made one that only
    writes them.
    """
    raw = raw_definition(file)
    if raw.get("unsafe_code"):
        return only_written(raw)
    found = {name: resolved(value) for name, value in raw.items() if name not in ("metric_list", "tag", "group")}
    if "metric_list" in raw:
        found["metric_list"] = [
            {name: unaggregated if is_function(value) else value for name, value in entry.items()}
            for entry in raw["metric_list"]
        ]
    return found


def only_written(raw: dict[str, Any]) -> dict[str, Any]:
    """A task of programs that are neither run nor scored; lm-eval's own module of it would run some on import."""
    found = {name: alone(value) for name, value in raw.items() if name not in ("metric_list", "tag")}
    found["metric_list"] = [{"metric": GENERATED, "aggregation": unaggregated, "higher_is_better": True}]
    return {**found, "unsafe_code": False, "process_results": not_run}


def is_function(value: Any) -> bool:
    """Whether a value of a YAML file is one of lm-eval's functions, written `!function`."""
    return isinstance(value, str) and value.startswith(f"{FOLDER}/")


def resolved(value: Any) -> Any:
    """The value with lm-eval's functions in place of their names."""
    if isinstance(value, dict):
        return {name: resolved(each) for name, each in value.items()}
    if isinstance(value, list):
        return [resolved(each) for each in value]
    return _import_fun_from_str(value) if is_function(value) else value


def alone(value: Any) -> Any:
    """As `resolved`, each function compiled by itself, without what else its module does."""
    if isinstance(value, dict):
        return {name: alone(each) for name, each in value.items()}
    if isinstance(value, list):
        return [alone(each) for each in value]
    if not is_function(value):
        return value
    module, _, name = value.rpartition(".")
    source = ast.parse(Path(f"{module}.py").read_text(encoding="utf-8"))
    node = next(each for each in source.body if isinstance(each, ast.FunctionDef) and each.name == name)
    scope: dict[str, Any] = {"re": re}
    exec(compile(ast.Module([node], type_ignores=[]), f"{module}.py", "exec"), scope)
    return scope[name]


def unaggregated(_items: Any) -> float:
    """In place of an aggregation that is not used."""
    return 0.0


def not_run(_doc: Any, _results: Any) -> dict[str, float]:
    """The metrics of a program that is not run yet."""
    return {GENERATED: 0.0}


def task_version(task: str) -> str:
    """lm-eval's version of the task, with its own version number."""
    metadata = load_yaml(leaf_files(task)[0], resolve_func=False).get("metadata") or {}
    return f"{metadata.get('version', 'none')} of lm-eval {lm_eval.__version__}"


def settings_text(found: dict[str, Any], chat_template: bool) -> str:
    """How the task's prompts are wrapped and its texts generated, as JSON; empty where there is nothing to tell."""
    told = dict(found.get("generation_kwargs") or {})
    if chat_template:
        told["chat_template"] = True
    return json.dumps(told, sort_keys=True, default=str) if told else ""
