"""The evaluation plan from the pipeline's parameters, with the places that the cluster sets.

A run that is started from a form gives no places. On a cluster the variables below come from ConfigMaps
(pipelines/cluster.py): where weights and results go, and where MLflow is.
"""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.plan import SETTINGS, EvaluationPlan
from quantgate.components.run.results import run_location
from quantgate.components.tracking.connect import check_no_password
from quantgate.components.tracking.kubeflow_run import kubeflow_run
from quantgate.components.tracking.uris import own_store

PLACES = {"store": "QUANTGATE_STORE", "results": "QUANTGATE_RESULTS", "tracking_uri": "QUANTGATE_TRACKING_URI"}
"""The variable with the cluster's own value of a setting."""
DEFAULT_PLACES = {"store": "s3://mlpipeline/quantgate/store", "results": "s3://mlpipeline/quantgate/results"}
"""The places in the bucket of Kubeflow Pipelines, for a cluster that sets none."""


def plan_of(
    parameters: Mapping[str, Any],
    settings: Mapping[str, Any],
    run_id: str,
    *,
    promote: bool,
    environment: Mapping[str, str] = os.environ,
) -> EvaluationPlan:
    """The plan of the run; raises PrerequisiteError for an unknown setting, an invalid value or a missing MLflow.

    A setting is worth more than the cluster's own value, and that more than the MLflow of Kubeflow Pipelines' plugin.
    """
    if unknown := sorted(settings.keys() - set(SETTINGS)):
        raise PrerequisiteError(
            f"`settings` has the unknown key {', '.join(unknown)}. Its keys are: {', '.join(SETTINGS)}."
        )
    of_cluster = {name: environment.get(variable, "") for name, variable in PLACES.items()}
    places = {name: settings.get(name) or of_cluster[name] or DEFAULT_PLACES.get(name, "") for name in PLACES}
    if not places["tracking_uri"] and (parent := kubeflow_run(environment)):
        places["tracking_uri"] = parent.tracking_uri
    places["results"] = run_location(str(places["results"]), run_id)
    try:
        plan = EvaluationPlan.model_validate({**parameters, **settings, **places})
    except ValidationError as error:
        raise PrerequisiteError(f"A parameter of the run is invalid: {reasons(error)}. Start it again.") from None
    check_no_password(plan.tracking_uri)
    if not plan.tracking_uri and not own_store(plan.results) and (promote or plan.skip_judged):
        option = "promote" if promote else "skip_judged"
        raise PrerequisiteError(
            f"{option} needs MLflow, and this cluster names none. Give its server as tracking_uri in `settings`, or "
            "set QUANTGATE_TRACKING_URI in the ConfigMap quantgate-mlflow."
        )
    return plan


def reasons(error: ValidationError) -> str:
    """Each invalid value with the reason, on one line."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))} is {problem['input']!r}: {problem['msg']}" for problem in error.errors()
    )
