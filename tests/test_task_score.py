"""A task's score over its records: samples count as one item, lengths are those of all answers."""

import math
from typing import Any

import pytest

from quantgate.components.benchmarks.suites import SuiteTask
from quantgate.components.benchmarks.task_score import percentile_95, score_of
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.components.run.records import Record, read, write

ROW = SuiteTask("gsm8k", "exact_match", 5, 0.0, 10, 100)


def record(item: int, score: float, **fields: Any) -> Record:
    return Record("int8", "gsm8k", item, "h", "exact_match", score, -1, [], [], "p", 10, truncated=False, **fields)


def test_samples_of_one_item_count_as_one_item_with_their_mean() -> None:
    answers = [(0, 1.0), (0, 0.0), (1, 1.0), (1, 1.0), (2, 0.0), (2, 0.0)]
    rows = [record(item, score, sample=number % 2) for number, (item, score) in enumerate(answers)]
    task_score = score_of(ROW, rows, "1", PromptSettings(samples=2))
    assert (task_score.score, task_score.items, task_score.answers) == (0.5, 3, 6)
    assert task_score.stderr == pytest.approx(0.5 / math.sqrt(3))


def test_lengths_are_the_median_and_the_95th_percentile_of_all_answers() -> None:
    rows = [record(item, 1.0, answer_tokens=item + 1, thinking_tokens=item, answer_limit=512) for item in range(40)]
    lengths = score_of(ROW, rows, "1", PromptSettings()).lengths
    assert lengths is not None
    assert (lengths.median, lengths.p95, lengths.thinking_median, lengths.limit) == (20.5, 38, 19.5, 512)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (19, 19), (20, 19), (21, 20), (100, 95), (101, 96)])
def test_the_percentile_is_the_smallest_value_that_covers_95_percent(count: int, expected: int) -> None:
    assert percentile_95(range(count, 0, -1)) == expected


def test_lengths_that_are_not_all_known_are_not_reported() -> None:
    rows = [record(0, 1.0, answer_tokens=5), record(1, 1.0)]
    assert score_of(ROW, rows, "1", PromptSettings()).lengths is None


def test_answers_without_thinking_have_no_median_of_it() -> None:
    task_score = score_of(
        ROW, [record(item, 1.0, answer_tokens=5, thinking_tokens=0) for item in range(3)], "1", PromptSettings()
    )
    assert task_score.lengths is not None
    assert task_score.lengths.thinking_median is None


def test_records_keep_lengths_and_samples(tmp_path: Any) -> None:
    rows = [record(0, 1.0, sample=1, answer_tokens=5, thinking_tokens=3, answer_limit=512), record(1, 0.0)]
    write(rows, tmp_path / "records.parquet")
    assert read(tmp_path / "records.parquet") == rows
