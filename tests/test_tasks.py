"""lm-eval's definitions as they are used here, and the shots of the items that are picked out of a benchmark."""

import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from lm_eval.api.task import ConfigurableTask

from quantgate.components.benchmarks import tasks
from quantgate.components.benchmarks.custom import read_set
from quantgate.components.benchmarks.harness import Picked, prepare, splits_wanted
from quantgate.components.benchmarks.prompts import SHOTS_SEED
from quantgate.components.benchmarks.splits import Rows, Split
from quantgate.components.benchmarks.suites import SUITES, SuiteTask, suite_named
from quantgate.components.errors import PrerequisiteError

pytestmark = pytest.mark.slow  # loads every task of lm-eval that a suite names

ARC = SuiteTask("arc_challenge", "acc_norm", shots=3, chance=0.25, tiny=2, full=20)


class School:
    """Rows in ARC's form: twenty that are scored, eight for shots if `with_train`."""

    description = "rows of the tests"

    def __init__(self, with_train: bool) -> None:
        self.with_train = with_train

    def split(self, wanted: Split) -> Rows | None:
        if wanted.split == "train" and not self.with_train:
            return None
        names = [f"{wanted.split} {number}" for number in range(8 if wanted.split == "train" else 20)]
        rows = [
            {
                "question": name,
                "choices": {"text": ["yes", "no"], "label": ["A", "B"]},
                "answerKey": "AB"[len(name) % 2],
            }
            for name in names
        ]
        return Rows(datasets.Dataset.from_list(rows), wanted.split.ljust(64, "0"), "tests")


def contexts(task: Any, items: list[int]) -> dict[int, str]:
    """What stands before the first choice of each item."""
    if isinstance(task, Picked):
        task.pick(items)
    task.set_fewshot_seed(SHOTS_SEED)
    task.build_all_requests()
    return {instance.doc_id: str(instance.args[0]) for instance in task.instances if instance.doc_id in items}


@pytest.mark.parametrize("with_train", [True, False])
def test_an_item_has_the_shots_of_lm_evals_own_run_alone_and_among_all(with_train: bool) -> None:
    task = prepare(ARC, School(with_train)).leaves[0].task
    whole = contexts(task, list(range(20)))
    assert contexts(task, [3, 17]) == {item: whole[item] for item in (3, 17)}
    stock = ConfigurableTask(config={name: value for name, value in vars(task.config).items() if value is not None})
    assert contexts(stock, list(range(20))) == whole


def test_shots_come_from_the_training_split_if_the_source_has_one() -> None:
    prepared = prepare(ARC, School(with_train=True))
    for context in contexts(prepared.leaves[0].task, [0, 5, 19]).values():
        assert context.count("train") == 3
    assert "shots from train" in prepared.origin.describe()


def test_without_a_training_split_shots_come_from_the_scored_items_but_never_the_item_itself() -> None:
    prepared = prepare(ARC, School(with_train=False))
    for item, context in contexts(prepared.leaves[0].task, list(range(20))).items():
        assert context.count(f"Question: test {item}\n") == 1, "as the question, not as a shot"
        assert context.count("Question: test") == 4
    assert prepared.origin.describe().endswith("shots from the same")


@pytest.mark.parametrize("with_train", [True, False])
def test_for_scoring_no_rows_are_prepared_for_shots_and_all_else_is_equal(with_train: bool) -> None:
    whole = prepare(ARC, School(with_train))
    scoring = prepare(ARC, School(with_train), draws_shots=False)
    assert (whole.settings, whole.version, whole.origin) == (scoring.settings, scoring.version, scoring.origin)
    (leaf,), (with_shots,) = scoring.leaves, whole.leaves
    assert (hasattr(leaf.task, "sampler"), hasattr(with_shots.task, "sampler")) == (False, True)
    for task in (leaf.task, with_shots.task):
        task.pick([3, 17])
    for item in (3, 17):
        assert leaf.task.doc(item) == with_shots.task.doc(item)
        assert leaf.shown(leaf.task.doc(item)) == with_shots.shown(with_shots.task.doc(item))


def test_a_source_with_fewer_items_than_the_suite_needs_is_refused() -> None:
    with pytest.raises(PrerequisiteError, match="rows of the tests has 20 items of arc_challenge; 21 are needed"):
        prepare(SuiteTask("arc_challenge", "acc_norm", 0, 0.25, 2, 21), School(with_train=False))


def test_mmlu_is_its_57_subjects() -> None:
    leaves = tasks.leaf_files("mmlu")
    assert len(leaves) == 57
    assert len(splits_wanted(SUITES["openllm"].tasks[0])) == 2 * 57
    assert len(splits_wanted(SUITES["arm"].tasks[0])) == 57, "without shots"
    assert str(tasks.definition(leaves[0])["task"]) == "mmlu_abstract_algebra"


def test_every_task_of_every_suite_exists_in_lm_eval_with_that_metric() -> None:
    for row in (row for suite in SUITES.values() for row in suite.tasks):
        raw = tasks.raw_definitions(row.task)[0]
        metrics = [str(metric["metric"]).rpartition(".")[2] for metric in raw["metric_list"]]
        assert row.metric.replace("pass@1", "pass_at_k") in metrics, row.task
        filters = [filter_["name"] for filter_ in raw.get("filter_list", [])] or ["none"]
        assert row.filter in filters, row.task


def test_no_task_definition_imports_code_that_runs_programs_or_downloads() -> None:
    for row in (row for suite in SUITES.values() for row in suite.tasks):
        tasks.definitions(row.task)
    loaded = {name for name in sys.modules if name.startswith("lm_eval.tasks.")}
    assert not loaded & {f"lm_eval.tasks.{name}" for name in ("humaneval.utils", "mbpp.utils")}
    assert "lm_eval.tasks.tinyBenchmarks.agg_functions" not in loaded


def test_several_suites_are_merged_and_a_common_task_runs_once() -> None:
    both = suite_named("openllm, code,openllm")
    assert [task.task for task in both.tasks][-3:] == ["truthfulqa_mc2", "humaneval", "mbpp"]
    assert len(both.tasks) == 6 + 2


def test_two_suites_with_different_settings_for_a_task_are_refused() -> None:
    with pytest.raises(PrerequisiteError, match="different settings for mmlu"):
        suite_named("arm,openllm")


def test_a_limit_is_the_largest_number_of_items_of_a_task() -> None:
    limited = suite_named("openllm", limit=150)
    assert [(task.tiny, task.full) for task in limited.tasks][:2] == [(100, 150), (100, 150)]
    assert [(task.tiny, task.full) for task in suite_named("code", limit=7).tasks] == [(0, 7), (0, 7)]


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(PrerequisiteError, match="limit of items is -5"):
        suite_named("demo", limit=-5)


def test_a_custom_task_may_not_have_the_name_of_a_benchmark(tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text("name: gsm8k\ndescription: easy\nanswer: exact\n")
    (tmp_path / "items.jsonl").write_text('{"id": 1, "question": "1 + 1?", "answer": "2"}\n')
    with pytest.raises(PrerequisiteError, match="has the name of a benchmark, gsm8k"):
        suite_named("demo", [read_set(tmp_path)])


def test_a_suite_with_programs_has_only_one_look() -> None:
    assert suite_named("code").looks == (1.0,)
    assert suite_named("openllm,code").looks == (1.0,)
    assert len(suite_named("openllm").looks) > 2
