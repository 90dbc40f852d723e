"""Follow a run on Kubeflow Pipelines to its verdict.

kfp's client takes seconds to import: what needs it is imported where it is used.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from components.errors import PrerequisiteError
from components.run.results import RunResults, of_run
from pipelines.exits import EXITS, INTERRUPTED, exit_of
from pipelines.kubeflow.run_parameters import RESULTS

if TYPE_CHECKING:
    from kfp_server_api import models as api

    from pipelines.kubeflow.connection import Kubeflow, Place


def follow_run(place: "Place", run: str, *, stop: bool, poll_s: float) -> None:
    """Follow the run to its end, or stop it; leaves with the exit status of its verdict."""
    from pipelines.kubeflow import runs
    from pipelines.kubeflow.connection import connected

    with connected(place) as kubeflow:
        runs.look(kubeflow, run)  # of one that is not there nobody is told that it goes on
        if stop:
            runs.stop(kubeflow, run)
            tell(f"run {run}: stopping; what it served ends with its lease")
            return
        wait(kubeflow, run, poll_s)


def wait(kubeflow: "Kubeflow", run_id: str, poll_s: float) -> None:
    """Follow the run and leave with the exit status of its verdict."""
    from pipelines.kubeflow import runs

    with left_going(f"{run_id} {kubeflow.place.options}"):
        ended = runs.follow(kubeflow, run_id, tell, poll_s)
    if ended.state != "SUCCEEDED":
        print(f"quantgate: The run did not come to a verdict: {runs.why(ended)}", file=sys.stderr)
        raise typer.Exit(EXITS["failed"])
    raise typer.Exit(exit_of(verdicts(ended)))


@contextmanager
def left_going(run: str) -> Iterator[None]:
    """Say, where the block is interrupted or the connection is lost for good, that the run goes on and what to do."""
    advice = f"The run goes on.\nTo follow it: quantgate follow {run}\nTo stop it:   quantgate follow {run} --stop"
    try:
        yield
    except KeyboardInterrupt:
        print(f"quantgate: {advice}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except PrerequisiteError as error:
        raise PrerequisiteError(f"{error} {advice}") from error


def verdicts(run: "api.V2beta1Run") -> list[str]:
    """The variants' verdicts, from the run's results; each is told with its reason."""
    parameter = run.runtime_config.parameters.get("results", RESULTS)
    results = RunResults(of_run(parameter, run.run_id))
    place = results.location
    try:
        text = results.verdicts.text()
    except PrerequisiteError as error:
        raise PrerequisiteError(f"The run has its verdict at {place}, which cannot be read here: {error}") from error
    if text is None:
        raise PrerequisiteError(
            f"The run succeeded and left no {results.verdicts.name} at {place}. Look at the logs of its step report."
        )
    variants = json.loads(text)[1:]
    for row in variants:
        tell(f"{row['variant']}: {row['verdict']}. {row['sentence']}")
    tell(f"report {results.report}")
    return [row["verdict"] for row in variants]


def tell(line: str) -> None:
    """Print one line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
