"""The gate on flows: they have limits of their own, no average includes them, and a limit of 0 allows no lost case."""

from typing import Any

import pytest

from quantgate.components.evidence import saved_answers
from quantgate.components.evidence.candidate import candidate
from quantgate.components.evidence.decision import decide
from quantgate.components.evidence.no_loss import NoLossTest
from quantgate.components.evidence.stopping import Stopping
from quantgate.components.gate.flipped_items import BROKEN_FLOWS, examples, flips
from quantgate.components.policies.policy import UseCase
from quantgate.components.report.matrix import matrix
from quantgate.components.run import records
from quantgate.components.run.artifacts import Model, Scores, TaskScore, Weights
from quantgate.components.run.records import Record
from quantgate.components.run.verdicts import Decision

MODEL = Model(source="file:x", digest="0" * 64, uri="x", size_bytes=1)
ITEMS = 400
CASES = 14


def record(variant: str, task: str, item: int, score: float, cluster: str = "") -> Record:
    return Record(
        variant=variant,
        task=task,
        item_id=item,
        item_hash=f"{task} {item}",
        metric="passed",
        score=score,
        target=-1,
        logliks=[],
        greedy=[],
        prompt_hash="p",
        tokens=1,
        truncated=False,
        cluster=cluster,
        question=f"case {item}",
        answer=f"answer of {variant}",
        outcome="" if score else "json_syntax: it is not JSON",
    )


def rows_of(variant: str, *, lost: int = 0, gained: int = 0, passing: int = CASES) -> list[Record]:
    """A benchmark on which nothing changes, and flows of which some are lost and gained."""
    rows = [record(variant, "gsm8k", item, float(item % 4 > 0)) for item in range(ITEMS)]
    for item in range(CASES):
        passed = item < passing - lost or passing <= item < passing + gained
        rows += [
            record(variant, "flows", item, float(passed)),
            record(variant, "flows:json_syntax", item, float(passed)),
        ]
    return rows


def scores_of(variant: str, rows: list[Record]) -> Scores:
    tasks = []
    for task in dict.fromkeys(row.task for row in rows):
        values = [row.score or 0.0 for row in rows if row.task == task]
        settings: dict[str, Any] = {"metric": "passed", "stderr": 0.01, "shots": 0, "chance": 0.0, "version": "1"}
        tasks.append(TaskScore(task=task, score=sum(values) / len(values), items=len(values), **settings))
    return Scores(variant=variant, suite="s", stage="full", tasks=tuple(tasks))


def decided(policy: dict[str, Any], *, again: list[Record] | None = None, **variant: int) -> Decision:
    use_case = UseCase.model_validate({"name": "ours", **policy})
    by_variant = {"bf16": rows_of("bf16", passing=variant.get("passing", CASES)), "int8": rows_of("int8", **variant)}
    answers = {name: saved_answers.by_task(records.table(rows)) for name, rows in by_variant.items()}
    return decide(
        MODEL,
        "s",
        use_case,
        [Weights(variant=name, baseline_digest="0" * 64, digest=name) for name in by_variant],
        [scores_of(name, rows) for name, rows in by_variant.items()],
        answers,
        saved_answers.by_task(records.table(again)) if again else None,
    )


NONE_LOST = {"max_drop": {"flows:json_syntax": 0}, "bands": {"ship": "10 %", "monitor": "20 %", "ab_test": "30 %"}}


def test_a_limit_of_0_passes_when_no_case_is_lost_and_says_what_that_shows() -> None:
    verdict = decided(NONE_LOST).verdicts[1]
    assert verdict.verdict == "ship"
    assert "flows:json_syntax lost 0 of the 14 cases that the baseline passes, which shows that it loses at most 19.3 %"
    assert (
        "lost 0 of the 14 cases that the baseline passes, which shows that it loses at most 19.3 %" in verdict.sentence
    )
    limit = verdict.limits[0]
    assert (limit.kind, limit.outcome, limit.estimate, limit.lower) == ("loss", "passed", 0.0, 0.0)
    assert limit.upper == pytest.approx(1 - 0.05 ** (1 / 14))


def test_one_lost_case_is_over_a_limit_of_0_and_gained_ones_do_not_make_up_for_it() -> None:
    verdict = decided(NONE_LOST, passing=10, lost=1, gained=4).verdicts[1]
    assert verdict.verdict == "reject"
    assert "flows:json_syntax lost 1 of the 10 cases that the baseline passes" in verdict.sentence
    assert "the limit is 0: it may lose none" in verdict.sentence
    assert verdict.drops["flows:json_syntax"] < 0


def test_where_the_baseline_passes_nothing_or_loses_cases_itself_a_limit_of_0_is_not_decided() -> None:
    nothing = decided(NONE_LOST, passing=0).verdicts[1]
    assert (nothing.verdict, nothing.limits[0].outcome) == ("inconclusive", "uninformative")
    assert "the baseline passes no case of flows:json_syntax" in nothing.sentence
    noisy = decided(NONE_LOST, again=rows_of("bf16", lost=1)).verdicts[1]
    assert (noisy.verdict, noisy.limits[0].outcome) == ("inconclusive", "undecidable")
    assert "two passes of the baseline differ on 1 cases" in noisy.sentence


def test_other_limits_on_flows_are_tested_as_on_any_task() -> None:
    policy = {"max_drop": {"flows": "60 %"}, "bands": NONE_LOST["bands"]}
    assert decided(policy).verdicts[1].verdict == "ship"
    tight = decided({**policy, "max_drop": {"flows": "5 %"}}).verdicts[1]
    assert (tight.verdict, tight.limits[0].outcome) == ("inconclusive", "open")
    assert decided({**policy, "max_drop": {"flows": "20 %"}}, lost=12).verdicts[1].verdict == "reject"


def test_no_average_and_no_count_of_questions_includes_flows() -> None:
    decision = decided({"max_average_drop": "10 %", "bands": NONE_LOST["bands"]}, lost=14)
    verdict = decision.verdicts[1]
    assert (verdict.verdict, verdict.average_drop, verdict.items) == ("ship", 0.0, ITEMS)
    row = matrix(decision)[1]
    assert row.mean_score == 0.75
    assert [cell.task for cell in row.cells] == ["gsm8k", "flows"]
    assert [pair.difference for pair in decision.comparisons] == []


@pytest.mark.parametrize(("limit", "passing_stops"), [("0 %", True), ("5 %", False)])
def test_a_variant_whose_flows_share_the_error_stops_early_only_for_a_rejection(
    limit: str, passing_stops: bool
) -> None:
    """An early look would test the flows with that look's share of the error; a limit of 0 needs none."""
    bands = {"ship": "90 %", "monitor": "92 %", "ab_test": "95 %"}
    limits = {"name": "ours", "max_drop": {"gsm8k": "90 %", "flows": limit}, "bands": bands}
    use_case = UseCase.model_validate(limits)
    before = rows_of("bf16")
    baseline = candidate(
        Weights(variant="bf16", baseline_digest="0" * 64),
        scores_of("bf16", before),
        "s",
        saved_answers.by_task(records.table(before)),
    )
    rule = Stopping(use_case, baseline, Weights(variant="int8", baseline_digest="0" * 64), 1)
    for score, stops in ((0.0, True), (1.0, passing_stops)):
        rows = [record("int8", "gsm8k", item, score * float(item % 4 > 0)) for item in range(ITEMS)]
        scores = scores_of("int8", rows).model_copy(update={"look": 2, "looks": 4, "planned_items": ITEMS})
        assert rule.enough(scores, saved_answers.by_task(records.table(rows))) == stops


def test_checks_of_one_case_count_as_one_lost_case() -> None:
    before = [record("b", "flows:forbids", item, 1.0, f"case{item // 3}") for item in range(30)]
    after = [record("v", "flows:forbids", item, float(item > 2), f"case{item // 3}") for item in range(30)]
    tables = (saved_answers.by_task(records.table(rows))["flows:forbids"] for rows in (before, after))
    from quantgate.components.evidence.no_loss import no_loss_test

    test = no_loss_test(*tables)
    assert (test.lost, test.cases, test.items) == (1, 10, 30)


@pytest.mark.parametrize(("cases", "upper"), [(14, 0.193), (59, 0.0495), (299, 0.00997)])
def test_how_many_cases_without_a_loss_show_what(cases: int, upper: float) -> None:
    assert NoLossTest(0, cases).upper(0.05) == pytest.approx(upper, rel=0.01)


def test_the_examples_have_what_broke_with_its_reason_up_to_a_number() -> None:
    lost = flips(rows_of("bf16"), rows_of("int8", lost=12))
    shown = examples(lost)
    assert len(shown) == BROKEN_FLOWS
    assert {flip.task for flip in shown} == {"flows"}
    assert (shown[0].before, shown[0].after) == ("answer of bf16", "answer of int8")
    assert shown[0].reason == "json_syntax: it is not JSON"
