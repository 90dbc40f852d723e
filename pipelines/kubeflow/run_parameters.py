"""Check the parameters of a run on a cluster."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from quantgate.components.benchmarks import selection
from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.planned_flows import check_flows, planned_flow_tasks
from quantgate.components.models.sources import check_source
from quantgate.components.policies.policy import check_use_case, chosen
from quantgate.components.resolve.checks import check_power, check_speed
from quantgate.components.resolve.cluster_places import check_locations
from quantgate.components.resolve.run_settings import DEFAULT_PLACES, PLACES
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.tracking.connect import check_host, check_no_password

if TYPE_CHECKING:
    from quantgate.pipelines.kubeflow.runs import PipelineFile


def check(model: str, plan: EvaluationPlan) -> None:
    """Raise PrerequisiteError for parameters that every step refuses, or that do not work on another machine.

    An empty store, results or tracking URI is the cluster's own, which the step `resolve` reads.
    """
    check_locations(model, plan)
    check_source(model)
    plan.failing_verdicts  # noqa: B018 - raises for an unknown verdict
    limits = chosen(plan.use_case, plan.policy)
    check_flows(plan)
    check_use_case(limits, [*(task.task for task in selection.suite_of(plan).tasks), *planned_flow_tasks(plan)])
    check_speed(plan, limits)
    if find_spec("scipy"):  # resolve checks it too, for a client without the gate's packages
        check_power(plan)
    if plan.tracking_uri:
        check_no_password(plan.tracking_uri)
        check_host(plan.tracking_uri)


def results_of(parameters: Mapping[str, Any]) -> str:
    """Where the results of a run with these parameters go.

    By default that is the cluster's own place, which its pods know, or the place of a cluster that sets none.
    """
    given = parameters.get("settings", {}).get("results")
    return str(given or os.environ.get(PLACES["results"]) or DEFAULT_PLACES["results"])


def checked(file: "PipelineFile", parameters: dict[str, object]) -> "PipelineFile":
    """The file; raises PrerequisiteError when it lacks a parameter, as a file of another version does."""
    if unknown := sorted(parameters.keys() - file.parameters):
        raise PrerequisiteError(
            f"{file.file} has no parameter {', '.join(unknown)}. Write it again: quantgate compile."
        )
    return file
