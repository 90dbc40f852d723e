"""The suites of what the field uses: their definitions load, their prompts build, and each item gets one number."""

import random
from dataclasses import replace
from pathlib import Path

import nltk
import pytest

from quantgate.components.benchmarks import ruler, tasks
from quantgate.components.benchmarks.harness import Leaf, Prepared, prepare, splits_wanted
from quantgate.components.benchmarks.prompts import SHOTS_SEED
from quantgate.components.benchmarks.suite_check import check_packages
from quantgate.components.benchmarks.suites import SUITES, SuiteTask, suite_named
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.item_record import item_score
from tests.support.made_rows import NUMBERS, MadeRows

pytestmark = pytest.mark.slow  # lm-eval's own modules for these tasks take seconds to import

ROWS = {task.task: task for name in ("leaderboard2", "math", "long-context") for task in SUITES[name].tasks}


@pytest.fixture(autouse=True)
def _no_model_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stand-in for the model of IFEval's checks is empty: it must not stay where NLTK looks."""
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nltk.data, "path", list(nltk.data.path))


def prepared(row: SuiteTask) -> Prepared:
    """The task on rows of its shape."""
    return prepare(replace(row, tiny=0, full=0), MadeRows())


def contexts(leaf: Leaf, items: list[int]) -> dict[int, str]:
    """The prompt of each of these items."""
    leaf.task.pick(items)
    leaf.task.set_fewshot_seed(SHOTS_SEED)
    leaf.task.build_all_requests()
    return {instance.doc_id: str(instance.args[0]) for instance in leaf.task.instances}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_prompt_of_a_task_builds_on_rows_of_its_shape(row: SuiteTask) -> None:
    task = prepared(row)
    assert sum(leaf.items for leaf in task.leaves) == task.row.full > 0
    for leaf in task.leaves:
        built = contexts(leaf, list(range(leaf.items)))
        assert sorted(built) == list(range(leaf.items))
        for position, doc in leaf.task.doc_iterator():
            question, _ = leaf.shown(doc)
            assert question in built[position]


def test_the_second_leaderboard_s_groups_have_all_of_their_tasks() -> None:
    sizes = {name: len(tasks.raw_definitions(name)) for name in ROWS if name.startswith("leaderboard")}
    assert sizes == {
        "leaderboard_mmlu_pro": 1,
        "leaderboard_gpqa_extended": 1,
        "leaderboard_math_hard": 7,
        "leaderboard_ifeval": 1,
        "leaderboard_bbh": 24,
        "leaderboard_musr": 3,
    }


def test_the_second_leaderboard_has_its_own_shots() -> None:
    for name, row in ROWS.items():
        if name.startswith("leaderboard"):
            assert {definition.get("num_fewshot", 0) for definition in tasks.raw_definitions(name)} == {row.shots}


def test_rows_that_lm_eval_leaves_out_are_no_items() -> None:
    task = prepared(ROWS["leaderboard_math_hard"])
    assert [leaf.items for leaf in task.leaves] == [1] * 7, "of the six rows one is of level 5"
    assert "What is 4?" in contexts(task.leaves[0], [0])[0]


def test_an_item_of_gpqa_has_the_same_order_of_choices_alone_and_among_all() -> None:
    leaf = prepared(ROWS["leaderboard_gpqa_extended"]).leaves[0]
    whole = contexts(leaf, list(range(6)))
    random.seed(5)
    again = prepared(ROWS["leaderboard_gpqa_extended"]).leaves[0]
    assert contexts(again, [1, 4]) == {item: whole[item] for item in (1, 4)}
    answers = {str(doc["answer"]) for _, doc in leaf.task.doc_iterator()}
    assert len(answers) > 1


@pytest.mark.parametrize(
    ("task", "right", "wrong"),
    [
        ("minerva_math500", " The answer is $\\boxed{3}$.", " The answer is $\\boxed{4}$."),
        ("leaderboard_math_hard", " Thus $4$.\nFinal Answer: The final answer is $4$. I hope it is correct.", " $5$"),
        ("leaderboard_ifeval", '"one two"', "one, two"),
        ("ruler_8192", "hay and FOUR", "none"),
    ],
)
def test_an_answer_gets_one_number(task: str, right: str, wrong: str) -> None:
    row = ROWS[task]
    leaf = prepared(row).leaves[0]
    leaf.task.pick([min(3, leaf.items - 1)])
    ((_, doc),) = leaf.task.doc_iterator()
    assert item_score(leaf.task.process_results(doc, [right])[row.metric], row.metric) == 1.0
    assert item_score(leaf.task.process_results(doc, [wrong])[row.metric], row.metric) == 0.0


def test_a_metric_with_a_list_for_each_item_counts_as_its_mean() -> None:
    leaf = prepared(ROWS["leaderboard_ifeval"]).leaves[0]
    leaf.task.pick([0])
    ((_, doc),) = leaf.task.doc_iterator()
    scores = leaf.task.process_results(doc, ["no comma, or one"])
    followed = leaf.task.process_results(doc, ['"one, two"'])
    assert item_score(scores["inst_level_strict_acc"], "inst_level_strict_acc") == 0.0
    assert item_score(followed["inst_level_strict_acc"], "inst_level_strict_acc") == 0.5


def test_ruler_asks_after_the_start_of_its_answer() -> None:
    leaf = prepared(ROWS["ruler_16384"]).leaves[0]
    assert contexts(leaf, [2])[2] == f"Hay and {NUMBERS[2]}. What is the number? The number is"


def test_ruler_s_rows_are_not_fetched_but_made() -> None:
    assert [split.file for split in splits_wanted(ROWS["ruler_4096"])] == ["nltk/punkt_tab/english/files.parquet"]
    assert ruler.splits_of(["gsm8k", "ruler_4096"])[0].file == "ruler/4096-niah_multikey_2/test.parquet"
    assert ruler.length_of("ruler_131072") == 131072
    assert [ruler.length_of(name) for name in ("ruler_cwe", "ruler_12", "ruler", "xruler_4096")] == [0] * 4


def test_a_missing_package_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantgate.components.benchmarks.suite_check.find_spec", lambda _name: None)
    with pytest.raises(PrerequisiteError, match=r"minerva_math500 needs math_verify, .*pip install 'quantgate\[math"):
        check_packages(suite_named("math"))
    with pytest.raises(PrerequisiteError, match=r"ruler_4096 needs wonderwords"):
        check_packages(suite_named("long-context"))
    check_packages(suite_named("openllm"))
