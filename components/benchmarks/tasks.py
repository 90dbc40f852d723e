"""lm-eval's own task definitions, read from the YAML files in its package.

Only the functions that scoring needs are imported: some aggregations download a pickle, and the tasks of programs run
a program on import.
"""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval

# the public TaskManager reads all definitions before it returns one
from lm_eval.tasks._yaml_loader import _import_fun_from_str, load_yaml

from quantgate.components.benchmarks import ruler
from quantgate.components.benchmarks.own_tasks import OwnTasks, check_trust, names_in
from quantgate.components.benchmarks.suites import SuiteTask
from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.prompt_settings import PromptSettings

FOLDER = Path(lm_eval.__file__).resolve().parent / "tasks"
GENERATED = "generated"
"""The metric of a program that is not run yet."""
STRUCTURE = ("metric_list", "tag", "group", "custom_dataset")
"""Keys that are read apart; the rows' own function is one, as its module may take minutes to load."""
MATH_IMPORT = re.compile(r"^\s*(?:import|from) (?:sympy|math_verify|antlr4)\b", re.MULTILINE)
GROUP_KEYS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}
INSTALL = "Install what lm-eval's tasks need: pip install 'quantgate[math,ruler]'"


@cache
def defined_names() -> dict[str, Path]:
    """The file of each task and group of lm-eval."""
    return {name: file for file in sorted(FOLDER.glob("**/*.yaml"), reverse=True) for name in names_in(file)}


@cache
def task_file(task: str, own: Path | None = None) -> Path:
    """The file that defines the task or group: one in the folder `own` or below, or else lm-eval's."""
    line = re.compile(rf"^\"?(?:task|group)\"?: *\"?{re.escape(task)}\"?$", re.MULTILINE)
    for folder in (own, FOLDER):
        for name in (f"{task}.yaml", f"_{task}.yaml", "*.yaml") if folder else ():
            for file in sorted(folder.glob(f"**/{name}")) if folder else ():
                if line.search(file.read_text(encoding="utf-8")):
                    return file
    raise ValueError(f"lm-eval {lm_eval.__version__} has no task {task!r}")


@cache
def leaf_files(task: str, own: Path | None = None) -> tuple[Path, ...]:
    """The files of a group's tasks, sorted by task name; for a single task, its own file."""
    file = task_file(task, own)
    content = load_yaml(file, resolve_func=False)
    if "group" not in content:
        return (file,)
    if content.keys() - GROUP_KEYS:
        raise ValueError(f"the group {task} gives its tasks other settings: name its tasks one by one")
    definitions = {path: load_yaml(path, resolve_func=False) for path in sorted(file.parent.glob("*.yaml"))}
    names, grown = {task}, True
    while grown:
        entries = [entry for entry in definitions.values() if entry.get("group") in names]
        member_names = {name for entry in entries for name in members(entry["task"], task)}
        grown = not names >= member_names
        names |= member_names
    leaves = {
        path: str(entry["task"])
        for path, entry in definitions.items()
        if isinstance(entry.get("task"), str) and not names.isdisjoint([entry["task"], *listed(entry.get("tag"))])
    }
    known = {name for entry in definitions.values() for name in (entry.get("group"), *listed(entry.get("tag")))}
    for name in sorted(names - known - set(leaves.values())):
        leaves |= {path: str(load_yaml(path, resolve_func=False)["task"]) for path in leaf_files(name, own)}
    return tuple(sorted(leaves, key=lambda path: leaves[path]))


def members(entries: Any, group: str) -> Iterator[str]:
    """The names in a group's list; raises ValueError for a member with settings of its own."""
    for entry in [entries] if isinstance(entries, str) else entries:
        if isinstance(entry, str):
            yield entry
        elif "group" in entry and not entry.keys() - GROUP_KEYS:
            yield from members(entry.get("task") or entry["group"], group)
        else:
            raise ValueError(f"the group {group} gives some of its tasks other settings: name its tasks one by one")


def listed(value: Any) -> list[str]:
    """A list of names; a YAML file may give one name instead of a list, or none."""
    return [value] if isinstance(value, str) else list(value or ())


def raw_definition(file: Path) -> dict[str, Any]:
    """The content of a task's file and of the files that it includes; functions are given by name."""
    return dict(load_yaml(file, resolve_func=False))


def raw_definitions(task: str, own: OwnTasks | None = None) -> list[dict[str, Any]]:
    """The raw definitions of a task, or of a group's tasks in the order of their names."""
    if ruler.length_of(task):
        return [raw_definition(task_file(name)) | ruler.changes(name, task) for name in ruler.TASKS]
    return [raw_definition(file) for file in leaf_files(task, own and own.folder)]


def definitions(task: str, own: OwnTasks | None = None) -> list[dict[str, Any]]:
    """As `raw_definitions`, as lm-eval's ConfigurableTask takes them.

    A function of a user's own file is loaded only if the file is trusted; `own_tasks.check` refuses it otherwise.
    """
    if ruler.length_of(task):
        return [definition(task_file(name)) | ruler.changes(name, task) for name in ruler.TASKS]
    files = leaf_files(task, own and own.folder)
    if not own:
        return [definition(file) for file in files]
    check_trust(files, own)
    trusted = own.folder if own.trusted else None
    return [definition(file, trusted if file.is_relative_to(own.folder) else FOLDER) for file in files]


def definition(file: Path, folder: Path | None = FOLDER) -> dict[str, Any]:
    """The task's configuration for lm-eval's ConfigurableTask, without its data; `folder` has its functions.

    Aggregations are replaced: a score here is the mean over the records. For a task of programs, the configuration only
    generates the programs.
    """
    raw = raw_definition(file)
    if raw.get("unsafe_code"):
        return generation_only(raw)
    config = {name: resolved(value, folder) for name, value in raw.items() if name not in STRUCTURE}
    if "metric_list" in raw:
        config["metric_list"] = [
            {
                name: unaggregated if name == "aggregation" and is_function(value, folder) else resolved(value, folder)
                for name, value in entry.items()
            }
            for entry in raw["metric_list"]
        ]
    return config


def generation_only(raw: dict[str, Any]) -> dict[str, Any]:
    """A task whose programs are neither run nor scored; importing lm-eval's own module would run some."""
    config = {name: compiled(value) for name, value in raw.items() if name not in ("metric_list", "tag")}
    config["metric_list"] = [{"metric": GENERATED, "aggregation": unaggregated, "higher_is_better": True}]
    return {**config, "unsafe_code": False, "process_results": not_run}


def is_function(value: Any, folder: Path | None = FOLDER) -> bool:
    """Whether a value of a YAML file is a function in that folder, written `!function`; never without a folder."""
    return folder is not None and isinstance(value, str) and value.startswith(f"{folder}/")


def is_path(value: Any) -> bool:
    """Whether a value of a raw definition is a function, written `!function`."""
    return isinstance(value, str) and value.startswith("/")


def needs_math(file: Path) -> bool:
    """Whether the functions of one of lm-eval's tasks need the packages of its extra `math`."""
    config = raw_definition(file)
    functions = filter(is_function, (*config.values(), *(config.get("fewshot_config") or {}).values()))
    modules = {Path(f"{function.rpartition('.')[0]}.py") for function in functions}
    return any(MATH_IMPORT.search(module.read_text(encoding="utf-8")) for module in modules if module.exists())


def resolved(value: Any, folder: Path | None = FOLDER) -> Any:
    """The value with the folder's functions in place of their names."""
    if isinstance(value, dict):
        return {name: resolved(entry, folder) for name, entry in value.items()}
    if isinstance(value, list):
        return [resolved(entry, folder) for entry in value]
    return function_named(value) if is_function(value, folder) else value


def generator(task: str) -> Callable[..., Any]:
    """lm-eval's function that makes the rows of a task, loaded with what it needs."""
    return resolved(raw_definition(task_file(task))["custom_dataset"])  # type: ignore[no-any-return]


def function_named(name: str) -> Any:
    """The function; raises PrerequisiteError for one whose module lacks a package, or that does not exist."""
    try:
        return _import_fun_from_str(name)
    except (ModuleNotFoundError, AssertionError) as error:  # lm-eval asserts the version of a package
        raise PrerequisiteError(
            f"{name} needs a package that is not installed, or another version of it ({error}). {INSTALL}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise PrerequisiteError(f"{name}: {error}. Correct the name of the function, or its file.") from error


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


def task_version(task: str, own: OwnTasks | None = None) -> str:
    """The task's version and lm-eval's version, and the digest of a user's own definitions."""
    metadata = raw_definitions(task, own)[0].get("metadata") or {}
    digest = f", own tasks sha256 {own.digest[:12]}" if own else ""
    return f"{metadata.get('version', 'none')} of lm-eval {lm_eval.__version__}{digest}"


def prompt_settings(row: SuiteTask, config: dict[str, Any], chat_template: bool) -> PromptSettings:
    """The settings of the task's prompts and answers; `config` is lm-eval's definition of the task."""
    generation = config.get("generation_kwargs")
    return PromptSettings(
        chat_template=chat_template, generation=(generation,) if generation else (), filter=row.filter
    )
