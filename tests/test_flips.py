"""The questions that a variant answers differently: their selection, their order, and how the report shows them."""

from pathlib import Path

import pytest

from quantgate.components.gate.flipped_items import columns, examples, flips, share_of_right
from quantgate.components.report.forest import forest_plot
from quantgate.components.run.records import Record
from tests.support.reported import make_decision
from tests.test_report import decision_by_evidence, markdown_of, page_of


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
        answer=choices[logliks.index(max(logliks))] if logliks else "a text",
    )


def test_only_changed_answers_are_listed_lost_ones_first_and_the_clearest_on_top() -> None:
    before = [record(1, 1, [-1, -2]), record(2, 1, [-1, -9]), record(3, 0, [-2, -1]), record(4, 1, [-1, -2])]
    after = [record(1, 0, [-2, -1.9]), record(2, 0, [-9, -1]), record(3, 1, [-1, -2]), record(4, 1, [-1, -3])]
    flipped = flips(before, after)
    assert [(flip.item_id, flip.lost) for flip in flipped] == [(2, True), (1, True), (3, False)]
    assert (flipped[0].before, flipped[0].after, flipped[0].right) == ("yes", "no", "yes")
    assert flipped[0].moved == pytest.approx(-0.99933, abs=1e-4)
    assert flipped[0].question == "Question 2?"
    assert [flip.item_id for flip in examples(flipped)] == [2, 1]


def test_generated_answers_have_no_probability_and_keep_their_order() -> None:
    assert share_of_right(record(1, 1, [])) == 0.0
    flipped = flips([record(n, 1, []) for n in (2, 1)], [record(n, 0, []) for n in (2, 1)])
    assert [flip.item_id for flip in flipped] == [1, 2]


def test_an_item_that_the_baseline_did_not_answer_is_not_a_flip() -> None:
    assert flips([record(1, 1, [-1, -2])], [record(2, 0, [-2, -1]), record(1, 0, [-2, -1], task="other")]) == []


def test_the_table_has_one_column_per_field() -> None:
    table = columns(flips([record(1, 1, [-1, -2])], [record(1, 0, [-2, -1])]))
    assert table["question"] == ["Question 1?"]
    assert {len(column) for column in table.values()} == {1}
    assert columns([])["variant"] == []


def test_the_report_shows_the_lost_questions(tmp_path: Path) -> None:
    lost = flips([record(7, 1, [-1, -2])], [record(7, 0, [-2, -1])])
    decision = decision_by_evidence().model_copy(update={"examples": examples(lost)})
    page = page_of(decision, tmp_path)
    assert "Question 7?" in " ".join(page.texts["blockquote"])
    text = markdown_of(decision, tmp_path)
    assert "- Right: yes" in text
    assert "- int8: no" in text


def test_the_forest_plot_has_a_lane_for_each_limit_on_a_drop_and_none_without_evidence() -> None:
    decision = decision_by_evidence()
    lanes = sum(limit.kind == "drop" for row in decision.verdicts for limit in row.limits)
    assert lanes > 0
    assert forest_plot(decision).count('class="lane"') == lanes
    assert forest_plot(make_decision()) == ""
