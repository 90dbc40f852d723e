"""Start a run on Kubeflow Pipelines."""

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.benchmarks.suite_file import short_suite
from quantgate.components.tracking.tags import ascii_name
from quantgate.pipelines.kubeflow.follow import print_line, wait
from quantgate.pipelines.kubeflow.run_parameters import checked

if TYPE_CHECKING:
    from quantgate.pipelines.kubeflow.connection import Place


def run_name(parameters: dict[str, object]) -> str:
    """A unique name of the run, readable in a list of runs."""
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return ascii_name(f"{parameters['model']} {short_suite(str(parameters['suite']))} {at} {secrets.token_hex(3)}")


def submit_run(
    place: "Place",
    parameters: dict[str, object],
    pipeline: Path,
    service_account: str,
    *,
    detach: bool,
    poll_s: float,
) -> None:
    """Upload the pipeline if its content is new, start the run, and follow it unless `detach` is set."""
    from quantgate.pipelines.kubeflow.connection import connected
    from quantgate.pipelines.kubeflow.runs import read_pipeline, start, upload

    file = checked(read_pipeline(pipeline), parameters)
    with connected(place) as kubeflow:
        version = upload(kubeflow, file)
        print_line(f"{version.name}: {'uploaded' if version.uploaded else 'Kubeflow already has it'}")
        run_id = start(kubeflow, version, run_name(parameters), parameters, service_account)
        print_line(f"run {run_id} {kubeflow.page(run_id)}")
        if detach:
            print_line(f"To follow it: quantgate follow {run_id} {place.options}")
            return
        wait(kubeflow, run_id, parameters, poll_s)
