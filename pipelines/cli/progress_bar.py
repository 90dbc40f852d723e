"""A progress bar in the terminal for a step outside a pipeline."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from quantgate.components.run.progress import Event, Step
from quantgate.pipelines.terminal_output import print_text


class Bar(Step):
    """A step that moves a progress bar instead of printing lines."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        super().__init__(None, "", "")
        self.progress, self.task = progress, task

    def report(self, state: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Move the bar to `done` of `total`."""
        self.progress.update(self.task, completed=done, total=total or None, description=note or state)


class ErrorLines(Step):
    """A step that prints its progress as lines on stderr: stdout is for a script."""

    def write(self, event: Event) -> None:
        """Print the event."""
        print_text(f"quantgate: {event.name}: {event.done}/{event.total} {event.note}".rstrip(), to_stderr=True)


@contextmanager
def bar(console: Console, name: str, *, lines_to_stderr: bool = False) -> Iterator[Step]:
    """A step with a progress bar in a terminal, with plain lines elsewhere."""
    if not console.is_terminal:
        yield ErrorLines(None, name, "") if lines_to_stderr else Step(None, name, "")
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, progress.add_task("", total=None))
