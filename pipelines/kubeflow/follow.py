"""Follow a run on Kubeflow Pipelines to its verdict.

kfp's client takes seconds to import, so the functions that need it import it.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.variants import BASELINE
from quantgate.components.run.results import RunResults, run_location
from quantgate.pipelines import watch
from quantgate.pipelines.exits import EXITS, INTERRUPTED, exit_of
from quantgate.pipelines.kubeflow.outcome import read_verdicts
from quantgate.pipelines.kubeflow.run_parameters import results_of
from quantgate.pipelines.terminal_output import VisibleConsole, print_text

if TYPE_CHECKING:
    from quantgate.pipelines.kubeflow.connection import Kubeflow, Place
    from quantgate.pipelines.kubeflow.run_events import RunEvents


def follow_run(place: "Place", run_id: str, *, stop: bool, poll_s: float) -> None:
    """Follow the run to its end, or stop it; exits with the status of its verdict."""
    from quantgate.pipelines.kubeflow import runs
    from quantgate.pipelines.kubeflow.connection import connected

    with connected(place) as kubeflow:
        run = runs.get_run(kubeflow, run_id)  # a missing run fails here, before any message that the run continues
        if stop:
            runs.stop(kubeflow, run_id)
            print_line(f"run {run_id}: stopping; its servers end with their lease")
            return
        parameters = run.runtime_config.parameters if run.runtime_config else None
        wait(kubeflow, run_id, dict(parameters or {}), poll_s)


def wait(kubeflow: "Kubeflow", run_id: str, parameters: dict[str, Any], poll_s: float) -> None:
    """Follow the run with these parameters and exit with the status of its verdict."""
    from quantgate.pipelines.kubeflow import runs
    from quantgate.pipelines.kubeflow.run_events import RunEvents

    with advice_on_interruption(f"{run_id} {kubeflow.place.options}"):
        # The table shows the same list, in which the run's events correct a name.
        variants = list(dict.fromkeys([BASELINE, *parameters.get("variants", ())]))
        events = RunEvents(kubeflow, run_id, variants)
        with watch.display(variants, VisibleConsole()) as show:
            run = runs.follow(kubeflow, run_id, lambda run: show(events.new(run)), print_line, poll_s)
    # the steps know the place that the cluster sets, and this machine does not
    results = RunResults(events.results or run_location(results_of(parameters), run_id))
    try:
        if run.state != "SUCCEEDED" and not runs.failed_on_its_verdict(run):
            reason = terminated(events, results) if events.terminated else failure(events, runs.failed_steps(run))
            print_text(f"quantgate: {reason}\nIts page: {kubeflow.page(run_id)}", to_stderr=True)
            raise typer.Exit(EXITS["failed"])
        tracking_uri = parameters.get("settings", {}).get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI", "")
        verdicts = read_verdicts(events.verdicts, run_id, tracking_uri, results)
        for variant, verdict, sentence in verdicts:
            print_line(f"{variant}: {verdict}. {sentence}")
        print_line(f"report {results.report}")
    finally:
        for text in events.to_do:
            print_text(text)
    search = bool(parameters.get("settings", {}).get("search"))
    raise typer.Exit(exit_of((verdict for _, verdict, _ in verdicts), search=search))


def failure(events: "RunEvents", failed_steps: str) -> str:
    """Why a failed run has no verdict, and where the log is."""
    if events.failure is None:
        steps = f"these steps failed: {failed_steps}." if failed_steps else "it failed."
        return f"The run has no verdict: {steps} Kubeflow gives no reason."
    log = f"\nIts log: {events.failure.log}" if events.failure.log else ""
    return f"The run has no verdict: {events.failure.name}: {events.failure.reason}{log}"


def terminated(events: "RunEvents", results: RunResults) -> str:
    """That a person terminated the run, and what it leaves."""
    steps = "; ".join(
        f"{variant} {', '.join(names)}".strip() for variant, names in sorted(events.ended_steps.items()) if names
    )
    left = f"Left in {results.location} is what these steps wrote: {steps}." if steps else "No step had ended."
    return (
        f"The run was terminated, so it has no verdict. {left} Its servers end with their lease. A new run reuses the "
        "weights that were finished."
    )


@contextmanager
def advice_on_interruption(run: str) -> Iterator[None]:
    """If the block is interrupted or loses its connection: print that the run continues, and how to follow or stop it.

    `run` is the run's id with the options of the place.
    """
    advice = f"The run continues.\nTo follow it: quantgate follow {run}\nTo stop it:   quantgate follow {run} --stop"
    try:
        yield
    except KeyboardInterrupt:
        print_text(f"quantgate: {advice}", to_stderr=True)
        raise typer.Exit(INTERRUPTED) from None
    except PrerequisiteError as error:
        raise PrerequisiteError(f"{error} {advice}") from error


def print_line(line: str) -> None:
    """Print one line with the time."""
    print_text(f"{time.strftime('%H:%M:%S')} {line}")
