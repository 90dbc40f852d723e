"""The command line in this process: what it prints and leaves, without the seconds that a new interpreter takes."""

import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO

import pytest

from quantgate.pipelines.cli.app import answer, app


@dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def quantgate(*arguments: str, **environment: str) -> Done:
    """Run the command as `main` does, with these variables in the environment; an unforeseen error is raised."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["quantgate", *arguments])
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as end:
            answer(list(arguments))
    return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())


def printed_by(command: str) -> str:
    """What `quantgate COMMAND` prints on a hundred columns."""
    out = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setenv("COLUMNS", "100")
        patch.setenv("TERM", "dumb")
        status = app(command.split(), prog_name="quantgate", standalone_mode=False)  # typer's runner has 80 columns
    assert not status
    return out.getvalue()
