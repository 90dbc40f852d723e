"""lm-eval's own task definitions, read from the YAML files in its package.

Only the functions that scoring needs are imported: some aggregations download a pickle, and the tasks of programs run
a program on import.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval

# the public TaskManager reads all definitions before it returns one
from lm_eval.tasks._yaml_loader import _import_fun_from_str, load_yaml

from components.benchmarks.suites import SuiteTask
from components.run.prompt_settings import PromptSettings

FOLDER = Path(lm_eval.__file__).resolve().parent / "tasks"
GENERATED = "generated"
"""The metric of a program that is not run yet."""


@cache
def task_file(task: str) -> Path:
    """The file in which lm-eval defines the task or group: files of that name are searched first, then all."""
    line = re.compile(rf"^\"?(?:task|group)\"?: \"?{re.escape(task)}\"?$", re.MULTILINE)
    for name in (f"{task}.yaml", f"_{task}.yaml", "*.yaml"):
        for file in sorted(FOLDER.glob(f"**/{name}")):
            if line.search(file.read_text(encoding="utf-8")):
                return file
    raise ValueError(f"lm-eval {lm_eval.__version__} has no task {task!r}")


@cache
def leaf_files(task: str) -> tuple[Path, ...]:
    """The files of a group's tasks, sorted by task name; for a single task, its own file."""
    file = task_file(task)
    if "group" not in load_yaml(file, resolve_func=False):
        return (file,)
    definitions = {path: load_yaml(path, resolve_func=False) for path in sorted(file.parent.glob("*.yaml"))}
    names, grown = {task}, True
    while grown:
        members = [
            name for entry in definitions.values() if entry.get("group") in names for name in listed(entry["task"])
        ]
        grown = not names >= set(members)
        names |= set(members)
    leaves = [
        path
        for path, entry in definitions.items()
        if isinstance(entry.get("task"), str) and not names.isdisjoint([entry["task"], *listed(entry.get("tag"))])
    ]
    return tuple(sorted(leaves, key=lambda path: str(definitions[path]["task"])))


def listed(value: Any) -> list[str]:
    """A list of names; a YAML file may give one name instead of a list, or none."""
    return [value] if isinstance(value, str) else list(value or ())


def raw_definition(file: Path) -> dict[str, Any]:
    """The content of a task's file and of the files that it includes; functions are given by name."""
    return dict(load_yaml(file, resolve_func=False))


def definition(file: Path) -> dict[str, Any]:
    """The task's configuration for lm-eval's ConfigurableTask, without its data.

    Aggregations are replaced: a score here is the mean over the records. For a task of programs, the configuration only
    generates the programs.
    """
    raw = raw_definition(file)
    if raw.get("unsafe_code"):
        return generation_only(raw)
    config = {name: resolved(value) for name, value in raw.items() if name not in ("metric_list", "tag", "group")}
    if "metric_list" in raw:
        config["metric_list"] = [
            {name: unaggregated if is_function(value) else value for name, value in entry.items()}
            for entry in raw["metric_list"]
        ]
    return config


def generation_only(raw: dict[str, Any]) -> dict[str, Any]:
    """A task whose programs are neither run nor scored; importing lm-eval's own module would run some."""
    config = {name: compiled(value) for name, value in raw.items() if name not in ("metric_list", "tag")}
    config["metric_list"] = [{"metric": GENERATED, "aggregation": unaggregated, "higher_is_better": True}]
    return {**config, "unsafe_code": False, "process_results": not_run}


def is_function(value: Any) -> bool:
    """Whether a value of a YAML file is one of lm-eval's functions, written `!function`."""
    return isinstance(value, str) and value.startswith(f"{FOLDER}/")


def resolved(value: Any) -> Any:
    """The value with lm-eval's functions in place of their names."""
    if isinstance(value, dict):
        return {name: resolved(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [resolved(entry) for entry in value]
    return _import_fun_from_str(value) if is_function(value) else value


def compiled(value: Any) -> Any:
    """As `resolved`, but each function is compiled by itself: the rest of its module does not run."""
    if isinstance(value, dict):
        return {name: compiled(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [compiled(entry) for entry in value]
    if not is_function(value):
        return value
    module, _, name = value.rpartition(".")
    source = ast.parse(Path(f"{module}.py").read_text(encoding="utf-8"))
    node = next(entry for entry in source.body if isinstance(entry, ast.FunctionDef) and entry.name == name)
    scope: dict[str, Any] = {"re": re}
    exec(compile(ast.Module([node], type_ignores=[]), f"{module}.py", "exec"), scope)
    return scope[name]


def unaggregated(_items: Any) -> float:
    """Replaces an aggregation that is not used."""
    return 0.0


def not_run(_doc: Any, _results: Any) -> dict[str, float]:
    """The metrics of a program that is not run yet."""
    return {GENERATED: 0.0}


def task_version(task: str) -> str:
    """The task's version and lm-eval's version."""
    metadata = load_yaml(leaf_files(task)[0], resolve_func=False).get("metadata") or {}
    return f"{metadata.get('version', 'none')} of lm-eval {lm_eval.__version__}"


def prompt_settings(row: SuiteTask, config: dict[str, Any], chat_template: bool) -> PromptSettings:
    """The settings of the task's prompts and answers; `config` is lm-eval's definition of the task."""
    generation = config.get("generation_kwargs")
    return PromptSettings(
        chat_template=chat_template, generation=(generation,) if generation else (), filter=row.filter
    )
