"""Text from outside on the terminal."""

import ast
import io
import json
from pathlib import Path

import pytest
from rich.table import Table

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.progress import FAILED, Event
from quantgate.pipelines import terminal_output, watch
from quantgate.pipelines.cli import app
from quantgate.pipelines.terminal_output import VisibleConsole, visible

ATTACK = "no\x1b]0;owned\x07 memory\x9b2J\r\x7f\u202e\U000e0001\ud800"
SHOWN = "no\\u001b]0;owned\\u0007 memory\\u009b2J\\u000d\\u007f\\u202e\\udb40\\udc01\\ud800"


@pytest.mark.fault("inputs", "a text with escape sequences is printed to the terminal", "they are visible, not obeyed")
def test_control_characters_of_a_text_are_visible_wherever_it_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = VisibleConsole(file=io.StringIO(), width=200, force_terminal=True)
    table = Table("the longest title", style="bold")
    table.add_row("a\x1b]b")
    console.print(table)
    watch.print_event(console, Event(0, "deploy", "int8", FAILED, note=ATTACK))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert printed.count("a\\u001b]b") == 1
    assert "failed: no\\u001b]0;owned memory\\u009b2J\\u007f\\u202e\\udb40\\udc01\\ud800\n" in printed
    assert "\x1b[1m" in printed, "the table's own style stays"
    assert not any(bad in printed for bad in ("\x1b]", "\x07", "\x9b", "\r", "\u202e"))

    def refused(*_arguments: object, **_options: object) -> None:
        raise PrerequisiteError(ATTACK)

    monkeypatch.setattr(app, "app", refused)
    with pytest.raises(SystemExit):
        app.answer([])
    assert capsys.readouterr().err == f"quantgate: {SHOWN}\n"


def test_lines_tabs_and_letters_of_any_script_stay_and_json_stays_json() -> None:
    assert visible("één\t→ 数\n") == "één\t→ 数\n"
    assert json.loads(visible(json.dumps({"note": ATTACK.replace("\x1b", "")}, ensure_ascii=False)))["note"] == (
        ATTACK.replace("\x1b", "")
    )


def test_no_command_prints_past_it() -> None:
    folder = Path(terminal_output.__file__).parent
    names = [
        f"{file.relative_to(folder)}: {node.func.id}"
        for file in folder.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console")
    ]
    assert names == ["terminal_output.py: print"]
