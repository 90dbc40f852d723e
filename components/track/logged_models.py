"""The variants' weights as MLflow's LoggedModels: external ones, because the weights lie in the run's own store.

A LoggedModel belongs to the MLflow run of its variant, the run's metrics name it, and so does the version in the
registry. `mlflow.create_external_model` writes the same, but only to the process's one tracking server.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantgate.components.run.artifacts import Weights
from quantgate.components.run.verdicts import Verdict
from quantgate.components.tracking.tags import RUN_ID_TAG, VARIANT_TAG

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXTERNAL = "mlflow.model.isExternal"
TYPE = "llm"
NOT_IN_NAMES = "/:.%\"'"
"""MLflow refuses a name with one of them."""
PARAMS = ("scheme", "group_size", "algorithm", "layout", "calibration", "seed", "source", "kv_cache_dtype")
"""The parameters of the run that say how the weights were made."""
LACKING = ("ENDPOINT_NOT_FOUND", "NOT_FOUND")
"""What a server before MLflow 3 answers, which has no LoggedModels."""


@dataclass(frozen=True)
class ExternalModel:
    """The content of one LoggedModel."""

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]


def external_model(
    weights: Weights | None, verdict: Verdict, run_id: str, params: Mapping[str, str]
) -> ExternalModel | None:
    """The variant's weights, with the parameters of its run that say how they were made; None without weights."""
    if weights is None or not weights.digest or verdict.verdict == "failed":
        return None
    tags = {
        EXTERNAL: "true",
        RUN_ID_TAG: run_id,
        VARIANT_TAG: weights.variant,
        "quantgate.digest": weights.digest,
        "quantgate.weights": weights.uri,
    }
    name = "".join("_" if character in NOT_IN_NAMES else character for character in weights.variant)
    made = {key: value for key, value in params.items() if key in PARAMS}
    return ExternalModel(name, made, {key: value for key, value in tags.items() if value})


def log_model(client: "MlflowClient", experiment_id: str, run_id: str, model: ExternalModel) -> str:
    """MLflow's id of the run's LoggedModel, created unless it is there; empty if the server has no LoggedModels."""
    from mlflow.exceptions import MlflowException

    try:
        if not models_of(client, experiment_id, run_id):
            client.create_logged_model(experiment_id, model.name, run_id, dict(model.tags), dict(model.params), TYPE)
        model_id, *doubled = models_of(client, experiment_id, run_id)
        for other in doubled:  # the client creates a model twice when the first answer is lost
            client.delete_logged_model(other)
        client.finalize_logged_model(model_id, "READY")
        _make_output(client, run_id, model_id)
    except MlflowException as refusal:
        if refusal.error_code not in LACKING:
            raise
        return ""
    return model_id


def _make_output(client: "MlflowClient", run_id: str, model_id: str) -> None:
    """Name the LoggedModel as the run's output, once: MLflow refuses a second time."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    def is_output() -> bool:
        outputs = client.get_run(run_id).outputs
        return any(output.model_id == model_id for output in (outputs.model_outputs if outputs else ()))

    if is_output():
        return
    try:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    except MlflowException:
        if not is_output():  # else the first answer was lost, and the client's second request was refused
            raise


def delete_models(client: "MlflowClient", experiment_id: str, run_id: str) -> None:
    """Delete the run's LoggedModels; nothing if the server has none."""
    from mlflow.exceptions import MlflowException

    try:
        for model_id in models_of(client, experiment_id, run_id):
            client.delete_logged_model(model_id)
    except MlflowException as refusal:
        if refusal.error_code not in LACKING:
            raise


def models_of(client: "MlflowClient", experiment_id: str, run_id: str) -> list[str]:
    """MLflow's ids of the LoggedModels that belong to the run, the oldest first."""
    order = [{"field_name": "creation_timestamp", "ascending": True}]
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'", order_by=order)
    return [str(model.model_id) for model in found]
