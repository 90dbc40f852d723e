"""What a person sees while a run works: one live table in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from components.run.progress import DONE, FAILED, RUNNING, SKIPPED, Event

PER_VARIANT = ("quantize", "deploy", "tiny", "full", "undeploy")
EXECUTE = "execute"
"""A step only of suites with programs."""
PER_RUN = ("resolve", "gate", "report", "track", "promote")
STYLES = {DONE: "green", FAILED: "red", SKIPPED: "dim", RUNNING: "bold"}
SIGNS = {DONE: "✓", FAILED: "✗", SKIPPED: "–"}
Watch = Callable[[list[Event]], None]


@dataclass(frozen=True)
class BoardCell:
    """How one step of one variant stands."""

    began: float
    last: Event


class Board:
    """All that is known of a run: a cell for each variant and step."""

    def __init__(self, variants: list[str]) -> None:
        self.variants = variants
        self.began = time.time()
        self.cells: dict[tuple[str, str], BoardCell] = {}

    def add(self, event: Event) -> None:
        """Take in one event."""
        key = event.variant, event.step
        known = self.cells.get(key)
        self.cells[key] = BoardCell(known.began if known else event.time, event)

    def table(self) -> RenderableType:
        """Variants x steps, and below it the steps of the whole run."""
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        table.add_column("variant", style="bold", no_wrap=True)
        shown = [*PER_VARIANT, *([EXECUTE] if any(step == EXECUTE for _, step in self.cells) else [])]
        for name in shown:
            table.add_column(name, no_wrap=True, min_width=9)
        for variant in self.variants:
            table.add_row(variant, *(self.shown(variant, step) for step in shown))
        whole = Table(box=None, pad_edge=False, padding=(0, 2), show_header=False)
        whole.add_row(*(self.titled(step) for step in PER_RUN), Text(clock(time.time() - self.began), style="dim"))
        return Group(table, Text(), whole)

    def titled(self, step: str) -> RenderableType:
        """A step of the whole run with its name."""
        row = Table.grid(padding=(0, 1))
        row.add_row(Text(step, style="bold"), self.shown("", step))
        return row

    def shown(self, variant: str, step: str) -> RenderableType:
        """One cell: a sign and the time it took, or a spinner with how far it is."""
        cell = self.cells.get((variant, step))
        if cell is None:
            return Text("·", style="dim")
        event = cell.last
        if event.state != RUNNING:
            took = "" if event.state == SKIPPED else f" {clock(event.time - cell.began)}"
            return Text(f"{SIGNS[event.state]}{took}", style=STYLES[event.state])
        count = f"{event.done}/{event.total} " if event.total else ""
        return Spinner("dots", Text(f"{count}{clock(time.time() - cell.began)}"), style="cyan")


@contextmanager
def live(variants: list[str], console: Console) -> Iterator[Watch]:
    """A live table in the terminal for the time of the block."""
    board = Board(variants)
    with Live(console=console, refresh_per_second=8, get_renderable=board.table):

        def watch(events: list[Event]) -> None:
            for event in events:
                board.add(event)

        yield watch


@contextmanager
def lines(console: Console, quiet: bool) -> Iterator[Watch]:
    """A plain line for each step that begins or ends (quiet: only for one that failed) and for every tenth done."""
    tenths: dict[tuple[str, str], int] = {}

    def watch(events: list[Event]) -> None:
        for event in events:
            told = told_before(tenths, event)
            if event.state == FAILED or not (quiet or told):
                count = f" {event.done}/{event.total}" if event.total else ""
                name = f"{event.variant} {event.step}".strip()
                note = f": {event.note}" if event.note else ""
                stamp = time.strftime("%H:%M:%S", time.localtime(event.time))
                console.print(
                    f"{stamp} {name} {event.state}{count}{note}", markup=False, highlight=False, soft_wrap=True
                )

    yield watch


def told_before(tenths: dict[tuple[str, str], int], event: Event) -> bool:
    """Whether a line about this step's last tenth was printed already; remembers this one."""
    if event.state != RUNNING or not event.total:
        return False
    key, tenth = (event.variant, event.step), 10 * event.done // event.total
    told = tenths.get(key, 0) >= tenth
    tenths[key] = max(tenth, tenths.get(key, 0))
    return told


def clock(seconds: float) -> str:
    """Minutes and seconds, e.g. `1:05`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
