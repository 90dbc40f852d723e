"""Follow a run on Kubeflow Pipelines to its verdict.

kfp's client takes seconds to import, so the functions that need it import it.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from components.errors import PrerequisiteError
from components.run.results import RunResults, run_location
from pipelines.exits import EXITS, INTERRUPTED, exit_of
from pipelines.kubeflow.run_parameters import results_of

if TYPE_CHECKING:
    from kfp_server_api import models as api

    from pipelines.kubeflow.connection import Kubeflow, Place


def follow_run(place: "Place", run: str, *, stop: bool, poll_s: float) -> None:
    """Follow the run to its end, or stop it; exits with the status of its verdict."""
    from pipelines.kubeflow import runs
    from pipelines.kubeflow.connection import connected

    with connected(place) as kubeflow:
        runs.get_run(kubeflow, run)  # a missing run fails here, before any message that the run continues
        if stop:
            runs.stop(kubeflow, run)
            print_line(f"run {run}: stopping; its servers end with their lease")
            return
        wait(kubeflow, run, poll_s)


def wait(kubeflow: "Kubeflow", run_id: str, poll_s: float) -> None:
    """Follow the run and exit with the status of its verdict."""
    from pipelines.kubeflow import runs

    with advice_on_interruption(f"{run_id} {kubeflow.place.options}"):
        run = runs.follow(kubeflow, run_id, print_line, poll_s)
    if run.state != "SUCCEEDED" and not runs.failed_on_its_verdict(run):
        print(f"quantgate: The run has no verdict: {runs.failure_reason(run)}", file=sys.stderr)
        raise typer.Exit(EXITS["failed"])
    raise typer.Exit(exit_of(print_verdicts(run)))


@contextmanager
def advice_on_interruption(run: str) -> Iterator[None]:
    """If the block is interrupted or loses its connection: print that the run continues, and how to follow or stop it.

    `run` is the run's id with the options of the place.
    """
    advice = f"The run continues.\nTo follow it: quantgate follow {run}\nTo stop it:   quantgate follow {run} --stop"
    try:
        yield
    except KeyboardInterrupt:
        print(f"quantgate: {advice}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except PrerequisiteError as error:
        raise PrerequisiteError(f"{error} {advice}") from error


def print_verdicts(run: "api.V2beta1Run") -> list[str]:
    """Print the variants' verdicts with their reasons; returns the verdicts."""
    results = RunResults(run_location(results_of(run.runtime_config.parameters), run.run_id))
    place = results.location
    try:
        text = results.verdicts.text()
    except PrerequisiteError as error:
        raise PrerequisiteError(f"The run's verdict at {place} cannot be read from this machine: {error}") from error
    if text is None:
        raise PrerequisiteError(
            f"The run is complete, but {place} has no {results.verdicts.name}. Read the log of the run's step `report`."
        )
    variants = json.loads(text)[1:]
    for row in variants:
        print_line(f"{row['variant']}: {row['verdict']}. {row['sentence']}")
    print_line(f"report {results.report}")
    return [row["verdict"] for row in variants]


def print_line(line: str) -> None:
    """Print one line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
