"""A run's progress events."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run import progress


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


def test_an_error_that_the_user_can_fix_ends_a_task_of_kfp_without_a_traceback(tmp_path: Path) -> None:
    message = "The model is not there.\nGive another one."
    code = "from quantgate.components.errors import PrerequisiteError; from quantgate.components.run import progress\n"
    code += f"with progress.step({str(tmp_path)!r}, 'resolve'): raise PrerequisiteError({message!r})"
    environment = {**os.environ, "_KFP_RUNTIME": "true"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith(f"quantgate: resolve: failed - {message}\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(PrerequisiteError("No model.\nGive one."), "No model.\nGive one."), (ValueError("boom"), "ValueError: boom")],
)
def test_the_reason_of_a_failed_step_is_its_pods_termination_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    message = tmp_path / "termination-log"
    monkeypatch.setattr(progress, "TERMINATION_MESSAGE", message)
    for expected in (False, True):  # outside of a pod there is no such file, and none is made
        with pytest.raises(type(error)), progress.step(str(tmp_path / "run"), "gate"):
            raise error
        assert message.exists() is expected
        message.touch()
    assert message.read_text() == reason


def test_a_pods_log_contains_the_events(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("s3://bucket/results/run", "track", "int8") as step:
        for done in range(1, 11):
            step.advance(done, 10)
        step.advance(10, 10)
        step.judge([("int8", "ship", "It is as good.")])
        step.end(note="line one\nline two", to_do="Send it.")
    log = capsys.readouterr().out
    begun, first, last, ended = progress.events_in(f"{log}{progress.MARK}" + '{"time": 1, "st')
    assert (begun.state, begun.variant, begun.step) == ("running", "int8", "track")
    assert [(event.done, event.total) for event in (first, last)] == [(1, 10), (10, 10)]  # not every one in between
    assert (ended.state, ended.note, ended.to_do) == ("done", "line one\nline two", "Send it.")
    assert ended.verdicts == (("int8", "ship", "It is as good."),)
    assert [event.results for event in (begun, last, ended)] == ["", "", "s3://bucket/results/run"]


def test_an_event_of_another_version_is_read_without_what_is_unknown() -> None:
    line = progress.MARK + '{"time": 1, "step": "gate", "variant": "", "state": "done", "colour": "red"}'
    assert progress.events_in(line) == [progress.Event(1, "gate", "", "done")]


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
