"""The command `quantgate run`: the pipeline on this machine."""

import shutil
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from quantgate.components.models.rungs import by_default
from quantgate.components.resolve import checks
from quantgate.components.run import machine
from quantgate.components.run.progress import FAILED, Event
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.servers import local_llama
from quantgate.components.servers.accelerator import accelerator_there
from quantgate.components.servers.before_start import check_kernels
from quantgate.pipelines import local, options, watch
from quantgate.pipelines.cli import mlflow_commands, setup_command
from quantgate.pipelines.cli.run_options import takes
from quantgate.pipelines.exits import INTERRUPTED, RUN_FAILED, exit_of
from quantgate.pipelines.terminal_output import VisibleConsole, print_text
from quantgate.pipelines.verdict_files import VerdictFiles, verdict_files

FULL_BELOW_BYTES = 1_000_000
STORE_IN_OUT = {"help": f"{options.OPTIONS['store'].help.rstrip('.')} [OUT/store]."}


ON_KUBEFLOW = ("results", "fail_run_on")
"""The options that a run on this machine does not have: it writes to OUT, and always prints its verdicts."""


@takes(
    values=options.collect_options([name for name in options.OPTIONS if name not in ON_KUBEFLOW], store=STORE_IN_OUT),
    files=verdict_files,
)
def run(
    values: dict[str, Any],
    files: VerdictFiles,
    out: Annotated[Path, typer.Option(help="Folder for all files of the run.")] = Path("runs/latest"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No live table: only failures and the decision.")] = False,
    exit_by_verdict: Annotated[
        bool, typer.Option("--exit-by-verdict", help="Exit with the status of the worst verdict, as gate does.")
    ] = False,
) -> None:
    """Run the pipeline on this machine: quantize, serve, test, decide, record."""
    local.check_packages()
    files.check_outside(out.absolute())
    with files.prepared():
        decision = run_pipeline(values, files, out.absolute(), quiet)
        files.write(decision)
    if exit_by_verdict:
        search = bool(decision.plan and decision.plan.search)
        raise typer.Exit(exit_of((row.verdict for row in decision.verdicts[1:]), search=search))


def run_pipeline(values: dict[str, Any], files: VerdictFiles, folder: Path, quiet: bool) -> Decision:
    """Run the pipeline with its results in the folder, print the outcome and return the decision.

    If the run fails, it writes the reason to the files, prints it and exits.
    """
    from quantgate.components.resolve.planned_evidence import forecast_of

    results = RunResults(str(folder))
    locations = {
        "custom": options.custom_task_locations(values["custom"]),
        "calibration": options.calibration_location(values["calibration"]),
        "calibration_also": [options.calibration_location(named) for named in values["calibration_also"] or ()],
        "data": options.rows_location(values["data"]),
        "irt_parameters": options.absolute_location(values["irt_parameters"]),
        "store": values["store"] or str(results.store),
        "results": str(folder),
        "fail_run_on": "",
    }
    model, tracking_uri = values["model"], values["tracking_uri"]
    if values["variants"] is None and not values["search"] and machine.compute_capability():
        values = values | {"variants": ",".join(by_default(accelerator_there()))}
    plan = checks.check(model, options.plan_of(values | locations))
    arguments = options.pipeline_arguments(model, plan, values["promote"])
    local.check_texts(arguments)
    checks.check_places(plan.store, tracking_uri)
    local.check_folder(folder)
    local_llama.check_installed(plan.variant)
    check_kernels(plan.variants, setup_command.ready_engine().on_cpu)
    if forecast := forecast_of(plan):
        print_text(forecast, to_stderr=True)
    console = VisibleConsole()
    failures: list[str] = []
    to_do: list[str] = []
    try:
        with watch.display(list(plan.variants), console, quiet) as show:

            def follow(events: list[Event]) -> None:
                failures.extend(failure_messages(events))
                to_do.extend(event.to_do for event in events if event.to_do)
                show(events)

            finished = local.run(arguments, follow)
    except KeyboardInterrupt:  # typer would exit without a message
        fail("interrupted; every server of the run is stopped.", INTERRUPTED, files)
    if not finished:
        log = options.short_path(results.log("pipeline"))
        fail(f"The run failed. {failure_reason(failures, folder)}\nIts log: {log}", RUN_FAILED, files)
    print_outcome(folder, tracking_uri, to_do, console)
    return Decision.read(results.decision.path)


def failure_messages(events: list[Event]) -> list[str]:
    """One message for each failed step among the events."""
    return [f"{event.name}: {event.note}" for event in events if event.state == FAILED]


def failure_reason(failures: list[str], folder: Path) -> str:
    """Why a run failed: a full disk, or the last failed step."""
    if shutil.disk_usage(folder).free < FULL_BELOW_BYTES:
        return f"The disk of {folder} is full. Make room and run it again: complete weights are reused."
    return failures[-1] if failures else "It ended without a message."


def print_outcome(folder: Path, tracking_uri: str, to_do: list[str], console: Console) -> None:
    """Print the decision matrix, the report, MLflow, the variant that may be promoted, and last what is left to do."""
    from quantgate.components.report.terminal import terminal_matrix
    from quantgate.components.tracking.links import full_address
    from quantgate.components.tracking.tracked_run import TrackedRun
    from quantgate.components.tracking.uris import open_command, own_store

    console.print()
    results = RunResults(str(folder))
    decision = Decision.read(results.decision.path)
    console.print(terminal_matrix(decision))
    uri = tracking_uri or own_store(str(folder))
    tracked = TrackedRun.read(results.tracked.path)
    if decision.judged_in:
        console.print(
            f"Nothing was run: this model was judged before by the same plan, in {decision.judged_in}.",
            markup=False,
            soft_wrap=True,
        )
    lines = [
        ("Report", str(options.short_path(results.report.path))),
        ("Scripts", str(options.short_path(results.verdicts.path))),
    ]
    if not tracked.spooled:
        lines += [
            ("MLflow", open_command(uri)),
            ("", f"then the variants side by side: {full_address(tracked.compare_page)}"),
            *(
                ("Registry" if number == 0 else "", line)
                for number, line in enumerate(mlflow_commands.registry_lines(results, decision, uri))
            ),
        ]
    for title, text in lines:
        console.print(f"{title:8} {text}", markup=False, highlight=False, soft_wrap=True)
    for text in to_do:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def fail(message: str, status: int, files: VerdictFiles) -> NoReturn:
    """Write the message to the files, print it on stderr and exit with the status."""
    files.write_failure(message)
    print_text(f"quantgate: {message}", to_stderr=True)
    raise typer.Exit(status)
