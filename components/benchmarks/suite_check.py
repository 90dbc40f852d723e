"""Check a suite file against lm-eval's definitions, and complete what it leaves to them."""

from collections.abc import Iterator
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, get_metric_aggregation, metric_registry

from quantgate.components.benchmarks import ruler, tasks
from quantgate.components.benchmarks.own_tasks import OwnTasks, check_trust, check_yaml, names_in, own_tasks
from quantgate.components.benchmarks.suite_file import FileTask, SuiteFile, with_files
from quantgate.components.benchmarks.suites import HUMANEVAL, MBPP, Suite
from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.yaml_file import Where, fault

Definition = dict[str, Any]
PERPLEXITIES = ("word_perplexity", "byte_perplexity")
FOR_GENERATED = ("chat", "samples", "temperature", "max_tokens")
"""Keys of a task whose answers the model writes."""
PROGRAMS = {task.task: task for task in (HUMANEVAL, MBPP)}
NEED_MATH = ("math_verify", "antlr4", "sympy")
NEED_RULER = ("wonderwords",)


class UnfitError(ValueError):
    """A value of a suite file does not fit lm-eval's definition: the key, and what is allowed."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def completed(suite: str, *, trusted: bool) -> str:
    """The plan's suite, its files checked and complete; raises PrerequisiteError with file, line and what is allowed.

    Of a task that a file leaves without metric, filter, shots or chance level, lm-eval's definition says them, if it
    says one. No function of the user's own is loaded.
    """
    return with_files(suite, partial(completed_file, trusted=trusted))


def completed_file(file: SuiteFile, text: str, path: str, *, trusted: bool) -> SuiteFile:
    """The suite file with each task complete and an absolute `include_path`."""
    location = file.include_path
    if location and "://" not in location:
        location = str((Path(path).parent / location.removeprefix("file:")).absolute())
    own = own_tasks(location, trusted) if location else None
    if own:
        check_own(own, partial(fault, text, path, ("include_path",)))
    complete: list[FileTask] = []
    for number, task in enumerate(file.tasks):
        where: Where = ("tasks", number)
        try:
            if task.task in {earlier.task for earlier in complete}:
                raise UnfitError("task", f"{task.task} is given twice")
            complete.append(completed_task(task, own))
        except UnfitError as error:
            raise fault(text, path, (*where, error.key), f"{error.key}: {error}") from error
    return file.model_copy(update={"tasks": tuple(complete), "include_path": location})


def check_own(own: OwnTasks, refusal: Any) -> None:
    """Raise PrerequisiteError for a folder whose YAML is faulty, or takes the name of one of lm-eval's tasks."""
    for file in (path for name, path in own.files().items() if name.endswith(".yaml")):
        check_yaml(file)
        if taken := sorted(set(names_in(file)) & tasks.defined_names().keys()):
            raise refusal(f"{file} defines {taken[0]}, which is a task of lm-eval. Give it another name")


def completed_task(task: FileTask, own: OwnTasks | None) -> FileTask:
    """The task with its metric, filter, shots and chance level; raises UnfitError for what does not fit."""
    definitions = definitions_of(task.task, own)
    generated = all(definition.get("output_type", "generate_until") == "generate_until" for definition in definitions)
    check_generation(task, generated)
    if task.task in PROGRAMS:
        row = PROGRAMS[task.task]
        given = task.model_dump(exclude_none=True, exclude_defaults=True)
        fixed: dict[str, Any] = {"metric": row.metric, "filter": row.filter, "shots": row.shots, "chance": 0.0}
        for key in fixed.keys() & given.keys():
            if given[key] != fixed[key]:
                raise UnfitError(key, f"{given[key]} is not allowed: programs are scored with {fixed[key]}")
        return task.model_copy(update=fixed | {"generated": None})
    if task.generated is not None and task.generated != generated:
        which = "writes" if generated else "chooses"
        raise UnfitError("generated", f"lm-eval's definition of {task.task} says that the model {which} the answers")
    shots = definitions[0].get("num_fewshot") or 0
    return task.model_copy(
        update={
            "metric": one_of("metric", task.metric, common(metrics_of(definition) for definition in definitions)),
            "filter": one_of("filter", task.filter, common(filters_of(definition) for definition in definitions)),
            "shots": shots if task.shots is None else task.shots,
            "chance": chance_of(definitions, generated) if task.chance is None else task.chance,
            "generated": None,
        }
    )


def check_generation(task: FileTask, generated: bool) -> None:
    """Raise UnfitError when the settings of generated answers are given for choices, or would have no effect."""
    given = task.model_dump(include=set(FOR_GENERATED), exclude_defaults=True)
    if given and not generated:
        key = next(key for key in FOR_GENERATED if key in given)
        raise UnfitError(key, f"only for generated answers, and the answers of {task.task} are scored, not generated")
    if task.samples > 1 and not task.temperature:
        raise UnfitError(
            "samples",
            f"{task.samples} samples at temperature 0 are {task.samples} times the same answer; give a temperature",
        )


def definitions_of(task: str, own: OwnTasks | None) -> list[Definition]:
    """The definitions of a task or group; raises UnfitError for an unknown one, or one that cannot be run here."""
    names = tasks.defined_names().keys() | (own.names if own else set())
    if task not in names and not ruler.length_of(task):
        close = get_close_matches(task, names, 5, cutoff=0.5) or sorted(own.names if own else ())[:5]
        known = f"a task or group of lm-eval ({len(names):,}), of include_path, or ruler_N with N tokens of context"
        raise UnfitError("task", f"{task} is unknown; allowed is {known}; like it: {', '.join(close) or 'none'}")
    try:
        if own and not ruler.length_of(task):
            check_trust((tasks.task_file(task, own.folder),), own)
            check_trust(tasks.leaf_files(task, own.folder), own)
        definitions = tasks.raw_definitions(task, own)
    except (ValueError, KeyError, TypeError) as error:
        raise UnfitError("task", str(error)) from error
    for definition in definitions:
        if why := unsupported(definition, task):
            raise UnfitError("task", f"{definition.get('task', task)} {why}")
    return definitions


def unsupported(definition: Definition, task: str) -> str:
    """Why a task cannot be run here; empty when it can."""
    data = definition.get("dataset_kwargs") or {}
    reasons = {
        "is a Python class, and not a definition": "class" in definition,
        "makes its rows with a function; of such tasks only ruler_N is supported": "custom_dataset" in definition
        and not ruler.length_of(task),
        "asks for programs; of such tasks only humaneval and mbpp are supported": definition.get("unsafe_code")
        and task not in PROGRAMS,
        "shows pictures or sound": "doc_to_image" in definition or "doc_to_audio" in definition,
        "reads its prompt from another library (use_prompt)": "use_prompt" in definition,
        "asks each question several times (repeats)": definition.get("repeats", 1) != 1,
        "scores a text that is not a choice (output_type: loglikelihood)": definition.get("output_type")
        == "loglikelihood",
        "has a metric that the library `evaluate` would download": any(map(is_downloaded, metrics_in(definition))),
        "has no dataset_path": "dataset_path" not in definition,
        "has no test_split and no validation_split": not (
            definition.get("test_split") or definition.get("validation_split")
        ),
        "reads files of its own (dataset_kwargs); rows come from the hub or a mirror: put them in a folder and use "
        "`quantgate mirror --from`": bool({"data_files", "data_dir"} & data.keys()),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def metrics_in(definition: Definition) -> list[Definition]:
    """The entries of the task's list of metrics that lm-eval looks up by name."""
    return [] if "process_results" in definition else definition.get("metric_list") or []


def is_downloaded(entry: Definition) -> bool:
    """Whether the metric is none of lm-eval's: code from the hub would then compute it."""
    named = not tasks.is_path(entry["metric"])
    return bool(entry.get("hf_evaluate") or (named and entry["metric"] not in metric_registry))


def metrics_of(definition: Definition) -> list[str]:
    """The task's metrics that give each item one number from 0 to 1, or the perplexity of documents."""
    kind = definition.get("output_type", "generate_until")
    entries = definition.get("metric_list") or [{"metric": name} for name in DEFAULT_METRIC_REGISTRY[kind]]
    names = []
    for entry in entries:
        name = str(entry["metric"]).rpartition(".")[2]
        if kind == "loglikelihood_rolling":
            names += [name] if name in PERPLEXITIES else []
        elif is_mean(entry, name) and entry.get("higher_is_better", True):
            names.append(name)
    return names


def is_mean(entry: Definition, name: str) -> bool:
    """Whether the metric of all items is the mean of the items'; a function of the task's is taken for one."""
    if "aggregation" in entry:
        return entry["aggregation"] == "mean" or tasks.is_path(entry["aggregation"])
    return getattr(get_metric_aggregation(name), "__name__", "") == "mean"


def filters_of(definition: Definition) -> list[str]:
    """The names of the task's filters."""
    return [str(entry["name"]) for entry in definition.get("filter_list") or ()] or ["none"]


def common(lists: Iterator[list[str]]) -> list[str]:
    """The names that are in every list, in the order of the first."""
    first, *others = lists
    return [name for name in first if all(name in other for other in others)]


def one_of(key: str, value: str, allowed: list[str]) -> str:
    """The value, or the only allowed one for an empty value; raises UnfitError with the allowed ones."""
    if value in allowed:
        return value
    if not value and len(allowed) == 1:
        return allowed[0]
    choice = ", ".join(allowed) or "none: no metric of the task gives each item a number from 0 to 1"
    raise UnfitError(key, f"{value or 'it'} is {'unknown' if value else 'missing'}; allowed is {choice}")


def chance_of(definitions: list[Definition], generated: bool) -> float:
    """What guessing scores, where the definitions say how many choices there are; raises UnfitError elsewhere."""
    if generated or definitions[0].get("output_type") == "loglikelihood_rolling":
        return 0.0
    counts = {
        len(choices) if isinstance(choices := definition.get("doc_to_choice"), list) else 0
        for definition in definitions
    }
    if len(counts) == 1 and 0 not in counts:
        return 1 / counts.pop()
    raise UnfitError(
        "chance", "it is missing, and the items have different numbers of choices; give what guessing scores"
    )


def check_packages(suite: Suite) -> None:
    """Raise PrerequisiteError when a package that lm-eval's modules of these tasks import is not installed."""
    for task in suite.tasks:
        needed: tuple[str, ...] = ()
        if ruler.length_of(task.task):
            needed = NEED_RULER
        elif not task.custom and not task.own:
            needed = NEED_MATH if any(map(tasks.needs_math, tasks.leaf_files(task.task))) else ()
        if lacking := [name for name in needed if find_spec(name) is None]:
            raise PrerequisiteError(f"{task.task} needs {', '.join(lacking)}, which is not installed. {tasks.INSTALL}")
