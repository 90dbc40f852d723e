"""The step flows: it adds scores and records to the full stage's, keeps the transcript, and never scores a failure."""

from pathlib import Path
from typing import Any

import pytest

from quantgate.components.benchmarks.suites import Suite
from quantgate.components.execute.scores import scores_in_order
from quantgate.components.flow_cases.exchanges import read_exchanges
from quantgate.components.flows.step import flows
from quantgate.components.run import records
from quantgate.components.run.artifacts import Scores, Server, TaskScore
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import FULL, RunResults
from quantgate.components.servers import client
from tests.support.scripted_chat import Answer, scripted
from tests.test_flows import good, ours
from tests.test_gate_flows import record


def run(folder: Path, answer: Answer, *, asked: bool = True, **full: Any) -> Scores:
    """The scores after the step, on a variant with one benchmark."""
    results = RunResults(str(folder))
    results.flows.write(ours())
    rows = [record("int8", "gsm8k", item, 1.0) for item in range(3)]
    records.write(rows, results.records("int8", FULL).path)
    settings: dict[str, Any] = {"metric": "m", "stderr": 0.0, "shots": 0, "chance": 0.0, "version": "1"}
    task = TaskScore(task="gsm8k", score=1.0, items=3, **settings)
    plan = EvaluationPlan(variants=("int8",), store="s", results=str(folder), flows_kept="given" if asked else "")
    plan.write(folder / "plan")
    Scores(variant="int8", suite="s", stage=FULL, tasks=(task,), records="r", **full).write(folder / "scores")
    with scripted(answer) as server:
        serving = Server(variant="int8", url=server.url, served_name="tiny", log="its log")
        serving.write(folder / "server")
        flows(str(folder / "server"), str(folder / "scores"), str(folder / "plan"), str(folder / "flowed"))
    return Scores.read(folder / "flowed")


def test_scores_and_records_of_flows_join_those_of_the_stage(tmp_path: Path) -> None:
    scores = run(tmp_path, good)
    assert scores.failure == ""
    assert scores.by_task()["gsm8k"] == 1.0
    assert scores.by_task()["flows"] == 1.0
    results = RunResults(str(tmp_path))
    rows = records.read(results.records("int8", FULL).path)
    assert [row.task for row in rows].count("gsm8k") == 3
    assert [row.task for row in rows].count("flows") == 3
    assert {exchange.flow for exchange in read_exchanges(results.variant("int8").transcripts.path)} == {
        flow.id for flow in ours().flows
    }
    saved = results.scores("int8", FULL).read(Scores)
    assert saved == scores
    kept = list(scores_in_order(scores, Suite("s", "", ()), rows, chat_template=False))
    assert [score.task for score in kept][:1] == ["flows"]  # the step execute keeps them


def test_without_flows_or_with_an_earlier_runs_scores_nothing_is_asked(tmp_path: Path) -> None:
    def never(_body: dict[str, Any]) -> Any:
        raise AssertionError("nothing is asked")

    assert list(run(tmp_path, never, asked=False).by_task()) == ["gsm8k"]
    assert list(run(tmp_path, never, scored_in="m-1").by_task()) == ["gsm8k"]
    assert run(tmp_path, never, failure="no memory").failure == "no memory"


def test_a_baseline_with_answers_of_the_ledger_alone_fails_as_its_flows_were_not_asked(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"metric": "m", "stderr": 0.0, "shots": 0, "chance": 0.0, "version": "1"}
    task = TaskScore(task="gsm8k", score=1.0, items=3, **settings)
    plan = EvaluationPlan(variants=("bf16",), store="s", results=str(tmp_path), flows_kept="given")
    plan.write(tmp_path / "plan")
    RunResults(str(tmp_path)).flows.write(ours())
    Scores(variant="bf16", suite="s", stage=FULL, tasks=(task,)).write(tmp_path / "scores")
    Server(variant="bf16", failure="no memory").write(tmp_path / "server")
    flows(*(str(tmp_path / name) for name in ("server", "scores", "plan", "flowed")))
    scores = Scores.read(tmp_path / "flowed")
    assert (scores.tasks, scores.failure) == ((), "Its flows were not asked: no memory")
    assert RunResults(str(tmp_path)).scores("bf16", FULL).read(Scores) == scores, "so no variant is quantized"


def test_a_server_that_fails_is_the_variants_failure_and_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.01)
    scores = run(tmp_path, lambda _: 500)
    assert scores.tasks == ()
    assert scores.failure.startswith("Its flows were not answered: HTTP 500")
    assert scores.failure.endswith("The server's log: its log")
    assert not RunResults(str(tmp_path)).variant("int8").transcripts.path.exists()
