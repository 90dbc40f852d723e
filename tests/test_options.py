"""Every option of a run is declared once, and the command line and the pipeline repeat it correctly."""

import inspect

import pytest
from typer.testing import CliRunner

from components.models.variants import QUANTIZED
from components.resolve.component import resolve
from components.run.plan import EvaluationPlan
from pipelines.cli.app import app
from pipelines.kubeflow.run_parameters import RESULTS, STORE
from pipelines.options import OPTIONS, PLAN_OPTIONS, plan_of
from pipelines.ship import ship

AS_THE_PIPELINE_HOLDS_THEM = {
    "variants": QUANTIZED,
    "custom": [],
    "policy": "",
    "store": STORE,
    "results": RESULTS,
}
"""Defaults that have another form on the command line, or that only a cluster has."""


def test_the_pipelines_parameters_are_the_options_with_their_defaults() -> None:
    parameters = inspect.signature(ship.pipeline_func).parameters
    expected = {name: option.default for name, option in OPTIONS.items()} | AS_THE_PIPELINE_HOLDS_THEM
    assert {name: parameter.default for name, parameter in parameters.items()} == expected


def test_the_pipelines_parameters_are_described_by_the_options_help() -> None:
    described = {name: spec.description for name, spec in ship.component_spec.inputs.items()}
    assert described == {name: option.help for name, option in OPTIONS.items()}


def test_the_first_shell_takes_every_option_of_the_plan() -> None:
    parameters = inspect.signature(resolve.python_func).parameters  # type: ignore[attr-defined]
    assert PLAN_OPTIONS.keys() <= parameters.keys()
    own = {"model", "run_id", "tracking_uri", "baseline", "plan"}
    assert parameters.keys() == PLAN_OPTIONS.keys() | own


@pytest.mark.parametrize(
    ("command", "lacking"), [("run", {"results", "fail_run_on"}), ("submit", set()), ("schedule", set())]
)
def test_a_command_that_starts_runs_has_every_option(command: str, lacking: set[str]) -> None:
    help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert {name for name in OPTIONS if f"--{name.replace('_', '-')}" not in help_text} == lacking


def test_options_default_to_the_plans_values() -> None:
    plan = plan_of({"variants": "int8, int4-g64", "store": "store", "results": "results"})
    assert plan == EvaluationPlan(variants=("int8", "int4-g64"), store="store", results="results")
