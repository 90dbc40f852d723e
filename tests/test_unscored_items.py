"""Rubrics without a verdict in a run: they count for no variant, and the gate and the report say so."""

from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.saved_answers import read_records
from quantgate.components.evidence.unscored_items import with_scored_items, without_unscored
from quantgate.components.flow_cases.exchanges import FlowExchange, TurnAnswer
from quantgate.components.flow_cases.flow_file import FlowSet, read_flow_file
from quantgate.components.flows.checked import records_of, task_scores
from quantgate.components.flows.rubrics import checked_all, judge_of_run
from quantgate.components.resolve.checked_flows import check_judge_answers, check_judge_here
from quantgate.components.run import records
from quantgate.components.run.artifacts import Model, Scores, Server, Weights
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.run.server_identity import ServerIdentity
from tests.support.judge_server import judge_server, shown

FLOWS = """name: ours
use_case: tutoring
cases:
  - {id: one, turns: [{user: One}], checks: [rubric: Good., contains: a]}
  - {id: two, turns: [{user: Two}], checks: [rubric: Good.]}
  - {id: three, turns: [{user: Three}], checks: [rubric: Good.]}
"""
ASKED = FlowSet(names=("ours",), flows=read_flow_file(FLOWS, "ours.yaml").flows())


def judge_rule(messages: list[dict[str, str]]) -> str:
    said = next(text for name, text in shown(messages) if name == "assistant")
    return {"a": "[[yes]]", "b a": "[[no]]"}.get(said, "Hm.")


def plan(folder: Path, **judge: str) -> EvaluationPlan:
    return EvaluationPlan(variants=("bf16", "int8"), store="s", results=str(folder), **judge)


def measured(folder: Path, variant: str, answers: tuple[str, str, str], url: str) -> tuple[Scores, dict[str, Answers]]:
    """The scores and the answers that the gate reads of a variant that gave these answers."""
    server = Server(variant=variant, url="http://127.0.0.1:9/v1", served_name=f"quantgate-{variant}")
    exchanges = [
        FlowExchange(flow=flow.id, repeat=0, requests=(), answers={0: TurnAnswer(text=text)})
        for flow, text in zip(ASKED.flows, answers, strict=True)
    ]
    by_id = {flow.id: flow for flow in ASKED.flows}
    with judge_of_run(server, plan(folder, judge=url, judge_model="the-judge")) as judge:
        checked = checked_all(by_id, exchanges, variant, judge, lambda *_: None)
    rows = records_of(variant, ASKED, checked)
    file = folder / f"{variant}.parquet"
    records.write(rows, file)
    return Scores(variant=variant, suite="s", stage="full", tasks=task_scores(ASKED, rows)), read_records(file)


def test_a_rubric_without_a_verdict_counts_for_no_variant(tmp_path: Path) -> None:
    with judge_server(judge_rule) as judge:
        bf16 = measured(tmp_path, "bf16", ("a", "a", "odd"), judge.url)
        int8 = measured(tmp_path, "int8", ("a", "b a", "a"), judge.url)
        asked = len(judge.asked)
        again = measured(tmp_path, "int8", ("a", "b a", "a"), judge.url)
        assert len(judge.asked) == asked  # the variant's stored judgements
    assert again[0] == int8[0]
    assert RunResults(str(tmp_path)).variant("int8").judgements.path.exists()
    scores, answers, note = without_unscored([bf16[0], int8[0]], {"bf16": bf16[1], "int8": int8[1]})
    found = [{task.task: (task.score, task.items) for task in row.tasks} for row in scores]
    both = {"flows:contains": (1.0, 1)}
    kept = ("flows", "flows:tutoring", "flows:rubric")
    assert found == [dict.fromkeys(kept, (1.0, 2)) | both, dict.fromkeys(kept, (0.5, 2)) | both]
    assert [by_task["flows:rubric"].items for by_task in answers.values()] == [2, 2]
    assert note == (
        "all variants, as the judge gave no verdict on each: 1 of flows, 1 of flows:rubric, 1 of flows:tutoring"
    )


def test_with_all_verdicts_nothing_changes_and_without_any_the_task_is_left_out_for_all(tmp_path: Path) -> None:
    with judge_server(judge_rule) as judge:
        bf16 = measured(tmp_path, "bf16", ("a", "a", "a"), judge.url)
        int8 = measured(tmp_path, "int8", ("odd", "odd", "odd"), judge.url)
    same = without_unscored([bf16[0], bf16[0]], {"bf16": bf16[1]})
    assert (same[0], same[1]["bf16"].keys(), same[2]) == ([bf16[0], bf16[0]], bf16[1].keys(), "")
    scores, answers, note = without_unscored([bf16[0], int8[0]], {"bf16": bf16[1], "int8": int8[1]})
    assert [[task.task for task in row.tasks] for row in scores] == [["flows:contains"], ["flows:contains"]]
    assert [list(by_task) for by_task in answers.values()] == [["flows:contains"], ["flows:contains"]]
    assert "3 of flows" in note


def test_saved_results_are_judged_on_the_same_items_as_in_the_run(tmp_path: Path) -> None:
    with judge_server(judge_rule) as judge:
        pairs = [measured(tmp_path, "bf16", ("a", "a", "odd"), judge.url)]
        pairs.append(measured(tmp_path, "int8", ("a", "b a", "a"), judge.url))
    candidates = [Candidate(Weights(variant=row.variant, baseline_digest=""), row, answers) for row, answers in pairs]
    kept = with_scored_items(candidates)
    assert [row.answers["flows:rubric"].items for row in kept] == [2, 2]
    assert [row.scores.by_task()["flows:rubric"] for row in kept] == [1.0, 0.5]
    assert with_scored_items(kept) == kept


@pytest.mark.fault("verdicts", "A run's judge is the base model", "Refused before anything is quantized.")
def test_a_runs_judge_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    model = Model(source="hf:team/base", digest="a" * 64, uri="file:/m", size_bytes=1)
    check_judge_answers(plan(tmp_path), model)
    with judge_server(judge_rule, "Team/Base") as judge:
        named = plan(tmp_path, judge=judge.url, judge_model="Team/Base")
        with pytest.raises(PrerequisiteError, match="the same model as the base model"):
            check_judge_answers(named, model)
        check_judge_answers(named, model.model_copy(update={"source": "hf:team/other"}))
        check_judge_here(named, on_cluster=False)
        with pytest.raises(PrerequisiteError, match="on a cluster cannot ask a judge"):
            check_judge_here(named, on_cluster=True)
    with pytest.raises(PrerequisiteError, match="No OpenAI-compatible server answers"):
        check_judge_answers(named, model)
    with pytest.raises(PrerequisiteError, match="both its URL and its served name"):
        check_judge_here(plan(tmp_path, judge="http://x"), on_cluster=False)


def test_a_variant_cannot_judge_itself(tmp_path: Path) -> None:
    server = Server(variant="int8", url="http://127.0.0.1:9/v1", served_name="quantgate-int8")
    server = server.model_copy(update={"identity": ServerIdentity(weights="d" * 64)})
    with judge_server(judge_rule, "quantgate-int8") as judge:
        named = plan(tmp_path, judge=judge.url, judge_model="quantgate-int8")
        with pytest.raises(PrerequisiteError, match="prefers its own answers"), judge_of_run(server, named):
            raise AssertionError("the judge was accepted")
