"""The progress display of a run."""

import io

from rich.console import Console

from components.run.progress import DONE, FAILED, RUNNING, SKIPPED, Event
from pipelines import watch
from pipelines.cluster import TASKS


def drawn(board: watch.Board) -> str:
    console = Console(file=io.StringIO(), width=110)
    console.print(board.table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_shows_finished_steps_running_steps_and_their_progress() -> None:
    board = watch.Board(["bf16", "int8"])
    for event in (
        Event(0, "resolve", "", RUNNING),
        Event(4, "resolve", "", DONE),
        Event(10, "quantize", "int8", RUNNING),
        Event(75, "quantize", "int8", DONE),
        Event(80, "deploy", "int8", FAILED, note="no memory"),
        Event(81, "tiny", "int8", SKIPPED),
        Event(90, "tiny", "bf16", RUNNING, 40, 100),
    ):
        board.add(event)
    header, bf16, int8, *_, whole = [line for line in drawn(board).splitlines() if line.strip()]
    assert header.split() == ["variant", "quantize", "deploy", "tiny", "full", "undeploy"]
    assert "40/100" in bf16
    assert "✓ 1:05" in int8
    assert "✗" in int8
    assert "–" in int8
    assert "resolve" in whole
    assert "✓ 0:04" in whole


def test_the_table_has_every_step_of_the_pipeline() -> None:
    names = {"evaluate-tiny": "tiny", "evaluate-full": "full"}  # as the steps call themselves in their events
    shown = {*watch.PER_VARIANT, *watch.SOMETIMES, *watch.PER_RUN}
    assert shown == {names.get(task, task) for task in TASKS}


def test_the_live_table_leaves_a_line_for_each_failure() -> None:
    console = Console(file=io.StringIO(), width=110, force_terminal=True)
    with watch.display(["int8"], console) as show:
        show([Event(0, "deploy", "int8", RUNNING), Event(1, "deploy", "int8", FAILED, note="no memory")])
    assert isinstance(console.file, io.StringIO)
    assert "int8 deploy failed: no memory" in console.file.getvalue()


def plain(events: list[Event], quiet: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    with watch.lines(console, quiet) as following:
        following(events)
    assert isinstance(console.file, io.StringIO)
    return [line.split(" ", 1)[1] for line in console.file.getvalue().splitlines()]


def test_plain_lines_report_each_step_and_every_tenth_item() -> None:
    events = [Event(0, "tiny", "int8", RUNNING)]
    events += [Event(0, "tiny", "int8", RUNNING, done, 100) for done in range(1, 101)]
    events += [Event(0, "tiny", "int8", DONE, note="piqa 0.650")]
    lines = plain(events, quiet=False)
    assert lines[0] == "int8 tiny running"
    assert lines[1:11] == [f"int8 tiny running {tenth}0/100" for tenth in range(1, 11)]
    assert lines[11:] == ["int8 tiny done: piqa 0.650"]


def test_quiet_reports_only_failures() -> None:
    events = [
        Event(0, "tiny", "int8", RUNNING),
        Event(0, "tiny", "int8", FAILED, note="died"),
        Event(0, "gate", "", DONE),
    ]
    assert plain(events, quiet=True) == ["int8 tiny failed: died"]
