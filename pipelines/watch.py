"""The progress of a run on the terminal: a live table, or plain lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from quantgate.components.run.progress import DONE, FAILED, RUNNING, SKIPPED, Event

PER_VARIANT = ("quantize", "deploy", "tiny", "full", "undeploy")
SOMETIMES = ("flows", "execute")
"""Steps that only runs with flows, or with programs, have."""
WITHIN_A_STEP = ("search",)
"""What a step reports of its own: in a search, execute judges the variant."""
PER_RUN = ("resolve", "gate", "report", "track", "promote", "conclude")
STYLES = {DONE: "green", FAILED: "red", SKIPPED: "dim", RUNNING: "bold"}
SIGNS = {DONE: "✓", FAILED: "✗", SKIPPED: "–"}
Watch = Callable[[list[Event]], None]


@dataclass(frozen=True)
class BoardCell:
    """The progress of one step of one variant."""

    began: float
    last: Event


class Board:
    """The progress of a run: one cell per variant and step."""

    def __init__(self, variants: list[str]) -> None:
        self.variants = variants
        self.began = time.time()
        self.cells: dict[tuple[str, str], BoardCell] = {}

    def add(self, event: Event) -> None:
        """Update the event's cell."""
        key = event.variant, event.step
        cell = self.cells.get(key)
        self.cells[key] = BoardCell(cell.began if cell else event.time, event)

    def table(self) -> RenderableType:
        """A table of variants by steps, and below it the steps of the whole run."""
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        table.add_column("variant", style="bold", no_wrap=True)
        steps = [
            *PER_VARIANT,
            *(name for name in (*SOMETIMES, *WITHIN_A_STEP) if any(step == name for _, step in self.cells)),
        ]
        for name in steps:
            table.add_column(name, no_wrap=True, min_width=9)
        for variant in self.variants:
            table.add_row(variant, *(self.render_cell(variant, step) for step in steps))
        run_row = Table(box=None, pad_edge=False, padding=(0, 2), show_header=False)
        elapsed = Text(clock(time.time() - self.began), style="dim")
        run_row.add_row(*(self.render_run_step(step) for step in PER_RUN), elapsed)
        return Group(table, Text(), run_row)

    def render_run_step(self, step: str) -> RenderableType:
        """The name and the cell of a step of the whole run."""
        row = Table.grid(padding=(0, 1))
        row.add_row(Text(step, style="bold"), self.render_cell("", step))
        return row

    def render_cell(self, variant: str, step: str) -> RenderableType:
        """A sign with the duration of an ended step, or a spinner with the count of a running one."""
        cell = self.cells.get((variant, step))
        if cell is None:
            return Text("·", style="dim")
        event = cell.last
        if event.state != RUNNING:
            took = "" if event.state == SKIPPED else f" {clock(event.time - cell.began)}"
            return Text(f"{SIGNS[event.state]}{took}", style=STYLES[event.state])
        count = f"{event.done}/{event.total} " if event.total else ""
        return Spinner("dots", Text(f"{count}{clock(time.time() - cell.began)}"), style="cyan")


def display(variants: list[str], console: Console, quiet: bool = False) -> AbstractContextManager[Watch]:
    """The live table in a terminal; plain lines elsewhere and with `quiet`."""
    if console.is_terminal and not quiet:
        return live(variants, console)
    return lines(console, quiet)


@contextmanager
def live(variants: list[str], console: Console) -> Iterator[Watch]:
    """A live table in the terminal while the block runs, and above it a line for each failure."""
    board = Board(variants)
    with Live(console=console, refresh_per_second=8, get_renderable=board.table):

        def watch(events: list[Event]) -> None:
            for event in events:
                board.add(event)
                if event.state == FAILED:
                    print_event(console, event)

        yield watch


@contextmanager
def lines(console: Console, quiet: bool) -> Iterator[Watch]:
    """A plain line for each step that begins or ends and for every tenth done; `quiet`: only for failed steps."""
    tenths: dict[tuple[str, str], int] = {}

    def watch(events: list[Event]) -> None:
        for event in events:
            printed = is_printed(tenths, event)
            if event.state == FAILED or not (quiet or printed):
                print_event(console, event)

    yield watch


def print_event(console: Console, event: Event) -> None:
    """Print the event on a line."""
    count = f" {event.done}/{event.total}" if event.total else ""
    note = f": {event.note}" if event.note else ""
    stamp = time.strftime("%H:%M:%S", time.localtime(event.time))
    console.print(f"{stamp} {event.name} {event.state}{count}{note}", markup=False, highlight=False, soft_wrap=True)


def is_printed(tenths: dict[tuple[str, str], int], event: Event) -> bool:
    """Whether this tenth of the step is already printed; adds the tenth to `tenths`."""
    if event.state != RUNNING or not event.total:
        return False
    key, tenth = (event.variant, event.step), 10 * event.done // event.total
    printed = tenths.get(key, 0) >= tenth
    tenths[key] = max(tenth, tenths.get(key, 0))
    return printed


def clock(seconds: float) -> str:
    """Minutes and seconds, e.g. `1:05`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
