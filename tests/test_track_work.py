"""What MLflow shows of the work behind a run: its times, its memory, and the weights as LoggedModels."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from quantgate.components.promote.registry import LOGGED_MODEL, MODEL_VERSIONS, register
from quantgate.components.run.artifacts import Scores, Weights
from quantgate.components.run.load_results import LoadTest
from quantgate.components.run.verdicts import Decision
from quantgate.components.track.cost_metrics import system_metrics
from quantgate.components.track.mlflow_rows import variant_rows
from quantgate.components.track.mlflow_writer import track
from quantgate.components.track.work_times import WorkTimes, variant_times
from quantgate.components.tracking.earlier import trusted_runs
from quantgate.components.tracking.facts import RunFiles
from tests.support.decided import FACTS, digested, make_decision, report_files
from tests.support.mlflow_server import mlflow_server
from tests.support.mlflow_store import empty_store, local
from tests.support.registered import placed

__all__ = ["empty_store", "local", "mlflow_server"]

BEGAN, JUDGED = 1_700_000_000.0, 1_700_003_600.0
TIMED = FACTS.model_copy(update={"started_at": BEGAN, "judged_at": JUDGED})


def worked(decision: Decision) -> Decision:
    """The decision with times: each variant starts 100 s after the one before and has its scores 90 s later."""
    weights = tuple(
        row.model_copy(update={"started_at": BEGAN + 100 * place, "peak_memory_bytes": 5_000_000_000})
        for place, row in enumerate(decision.weights)
    )
    scores = tuple(
        row.model_copy(update={"ended_at": BEGAN + 100 * place + 90, "server_memory_bytes": 1_000_000_000})
        for place, row in enumerate(decision.scores)
    )
    return decision.model_copy(update={"weights": weights, "scores": scores})


def test_a_variants_work_ends_with_its_scores_or_with_its_load_test() -> None:
    weights = Weights(variant="int8", baseline_digest="d", started_at=100.0)
    scores = Scores(variant="int8", suite="quick", stage="full", ended_at=160.0)
    loaded = LoadTest(variant="int8", failure="It died.", ended_at=170.0)
    assert variant_times(weights, scores, None) == WorkTimes(100.0, 160.0)
    assert variant_times(weights, scores, loaded) == WorkTimes(100.0, 170.0)


def test_times_of_an_earlier_version_are_mlflows_own_and_no_run_ends_before_it_begins() -> None:
    old = variant_times(
        Weights(variant="int8", baseline_digest="d"), Scores(variant="int8", suite="q", stage="f"), None
    )
    assert (old.start_ms, old.end_ms) == (None, None)
    assert (WorkTimes(2.0, 1.0).start_ms, WorkTimes(2.0, 1.0).end_ms) == (2000, 2000)


def test_the_work_of_an_earlier_run_has_no_system_metrics_here() -> None:
    weights = Weights(variant="int8", baseline_digest="d", duration_s=3.0, peak_memory_bytes=7)
    scores = Scores(variant="int8", suite="q", stage="f", duration_s=9.0)
    assert system_metrics(weights, scores) == {
        "system/quantize_wall_s": 3.0,
        "system/quantize_peak_memory_bytes": 7,
        "system/evaluate_wall_s": 9.0,
    }
    earlier = weights.model_copy(update={"reused": True}), scores.model_copy(update={"scored_in": "run 1"})
    assert system_metrics(*earlier) == {}


@pytest.mark.slow
def test_runs_carry_the_times_of_the_work_and_keep_them_when_they_are_recorded_again(
    local: str, tmp_path: Path
) -> None:
    for _ in range(2):
        tracked = track(worked(make_decision(tmp_path)), TIMED, report_files(tmp_path), local)
    client = MlflowClient(local)
    parent = client.get_run(tracked.run_id).info
    assert (parent.start_time, parent.end_time) == (BEGAN * 1000, JUDGED * 1000)
    times = [client.get_run(run_id).info for run_id in tracked.children.values()]
    assert [(run.start_time / 1000 - BEGAN, run.end_time / 1000 - BEGAN) for run in times] == [
        (0, 90),
        (100, 190),
        (200, 290),
        (300, 390),
    ]
    metric = client.get_metric_history(tracked.children["int8"], "mean_score")[0]
    assert metric.timestamp == (BEGAN + 190) * 1000


@pytest.mark.slow
def test_the_run_that_was_judged_last_is_the_newest_even_if_it_began_first(local: str, tmp_path: Path) -> None:
    """A short run that begins and ends during a long one is the older verdict, whichever is recorded again."""
    long = TIMED.model_copy(update={"run_id": "long"})
    short = TIMED.model_copy(update={"run_id": "short", "started_at": BEGAN + 600, "judged_at": JUDGED - 600})
    for facts in (long, short):
        tracked = track(make_decision(tmp_path), facts, RunFiles(), local)
    client = MlflowClient(local)
    runs = trusted_runs(client, tracked.experiment, "params.model_digest = 'base'", local)
    assert [run.data.tags["quantgate.run_id"] for _, run in runs] == ["long", "short"]


@pytest.mark.slow
def test_the_weights_are_logged_models_with_the_runs_metrics_and_versions(mlflow_server: str, tmp_path: Path) -> None:
    decision = placed(worked(make_decision(tmp_path, failed="int4-g64")))
    decision = digested(decision.model_copy(update={"model": decision.model.model_copy(update={"source": "hf:a/b"})}))
    for _ in range(2):
        tracked = track(decision, TIMED, report_files(tmp_path), mlflow_server)
    for _ in range(2):
        registered = register(decision, tracked, mlflow_server, TIMED.decided_at)
    client = MlflowClient(mlflow_server)

    models = client.search_logged_models([tracked.experiment_id])
    assert {model.name: model.model_id for model in models} == {
        name: model_id for name, model_id in tracked.models.items() if model_id
    }
    assert (len(models), tracked.models["int4-g64"]) == (3, "")
    model = client.get_logged_model(tracked.models["int8"])
    run = client.get_run(tracked.children["int8"])
    assert (str(model.status), model.source_run_id) == ("READY", run.info.run_id)
    assert run.outputs
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert {metric.key: metric.value for metric in model.metrics or ()} == run.data.metrics
    assert model.params["scheme"] == "W4A16"
    assert model.tags["quantgate.weights"] == "s3://bucket/int8"
    version = client.get_model_version(registered.model, registered.versions["int8"])
    assert version.tags[LOGGED_MODEL] == model.model_id
    assert json.loads(model.tags[MODEL_VERSIONS]) == [{"name": registered.model, "version": version.version}]
    assert run.data.metrics["system/quantize_peak_memory_bytes"] == 5_000_000_000


@pytest.mark.slow
def test_a_version_that_points_at_its_run_is_linked_too(mlflow_server: str, tmp_path: Path) -> None:
    """The weights are in a folder of this machine, which a server takes neither as a source nor with a LoggedModel."""
    decision = make_decision(tmp_path)
    model = decision.model.model_copy(update={"source": "hf:c/d"})
    weights = tuple(row.model_copy(update={"uri": str(tmp_path / row.variant)}) for row in decision.weights)
    decision = digested(decision.model_copy(update={"model": model, "weights": weights}))
    tracked = track(decision, TIMED, report_files(tmp_path), mlflow_server)
    registered = register(decision, tracked, mlflow_server, TIMED.decided_at)
    client = MlflowClient(mlflow_server)
    version = client.get_model_version(registered.model, registered.versions["int8"])
    assert str(version.source).startswith("runs:/")
    assert version.tags[LOGGED_MODEL] == tracked.models["int8"]
    linked = json.loads(client.get_logged_model(tracked.models["int8"]).tags[MODEL_VERSIONS])
    assert linked == [{"name": registered.model, "version": version.version}]


@pytest.mark.slow
def test_a_replaced_run_takes_its_logged_model_with_it(local: str, tmp_path: Path) -> None:
    first = track(make_decision(tmp_path), TIMED, RunFiles(), local)
    decision = make_decision(tmp_path)
    scores = tuple(
        row.model_copy(update={"duration_s": 7.0}) if row.variant == "int8" else row for row in decision.scores
    )
    again = track(decision.model_copy(update={"scores": scores}), TIMED, RunFiles(), local)
    models = MlflowClient(local).search_logged_models([first.experiment_id])
    assert again.models["int8"] != first.models["int8"]
    assert {model.model_id for model in models} == set(again.models.values())


@pytest.mark.slow
def test_what_has_no_value_is_missing_and_no_table_has_nan(local: str, tmp_path: Path) -> None:
    decision = make_decision(tmp_path)
    odd = tuple(
        row.model_copy(update={"average_drop": math.nan, "drops": {"piqa": math.inf}}) if row.variant == "int8" else row
        for row in decision.verdicts
    )
    decision = decision.model_copy(update={"verdicts": odd})
    for row in variant_rows(decision, TIMED, RunFiles()):
        assert all(map(math.isfinite, row.metrics.values()))
        assert not {"", "nan", "NaN", "None", "inf"} & {*row.params.values(), *row.tags.values()}
    flips: dict[str, dict[str, list[Any]]] = {"int8": {"task": ["piqa"], "moved": [math.nan]}}
    tracked = track(decision, TIMED, RunFiles(flips=flips), local)
    client = MlflowClient(local)
    tables = (tracked.run_id, "decision_matrix.json"), (tracked.children["int8"], "flips.json")
    for run_id, name in tables:
        text = Path(client.download_artifacts(run_id, name, str(tmp_path))).read_text()
        assert "NaN" not in text
        assert None in [cell for cells in json.loads(text)["data"] for cell in cells]
