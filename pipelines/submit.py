"""The commands about runs on Kubeflow Pipelines: `quantgate submit`, `follow`.

kfp's client takes seconds to import: what needs it is imported where it is used.
"""

import json
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.errors import PrerequisiteError
from components.store import of_run, open_store
from pipelines.asked import RESULTS, arguments, place, takes
from pipelines.exits import EXITS, INTERRUPTED, exit_of

if TYPE_CHECKING:
    from kfp_server_api import models as api

    from pipelines.kubeflow import Kubeflow, Place
    from pipelines.runs import PipelineFile

VERDICTS = "verdicts.json"
PipelinePath = Annotated[Path, typer.Option("--pipeline", help="What `quantgate compile` wrote.")]
Account = Annotated[str, typer.Option(help="The service account that the steps run as.")]
Poll = Annotated[float, typer.Option("--poll", min=0.01, help="Seconds between two looks at the run.")]
ACCOUNT = "quantgate-pipeline"


@takes(place=place, parameters=arguments)
def submit(
    place: "Place",
    parameters: dict[str, object],
    pipeline: PipelinePath = Path("pipeline.yaml"),
    service_account: Account = ACCOUNT,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and leave.")] = False,
    poll_s: Poll = 5.0,
) -> None:
    """Start a run on Kubeflow Pipelines and follow it; the exit status is its verdict's.

    The pipeline is uploaded where its content is new. The statuses are those of `quantgate gate`: 0 ship or monitor, 3
    inconclusive, 1 reject or A/B test, 4 not comparable, failed, or a run that did not come to a verdict; 2 tells of
    something to put right. Ctrl-C leaves the run going.
    """
    from pipelines.kubeflow import connected
    from pipelines.runs import read_pipeline, start, upload

    file = checked(read_pipeline(pipeline), parameters)
    if not detach:
        check_readable(str(parameters["results"]))
    with connected(place) as kubeflow:
        version = upload(kubeflow, file)
        tell(f"{version.name}: {'uploaded' if version.uploaded else 'Kubeflow has it already'}")
        run_id = start(kubeflow, version, run_name(parameters), parameters, service_account)
        tell(f"run {run_id} {kubeflow.page(run_id)}")
        if detach:
            tell(f"To follow it: quantgate follow {run_id} {place.options}")
            return
        wait(kubeflow, run_id, poll_s)


@takes(place=place)
def follow(
    place: "Place",
    run: Annotated[str, typer.Argument(help="The run's id, as submit tells it.", show_default=False)],
    stop: Annotated[bool, typer.Option("--stop", help="Stop it instead.")] = False,
    poll_s: Poll = 5.0,
) -> None:
    """Follow a run on Kubeflow Pipelines; the exit status is its verdict's, as with submit."""
    from pipelines import runs
    from pipelines.kubeflow import connected

    with connected(place) as kubeflow:
        runs.look(kubeflow, run)  # of one that is not there nobody is told that it goes on
        if stop:
            runs.stop(kubeflow, run)
            tell(f"run {run}: stopping; what it served ends with its lease")
            return
        wait(kubeflow, run, poll_s)


def wait(kubeflow: "Kubeflow", run_id: str, poll_s: float) -> None:
    """Follow the run and leave with the exit status of its verdict."""
    from pipelines import runs

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
    results = run.runtime_config.parameters.get("results", RESULTS)
    place = of_run(results, run.run_id)
    try:
        text = open_store(place).get_text(VERDICTS)
    except PrerequisiteError as error:
        raise PrerequisiteError(f"The run has its verdict at {place}, which cannot be read here: {error}") from error
    if text is None:
        raise PrerequisiteError(
            f"The run succeeded and left no {VERDICTS} at {place}. Look at the logs of its step report."
        )
    variants = json.loads(text)[1:]
    for row in variants:
        tell(f"{row['variant']}: {row['verdict']}. {row['sentence']}")
    tell(f"report {place}/report.html")
    return [row["verdict"] for row in variants]


def check_readable(results: str) -> None:
    """Raise PrerequisiteError where the verdict could not be read at the end, which may be hours later."""
    try:
        open_store(results).get_text(VERDICTS)
    except PrerequisiteError as error:
        raise PrerequisiteError(
            f"{error} The verdict would be read there. Set AWS_ENDPOINT_URL and the credentials so that this machine "
            "can, or start the run with --detach."
        ) from error


def checked(file: "PipelineFile", parameters: dict[str, object]) -> "PipelineFile":
    """The file; raises PrerequisiteError where it lacks a parameter, as one that another version wrote does."""
    if unknown := sorted(parameters.keys() - file.parameters):
        raise PrerequisiteError(f"{file.file} has no parameter {', '.join(unknown)}. Write it anew: quantgate compile.")
    return file


def run_name(parameters: dict[str, object]) -> str:
    """A name for a list of runs, and this run's alone."""
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{parameters['model']} {parameters['suite']} {at} {secrets.token_hex(3)}"


def tell(line: str) -> None:
    """Print one line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
