"""Attempts in MLflow: each run's number is recorded, and a store that lacks them takes them over."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from quantgate.components.resolve.counted_attempts import count_tracked
from quantgate.components.run.attempts import Attempt, AttemptRecord
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.verdicts import Decision
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.facts import RunFacts, RunFiles
from quantgate.components.tracking.tags import DECISION
from tests.support.gated import MODEL, gated, plan_of
from tests.support.mlflow_store import empty_store, local

__all__ = ["empty_store", "local"]

pytestmark = pytest.mark.slow


def recorded(decision: Decision, uri: str, run_id: str) -> str:
    """MLflow's id of the run."""
    return track(decision, RunFacts(run_id=run_id, name=run_id), RunFiles(), uri).run_id


def elsewhere(folder: Path, uri: str) -> EvaluationPlan:
    """The plan of a run on another machine, with a store of its own."""
    return plan_of(folder, "elsewhere", store=str(folder / "other store"), tracking_uri=uri, asked="more questions")


def test_mlflow_shows_the_number_of_the_attempt_and_its_confidence(tmp_path: Path, local: str) -> None:
    gated(plan_of(tmp_path, "first"))
    run_id = recorded(gated(plan_of(tmp_path, "second"), weights="d9"), local, "run-2")
    run = MlflowClient(local).get_run(run_id)
    assert (run.data.params["attempt"], run.data.params["attempt_run"]) == ("2", "1")
    assert "Attempt 2, decided at 99.43 % in place of 95 %." in run.data.tags["mlflow.note.content"]


def test_a_store_without_a_record_takes_over_the_attempts_of_mlflows_runs(tmp_path: Path, local: str) -> None:
    for run, weights in (("first", "d8"), ("second", "d9"), ("third", "d10")):
        decision = gated(plan_of(tmp_path, run), weights=weights)
        if run != "first":  # the first is in the other store only
            recorded(decision, local, run)
    plan = elsewhere(tmp_path, local)
    assert count_tracked(MODEL, plan) == (Attempt(number=4), "")
    assert count_tracked(MODEL, plan) == (Attempt(number=4), ""), "nothing is counted twice"
    known = AttemptRecord(plan.store, "d0", "general-chat").read()
    assert [run.attempt.number for run in known] == [2, 3]
    assert gated(plan, weights="d9").attempt == Attempt(number=2), "the very same answers, which were judged there"
    assert gated(plan, weights="d9", items=3000).attempt == Attempt(number=2, run=2)


def test_runs_that_were_changed_or_are_on_another_model_do_not_count(tmp_path: Path, local: str) -> None:
    changed = recorded(gated(plan_of(tmp_path, "first")), local, "first")
    recorded(gated(plan_of(tmp_path, "other"), model=MODEL.model_copy(update={"digest": "d1"})), local, "other")
    client = MlflowClient(local)
    content = json.loads(Path(client.download_artifacts(changed, DECISION)).read_text(encoding="utf-8"))
    client.log_text(changed, json.dumps(content | {"attempt": {"number": 50, "run": 1}}), DECISION)
    assert count_tracked(MODEL, elsewhere(tmp_path, local)) == (Attempt(number=1), "")


@pytest.mark.fault(
    "verdicts", "MLflow does not answer when attempts are counted", "the store alone counts, and the step says so"
)
def test_without_mlflow_the_stores_record_counts_and_the_step_says_so(tmp_path: Path) -> None:
    gated(plan_of(tmp_path, "first"))
    attempt, note = count_tracked(MODEL, plan_of(tmp_path, "second", tracking_uri="http://127.0.0.1:9", asked="others"))
    assert attempt == Attempt(number=2)
    assert note.startswith("attempts are counted from the store alone: MLflow cannot be reached at http://127.0.0.1:9")
