"""The pipeline's parameters become the plan: settings by name, and the places that the cluster sets."""

from pathlib import Path
from typing import Any

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.resolve import cluster_places
from quantgate.components.resolve.component import resolve
from quantgate.components.resolve.run_settings import plan_of
from quantgate.components.run import progress
from quantgate.components.run.plan import SETTINGS, EvaluationPlan

FORM = {"variants": ["int8"], "suite": "demo", "use_case": "general-chat", "policy": "", "limit": 3}
CLUSTER = {
    "QUANTGATE_STORE": "s3://cluster/store",
    "QUANTGATE_RESULTS": "s3://cluster/results",
    "QUANTGATE_TRACKING_URI": "http://mlflow.quantgate:5000",
}
PLUGIN = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "MLFLOW_TRACKING_URI": "http://kfp-mlflow:5000",
    "MLFLOW_EXPERIMENT_ID": "7",
    "MLFLOW_RUN_ID": "abc",
}


def plan(settings: dict[str, Any], environment: dict[str, str], *, promote: bool = False) -> EvaluationPlan:
    return plan_of(FORM, settings, "run-1", promote=promote, environment=environment)


def test_a_run_from_the_form_gets_the_places_of_the_cluster() -> None:
    planned = plan({}, CLUSTER)
    assert (planned.store, planned.results) == ("s3://cluster/store", "s3://cluster/results/run-1")
    assert planned.tracking_uri == "http://mlflow.quantgate:5000"
    assert (planned.variants, planned.limit, planned.stop_early) == (("int8",), 3, True)


def test_a_setting_is_worth_more_than_the_clusters_own_place() -> None:
    settings = {"store": "s3://mine/store", "results": "s3://mine/results/", "tracking_uri": "http://mine"}
    planned = plan(settings, CLUSTER | PLUGIN)
    assert (planned.store, planned.results) == ("s3://mine/store", "s3://mine/results/run-1")
    assert planned.tracking_uri == "http://mine"


def test_a_cluster_that_sets_no_place_uses_the_bucket_of_kubeflow_pipelines() -> None:
    planned = plan({}, {})
    assert planned.store == "s3://mlpipeline/quantgate/store"
    assert planned.results == "s3://mlpipeline/quantgate/results/run-1"
    assert planned.tracking_uri == ""


@pytest.mark.parametrize(
    ("environment", "uri"),
    [
        (PLUGIN, "http://kfp-mlflow:5000"),
        (PLUGIN | CLUSTER, "http://mlflow.quantgate:5000"),
        ({name: value for name, value in PLUGIN.items() if name != "MLFLOW_RUN_ID"}, ""),
        ({name: value for name, value in PLUGIN.items() if name != "KUBERNETES_SERVICE_HOST"}, ""),
    ],
    ids=["plugin", "cluster's own", "no run of the plugin", "outside a pod"],
)
def test_the_mlflow_of_kubeflows_plugin_is_used_when_nothing_else_is_given(
    environment: dict[str, str], uri: str
) -> None:
    assert plan({}, environment).tracking_uri == uri


def test_kfp_sends_every_number_in_the_settings_as_a_float() -> None:
    planned = plan({"calibration_samples": 64.0, "temperature": 0.5, "custom": ["canopy"], "ledger": False}, {})
    assert (planned.calibration_samples, type(planned.calibration_samples)) == (64, int)
    assert (planned.temperature, planned.custom, planned.ledger) == (0.5, ("canopy",), False)


@pytest.mark.parametrize("key", ["calibration_sample", "limit", "judged_in"])
def test_an_unknown_setting_is_refused_by_name_with_the_list(key: str) -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        plan({key: 1, "ledger": True}, {})
    assert str(refusal.value) == f"`settings` has the unknown key {key}. Its keys are: {', '.join(SETTINGS)}."


def test_an_invalid_value_is_refused_with_its_name() -> None:
    with pytest.raises(PrerequisiteError, match="calibration_samples is 'many': Input should be a valid integer"):
        plan({"calibration_samples": "many"}, {})
    with pytest.raises(PrerequisiteError, match="samples is -1: Input should be greater than or equal to 0"):
        plan({"samples": -1}, {})
    with pytest.raises(PrerequisiteError, match="seeds is 11.0: Input should be less than or equal to 10"):
        plan({"seeds": 11.0}, {})


def test_promoting_and_skipping_judged_models_need_mlflow() -> None:
    with pytest.raises(PrerequisiteError, match="promote needs MLflow.*QUANTGATE_TRACKING_URI in the ConfigMap"):
        plan({}, {}, promote=True)
    with pytest.raises(PrerequisiteError, match="skip_judged needs MLflow"):
        plan({"skip_judged": True}, {})
    assert plan({"skip_judged": True}, CLUSTER, promote=True).skip_judged
    assert plan({"results": "/tmp/run", "skip_judged": True}, {}, promote=True).results == "/tmp/run"


def test_a_password_in_the_address_is_refused() -> None:
    with pytest.raises(PrerequisiteError, match="contains a user name or a password"):
        plan({"tracking_uri": "http://me:secret@mlflow"}, {})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ledgers": True}, "`settings` has the unknown key ledgers."),
        ({"store": "/data/store"}, "--store is /data/store, and the cluster cannot read a machine's disk."),
        ({"results": "results"}, "--results is results, and the cluster cannot read a machine's disk."),
    ],
)
def test_a_refused_parameter_is_the_reason_of_the_first_step_and_ends_it_without_a_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    reason: str,
) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    monkeypatch.setattr(progress, "TERMINATION_MESSAGE", message)
    for name, value in {"_KFP_RUNTIME": "true", "QUANTGATE_RUN": "quantgate-ship-abc"}.items():
        monkeypatch.setenv(name, value)
    form = {**FORM, "model": "hf:org/name", "promote": False, "run_id": "run-1", "baseline": None, "plan": None}
    with pytest.raises(SystemExit) as end:
        resolve.__wrapped__.python_func(**form, settings=settings)  # type: ignore[attr-defined]
    (event,) = progress.events_in(capsys.readouterr().out)
    assert (end.value.code, event.step, event.state) == (1, "resolve", "failed")
    assert event.note.startswith(reason)
    assert message.read_text().startswith(reason)


def test_outside_of_a_pod_of_a_run_a_path_is_a_place() -> None:
    cluster_places.check_in_pod("file:/models/x", plan({"store": "/data", "results": "/data"}, {}), {})
