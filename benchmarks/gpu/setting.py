"""Shared by every part of the GPU benchmark: options, deadline, folder, and tables.

A table is written to the disk after each row, so that an interrupted run keeps its measurements.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

NOT_RUN = "not run"


@dataclass(frozen=True)
class Setting:
    """The settings of one part."""

    out: Path
    """Folder of the tables, weights and logs."""
    data: Path
    """Folder with the benchmarks' rows as JSON lines, and `calibration.jsonl`."""
    rehearse: bool
    """Whether to run without a GPU: a cut model, vLLM's CPU build, few items."""
    items: int
    """Benchmark items a task."""
    ends_at: float
    """`time.time()` after which no row is started."""
    models: tuple[str, ...]
    """What to run, e.g. `demo`, or one variant of it, `demo.int8`; empty: all of the part."""

    def is_late(self, needed_s: float = 0.0) -> bool:
        """Whether a row that takes `needed_s` would end after the deadline."""
        return time.time() + needed_s > self.ends_at

    def wants(self, model: str, variant: str = "") -> bool:
        """Whether to run the model, or the variant of it."""
        return not self.models or model in self.models or f"{model}.{variant}" in self.models


def parse(description: str | None) -> Setting:
    """The setting from the command line of a part."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for tables, weights and logs")
    parser.add_argument("--data", type=Path, required=True, help="folder with the benchmarks' rows")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: a cut model, few items")
    parser.add_argument("--items", type=int, default=200, help="benchmark items a task")
    parser.add_argument("--seconds", type=float, default=3600, help="start no row after this many seconds")
    parser.add_argument("--models", default="", help="comma-separated; empty: all")
    options = parser.parse_args()
    return Setting(
        out=options.out.absolute(),
        data=options.data.absolute(),
        rehearse=options.rehearse,
        items=options.items,
        ends_at=time.time() + options.seconds,
        models=tuple(filter(None, options.models.split(","))),
    )


@dataclass
class Table:
    """A table on the disk: NAME.json for programs, NAME.md for people."""

    folder: Path
    name: str
    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        """Add a row, print it and save the table."""
        self.rows.append([str(cell) for cell in cells])
        print(" | ".join(self.rows[-1]), flush=True)
        self.save()

    def save(self) -> None:
        """Write both files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"title": self.title, "columns": list(self.columns), "rows": self.rows}
        partial = self.folder / f"{self.name}.partial"
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        partial.replace(self.folder / f"{self.name}.json")
        (self.folder / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        cells = "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
        return f"## {self.title}\n\n{cells}\n"


def seconds(value: float) -> str:
    """E.g. `12.3`."""
    return f"{value:.1f}"
