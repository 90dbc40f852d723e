"""The command `quantgate run`: the pipeline on this machine."""

import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from components.resolve import checks
from components.run.artifacts import Decision
from components.run.progress import FAILED, Event
from components.run.results import RunResults
from pipelines import local, options
from pipelines.cli import mlflow_commands, setup_command, watch
from pipelines.cli.run_options import takes
from pipelines.exits import INTERRUPTED

FULL_BELOW_BYTES = 1_000_000
IN_OUT = {"help": f"{options.OPTIONS['store'].help.rstrip('.')} [OUT/store]."}


@takes(given=options.given_options([name for name in options.OPTIONS if name != "results"], store=IN_OUT))
def run(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder for everything that the run leaves.")] = Path("runs/latest"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No live table: only failures, and the decision.")] = False,
) -> None:
    """Run the pipeline on this machine: quantize, serve, test, decide, record."""
    local.check_packages()
    folder = out.absolute()
    results = RunResults(str(folder))
    places = {
        "custom": options.sets(given["custom"]),
        "data": options.rows(given["data"]),
        "irt_parameters": options.placed(given["irt_parameters"]),
        "store": given["store"] or str(results.store),
        "results": str(folder),
    }
    model, tracking_uri = given["model"], given["tracking_uri"]
    plan = checks.check(model, options.plan_of(given | places))
    arguments = options.pipeline_arguments(model, plan, tracking_uri, given["promote"])
    checks.check_places(plan.store, tracking_uri)
    local.check_folder(folder)
    setup_command.ready_engine()
    console = Console()
    failures: list[str] = []
    try:
        with watcher(list(plan.variants), console, quiet) as watching:

            def follow(events: list[Event]) -> None:
                failures.extend(told(events))
                watching(events)

            finished = local.run(arguments, follow)
    except KeyboardInterrupt:  # typer would leave without a word
        fail("quantgate: interrupted; every server of the run is stopped.", INTERRUPTED)
    if not finished:
        log = options.shown(results.log("pipeline"))
        fail(f"quantgate: The run failed. {why(failures, folder)}\nIts log: {log}", 1)
    conclude(folder, tracking_uri, console)


def told(events: list[Event]) -> list[str]:
    """What failed among the events."""
    return [f"{each.variant} {each.step}: {each.note}".strip() for each in events if each.state == FAILED]


def why(failures: list[str], folder: Path) -> str:
    """Why a run did not come to its end: a full disk, or what failed last."""
    if shutil.disk_usage(folder).free < FULL_BELOW_BYTES:
        return f"The disk of {folder} is full. Make room and run it again: the weights that are whole are reused."
    return failures[-1] if failures else "It ended without a word."


def watcher(variants: list[str], console: Console, quiet: bool) -> AbstractContextManager[watch.Watch]:
    """The live table in a terminal; plain lines elsewhere and with --quiet."""
    if console.is_terminal and not quiet:
        return watch.live(variants, console)
    return watch.lines(console, quiet)


def conclude(folder: Path, tracking_uri: str, console: Console) -> None:
    """Print the decision matrix, where the report lies, how to open MLflow, and what may be promoted."""
    from components.report.terminal import terminal_matrix
    from components.tracking.links import opened
    from components.tracking.tracked_run import TrackedRun
    from components.tracking.uris import open_command, own_store

    console.print()
    results = RunResults(str(folder))
    decision = Decision.read(results.decision.path)
    console.print(terminal_matrix(decision))
    uri = tracking_uri or own_store(str(folder))
    tracked = TrackedRun.read(results.tracked.path)
    if decision.judged_in:
        console.print("Nothing was run: this model was judged before by the same plan.", markup=False)
    if tracked.spooled:
        console.print(f"Not in MLflow: {tracked.spooled}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"To send it later: quantgate track {options.shown(folder)}", markup=False, highlight=False)
    lines = [
        ("Report", str(options.shown(results.report.path))),
        ("Scripts", str(options.shown(results.verdicts.path))),
    ]
    if not tracked.spooled:
        lines += [
            ("MLflow", open_command(uri)),
            ("", f"then the variants side by side: {opened(tracked.compare_page)}"),
            *(
                ("Registry" if number == 0 else "", line)
                for number, line in enumerate(mlflow_commands.told(results, decision, uri))
            ),
        ]
    for title, what in lines:
        console.print(f"{title:8} {what}", markup=False, highlight=False, soft_wrap=True)


def fail(message: str, status: int) -> NoReturn:
    """Leave with a message on stderr."""
    print(message, file=sys.stderr)
    raise typer.Exit(status)
