"""The commands about benchmarks: `quantgate suites`, `mirror`, `eval`, `compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from components.benchmarks import selection
from components.benchmarks.suites import SUITES, suite_named
from components.errors import PrerequisiteError
from components.policies.policy import use_case_named, use_case_names
from components.storage.cache import cache_dir
from pipelines import options
from pipelines.cli.progress_bar import bar

if TYPE_CHECKING:
    from components.benchmarks.splits import Source


def suites() -> None:
    """List the suites: their tasks, with shots and items, and what each is sensitive to."""
    console = Console(highlight=False)
    for suite in SUITES.values():
        table = Table(title=f"{suite.name}: {suite.description}", title_justify="left", title_style="bold", box=None)
        for name in ("task", "metric"):
            table.add_column(name, no_wrap=True)
        for name in ("shots", "tiny", "items"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("sensitive to")
        for task in suite.tasks:
            numbers = str(task.shots), str(task.tiny) if task.tiny else "–", f"{task.full:,}"
            table.add_row(f"  {task.task}", task.metric, *numbers, task.sensitive_to)
        console.print(table)
        users = [name for name in use_case_names() if suite.name in use_case_named(name).suites]
        console.print(f"  for {', '.join(users)}\n" if users else "")


def mirror(
    suite: Annotated[str, typer.Argument(help=f"One suite or several, of {', '.join(SUITES)}.", show_default=False)],
    location: Annotated[str, typer.Argument(help="A folder, or s3://BUCKET/PREFIX.", show_default=False)],
    origin: Annotated[
        str, typer.Option("--from", help="Where rows come from: hub, or a folder of PATH/NAME/SPLIT.jsonl.")
    ] = selection.HUB,
    check: Annotated[bool, typer.Option("--check", help="Make nothing: read every file of a mirror again.")] = False,
) -> None:
    """Keep the rows of a suite where runs without a hub find them: quantgate run --data LOCATION."""
    from components.benchmarks import mirror as mirrors
    from components.benchmarks.harness import splits_wanted
    from components.benchmarks.ifeval import WithPunkt
    from components.benchmarks.row_sources import Folder, Hub

    place, console = options.placed(location), Console(highlight=False)
    wanted = [split for task in suite_named(suite).tasks for split in splits_wanted(task)]
    if check:
        faults = mirrors.check(place)
        known = mirrors.read_manifest(place)
        faults += [f"{split.file} is not there" for split in wanted if split.file not in (*known.files, *known.missing)]
        if faults:
            raise PrerequisiteError(f"{location} is no whole mirror of {suite}: {'; '.join(faults)}. Make it again.")
        console.print(f"{location} is whole: {len(known.files)} files.")
        return
    rows: Source = Hub(cache_dir()) if origin == selection.HUB else Folder(Path(origin))
    with bar(console, "mirror") as step:
        made = mirrors.make(wanted, WithPunkt(rows), place, lambda name, done, of: step.advance(done, of, name))
    console.print(f"{location} has {len(made.files)} files, {sum(each.rows for each in made.files.values()):,} rows.")
    for name in (split.file for split in wanted if split.file in made.missing):
        console.print(f"  {origin} has no {name}: shots come from the rows that are scored, the item itself left out.")


def compare(
    one: Annotated[Path, typer.Argument(help="A summary that `quantgate eval` wrote.", show_default=False)],
    other: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print it for a script.")] = False,
) -> None:
    """Set two summaries side by side. It is no verdict: `quantgate gate` pairs the answers item by item."""
    from components.report.summary import compare as beside
    from components.report.summary import compared_json, read_summary

    first, second = read_summary(one), read_summary(other)
    if as_json:
        print(compared_json(first, second))
    else:
        Console(highlight=False).print(beside(first, second))
