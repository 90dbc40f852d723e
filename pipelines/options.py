"""Options that several commands have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from components.benchmarks import selection
from components.benchmarks.suites import SUITES

Suite = Annotated[str, typer.Option(help=f"The benchmarks, one suite or several: {', '.join(SUITES)}.")]
Custom = Annotated[
    list[str] | None,
    typer.Option(help="A test set of your own: a folder with set.yaml and items.jsonl, or canopy; may be given again."),
]
Limit = Annotated[int, typer.Option(min=0, help="Items that a task may have at most; 0 is no limit.")]
Data = Annotated[
    str,
    typer.Option(help="Where rows come from: hub, embedded, or what `quantgate mirror` made [the suite's own way]."),
]
ChatTemplate = Annotated[
    bool, typer.Option("--chat-template/--no-chat-template", help="Put prompts into the model's chat template.")
]
IrtParameters = Annotated[
    str, typer.Option(help="tinyBenchmarks.pkl, for the IRT estimates beside the means; its sha256 is checked.")
]


def placed(location: str, *names: str) -> str:
    """The location as it is found from anywhere: a folder by its whole path; one of the names as it is."""
    location = location.removeprefix("file:")
    return location if not location or "://" in location or location in names else str(Path(location).absolute())


def sets(custom: Sequence[str] | None) -> tuple[str, ...]:
    """Where the test sets of one's own lie; the shipped ones by their names."""
    return tuple(placed(each, *selection.shipped_sets()) for each in custom or ())


def rows(data: str) -> str:
    """Where rows come from: a mirror's place, or one of the names."""
    return placed(data, selection.HUB, selection.EMBEDDED)


def shown(path: Path) -> Path:
    """The path as short as it can be told from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
