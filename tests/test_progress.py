"""A run's progress events."""

from pathlib import Path

import pytest

from components.errors import PrerequisiteError
from components.run import progress


def states(folder: Path) -> list[tuple[str, str, str, str]]:
    events, _ = progress.read(folder / "progress.jsonl")
    return [(event.variant, event.step, event.state, event.note) for event in events]


def test_a_step_reports_its_start_and_its_end(tmp_path: Path) -> None:
    with progress.step(str(tmp_path), "deploy", "int8") as step:
        step.end(note="up")
    assert states(tmp_path) == [("int8", "deploy", "running", ""), ("int8", "deploy", "done", "up")]


def test_a_failed_variant_is_reported_with_its_reason(tmp_path: Path) -> None:
    with progress.step(str(tmp_path), "deploy", "int8") as step:
        step.end(failure="no memory", note="up")
    assert states(tmp_path)[-1] == ("int8", "deploy", "failed", "no memory")


def test_an_exception_is_reported_and_propagates(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), progress.step(str(tmp_path), "gate"):
        raise ValueError("boom")
    assert states(tmp_path)[-1] == ("", "gate", "failed", "ValueError: boom")


def test_an_error_that_the_user_can_fix_is_reported_without_the_exceptions_name(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError), progress.step(str(tmp_path), "resolve"):
        raise PrerequisiteError("Give another folder.")
    assert states(tmp_path)[-1] == ("", "resolve", "failed", "Give another folder.")


def test_only_complete_lines_are_read(tmp_path: Path) -> None:
    with progress.step(str(tmp_path), "gate"):
        pass
    file = tmp_path / "progress.jsonl"
    with file.open("a") as stream:
        stream.write('{"time": 1, "st')
    events, offset = progress.read(file)
    assert [event.state for event in events] == ["running", "done"]
    assert progress.read(file, offset) == ([], offset)


def test_results_in_a_bucket_leave_no_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with progress.step("s3://bucket/results", "gate"):
        pass
    assert list(tmp_path.iterdir()) == []
