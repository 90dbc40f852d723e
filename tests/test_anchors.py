"""The items that tinyBenchmarks chose: which rows they are, when they are the tiny stage, and how they are scored."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from quantgate.components.benchmarks.anchors import anchor_scores, anchored_benchmarks, check_parameters
from quantgate.components.benchmarks.harness import Prepared, item_order, prepare
from quantgate.components.benchmarks.row_sources import Folder
from quantgate.components.benchmarks.splits import Rows, Split
from quantgate.components.benchmarks.suites import SUITES, suite_named
from quantgate.components.errors import PrerequisiteError
from quantgate.components.resolve.checks import check_irt_parameters
from tests.support.anchored import fitted, record
from tests.support.benchmark_data import laid_out, lines_of, shared_data

FULL_ROWS = {
    "arc_challenge": "ai2_arc/ARC-Challenge/test",
    "gsm8k": "gsm8k/test",
    "hellaswag": "hellaswag/validation",
    "mmlu": "mmlu/test",
    "truthfulqa_mc2": "truthfulqa/multiple_choice_validation",
    "winogrande": "winogrande/validation",
}
FIELDS = ("question", "choices", "answer", "answerKey", "subject", "ctx", "endings", "sentence", "option1", "option2")


def content(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row that say which item it is."""
    return {name: row[name] for name in FIELDS if name in row}


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(file)]


@pytest.mark.parametrize("task", FULL_ROWS)
def test_the_anchors_are_tinybenchmarks_rows_among_all_rows(task: str) -> None:
    benchmark, data = anchored_benchmarks()[task], shared_data()
    rows = rows_of(data / f"{FULL_ROWS[task]}.jsonl")
    tiny = rows_of(data / f"tiny/{benchmark.tiny}.jsonl")
    assert len(rows) == benchmark.items
    assert [content(rows[anchor]) for anchor in benchmark.anchors] == [content(row) for row in tiny]


@pytest.mark.slow  # reads MMLU's 57 subjects
def test_the_tiny_stage_of_mmlu_asks_tinymmlus_questions_in_their_subjects(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    (mmlu,) = (task for task in SUITES["openllm"].tasks if task.task == "mmlu")
    prepared = prepare(mmlu, Folder(laid_out(tmp_path_factory)))
    chosen = [
        (prepared.leaves[leaf].cluster, prepared.leaves[leaf].task.rows[item]) for leaf, item in prepared.chosen("tiny")
    ]
    published = rows_of(shared_data() / "tiny/tinyMMLU.jsonl")
    assert len(chosen) == 100
    assert {(subject, row["question"], *row["choices"]) for subject, row in chosen} == {
        (row["subject"], row["question"], *row["choices"]) for row in published
    }
    # as `anchor_scores` relies on: subjects and positions sort like the positions among all rows
    by_record = sorted(chosen, key=lambda subject_and_row: subject_and_row[0])
    rows = rows_of(shared_data() / "mmlu/test.jsonl")
    assert [content(row) for _, row in by_record] == [content(rows[anchor]) for anchor in sorted(set(mmlu.anchors))]


def test_an_item_that_tinybenchmarks_names_twice_is_asked_once() -> None:
    tasks = {task.task: task for task in SUITES["openllm"].tasks}
    assert tasks.keys() == anchored_benchmarks().keys()
    for name, benchmark in anchored_benchmarks().items():
        assert tasks[name].anchors == benchmark.anchors
        assert (tasks[name].full, len(benchmark.anchors)) == (benchmark.items, 100)
        assert tasks[name].tiny == len(set(benchmark.anchors))
    assert {name: task.tiny for name, task in tasks.items() if task.tiny != 100} == {
        "arc_challenge": 99,
        "truthfulqa_mc2": 99,
    }


def test_a_limit_makes_the_tiny_stage_a_random_sample() -> None:
    for task in suite_named("openllm", limit=816).tasks:
        assert (task.anchors, task.full) == ((), 816)
    full_stages = {task.task: task.anchors for task in suite_named("openllm", limit=1172).tasks}
    assert [name for name, anchors in full_stages.items() if anchors] == ["arc_challenge", "truthfulqa_mc2"]
    assert all(task.anchors for task in suite_named("arm").tasks)
    assert not any(task.anchors for name in ("demo", "quick", "tiny", "code") for task in SUITES[name].tasks)


class Questions817:
    """So many rows in TruthfulQA's form."""

    description = "rows of the tests"

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def split(self, _wanted: Split) -> Rows:
        targets = {"choices": ["yes", "no"], "labels": [1, 0]}
        rows = [{"question": f"question {number}", "mc2_targets": targets} for number in range(self.rows)]
        return Rows(datasets.Dataset.from_list(rows), "0" * 64, "tests")


def truthful(rows: int = 817) -> Prepared:
    (task,) = (task for task in SUITES["openllm"].tasks if task.task == "truthfulqa_mc2")
    return prepare(task, Questions817(rows))


@pytest.mark.slow
def test_the_tiny_stage_asks_the_anchors_and_the_full_stage_all_items() -> None:
    prepared = truthful()
    assert prepared.chosen("tiny") == [(0, anchor) for anchor in sorted(set(prepared.row.anchors))]
    assert prepared.chosen("full") == [(0, item) for item in range(817)]


def test_an_interim_look_is_at_a_random_sample_in_which_an_anchor_is_as_likely_as_any_item() -> None:
    prepared = truthful()
    sample = [item for _, item in prepared.chosen("full", 0.25)]
    assert sample == sorted(item_order(817)[:205])
    anchors_in_sample = len({*sample} & {*prepared.row.anchors})
    assert 12 <= anchors_in_sample <= 38, "a quarter of the 99 anchors, give or take three standard errors"


def test_rows_of_another_number_than_tinybenchmarks_chose_from_are_refused() -> None:
    with pytest.raises(PrerequisiteError, match=r"has 818 items of truthfulqa_mc2; tinyBenchmarks chose .* from 817"):
        truthful(818)
    with pytest.raises(PrerequisiteError, match=r"has 816 items of truthfulqa_mc2; 817 are needed"):
        truthful(816)


def test_the_scores_are_in_the_anchors_order_and_an_item_named_twice_counts_twice() -> None:
    records = [record(5, 0.2), record(0, 0.1), record(9, 0.3)]
    assert anchor_scores((9, 0, 9, 5), records) == [0.3, 0.1, 0.3, 0.2]


def test_the_subjects_come_one_after_the_other() -> None:
    records = [record(0, 0.3, "law"), record(7, 0.2, "algebra"), record(2, 0.1, "algebra")]
    assert anchor_scores((107, 2, 7), records) == [0.3, 0.1, 0.2]


@pytest.mark.parametrize("items", [(0, 5), (0, 5, 9, 10)])
def test_too_few_or_too_many_answers_are_no_screen(items: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        anchor_scores((9, 0, 5), [record(item, 1.0) for item in items])


def test_parameters_are_for_suites_that_ask_tinybenchmarks_items() -> None:
    parameters = {benchmark.tiny: fitted(task) for task, benchmark in anchored_benchmarks().items()}
    for suite in (suite_named("openllm"), suite_named("tiny"), suite_named("arm,code")):
        check_irt_parameters("tinyBenchmarks.pkl", parameters, suite, tiny_stage=True)
    for suite in (suite_named("demo"), suite_named("openllm", limit=800), suite_named("tiny", limit=99)):
        with pytest.raises(PrerequisiteError, match="no task that asks these alone. Choose --suite tiny or openllm "):
            check_irt_parameters("tinyBenchmarks.pkl", parameters, suite, tiny_stage=True)


def test_parameters_are_of_no_use_where_the_whole_benchmark_is_asked_at_once() -> None:
    parameters = {benchmark.tiny: fitted(task) for task, benchmark in anchored_benchmarks().items()}
    check_irt_parameters("tinyBenchmarks.pkl", parameters, suite_named("tiny"), tiny_stage=False)
    with pytest.raises(PrerequisiteError, match="no task that asks these alone. Choose --suite tiny without"):
        check_irt_parameters("tinyBenchmarks.pkl", parameters, suite_named("openllm"), tiny_stage=False)


def test_parameters_for_other_items_are_refused() -> None:
    right = fitted("gsm8k")
    check_parameters("gsm8k", {"tinyGSM8k": right})
    changed = right.anchors.copy()
    changed[3] += 1
    with pytest.raises(PrerequisiteError, match="1 of the 100 anchors differ, and they are of 1,319 items"):
        check_parameters("gsm8k", {"tinyGSM8k": replace(right, anchors=changed)})
    with pytest.raises(PrerequisiteError, match="0 of the 100 anchors differ, and they are of 1,320 items, not of"):
        check_parameters("gsm8k", {"tinyGSM8k": fitted("gsm8k", 1320)})
