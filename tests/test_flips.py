"""The questions that a variant answers otherwise: which, in which order, and how the report shows them."""

from pathlib import Path

import pytest

from components.evaluate.item_record import chosen_answer
from components.gate.flipped_items import columns, examples, flips, share_of_right
from components.report.forest import forest_plot
from components.run.records import Record
from tests.support.reported import make_decision
from tests.test_report import judged, markdown_of, page_of


def record(item: int, score: float, logliks: list[float], variant: str = "int8", task: str = "arc") -> Record:
    choices = ("yes", "no")
    return Record(
        variant=variant,
        task=task,
        item_id=item,
        item_hash="",
        metric="acc",
        score=score,
        target=0,
        logliks=logliks,
        greedy=[],
        prompt_hash="",
        tokens=1,
        truncated=False,
        question=f"Question {item}?",
        choices=choices,
        answer=chosen_answer(logliks, choices, "acc") if logliks else "a text",
    )


def test_only_what_changed_is_told_the_lost_first_and_the_most_telling_on_top() -> None:
    before = [record(1, 1, [-1, -2]), record(2, 1, [-1, -9]), record(3, 0, [-2, -1]), record(4, 1, [-1, -2])]
    after = [record(1, 0, [-2, -1.9]), record(2, 0, [-9, -1]), record(3, 1, [-1, -2]), record(4, 1, [-1, -3])]
    found = flips(before, after)
    assert [(each.item_id, each.lost) for each in found] == [(2, True), (1, True), (3, False)]
    assert (found[0].before, found[0].after, found[0].right) == ("yes", "no", "yes")
    assert found[0].moved == pytest.approx(-0.99933, abs=1e-4)
    assert found[0].question == "Question 2?"
    assert [each.item_id for each in examples(found)] == [2, 1]


def test_a_text_has_no_probability_to_move_and_keeps_its_order() -> None:
    assert share_of_right(record(1, 1, [])) == 0.0
    found = flips([record(n, 1, []) for n in (2, 1)], [record(n, 0, []) for n in (2, 1)])
    assert [each.item_id for each in found] == [1, 2]


def test_an_item_that_the_baseline_was_not_asked_is_no_flip() -> None:
    assert flips([record(1, 1, [-1, -2])], [record(2, 0, [-2, -1]), record(1, 0, [-2, -1], task="other")]) == []


def test_the_table_has_a_column_a_field() -> None:
    table = columns(flips([record(1, 1, [-1, -2])], [record(1, 0, [-2, -1])]))
    assert table["question"] == ["Question 1?"]
    assert {len(each) for each in table.values()} == {1}
    assert columns([])["variant"] == []


@pytest.mark.parametrize(
    ("metric", "answer"), [("acc", "a long choice"), ("acc_norm", "a long choice"), ("exact_match", "")]
)
def test_the_answer_is_the_choice_that_the_metric_takes(metric: str, answer: str) -> None:
    assert chosen_answer([-3.0, -2.9], ("short", "a long choice"), metric) == answer


def test_length_counts_only_where_the_metric_is_normalized() -> None:
    assert chosen_answer([-2.0, -2.5], ("short", "a long choice"), "acc") == "short"
    assert chosen_answer([-2.0, -2.5], ("short", "a long choice"), "acc_norm") == "a long choice"


def test_the_report_shows_what_was_lost(tmp_path: Path) -> None:
    lost = flips([record(7, 1, [-1, -2])], [record(7, 0, [-2, -1])])
    decision = judged().model_copy(update={"examples": examples(lost)})
    page = page_of(decision, tmp_path)
    assert "Question 7?" in " ".join(page.texts["blockquote"])
    text = markdown_of(decision, tmp_path)
    assert "- Right: yes" in text
    assert "- int8: no" in text


def test_the_forest_has_a_lane_for_each_limit_on_a_drop_and_none_without_evidence() -> None:
    decision = judged()
    lanes = sum(limit.kind == "drop" for row in decision.verdicts for limit in row.limits)
    assert lanes > 0
    assert forest_plot(decision).count('class="lane"') == lanes
    assert forest_plot(make_decision()) == ""
