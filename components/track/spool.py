"""A run that MLflow did not record stays in its results' folder, from which `quantgate track` sends it later."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.track.flip_tables import read_flip_tables
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.facts import RunFacts, RunFiles
from quantgate.components.tracking.tracked_run import TrackedRun
from quantgate.components.tracking.uris import without_password


def spooled_run(decision: Decision, tracking_uri: str, reason: str) -> TrackedRun:
    """The record of a run that MLflow does not have; `reason` says why."""
    return TrackedRun(
        tracking_uri=without_password(tracking_uri),
        experiment="",
        experiment_id="",
        run_id="",
        children={verdict.variant: "" for verdict in decision.verdicts},
        page="",
        compare_page="",
        spooled=reason,
    )


@contextmanager
def local_results(location: str) -> Iterator[RunResults]:
    """A run's results on this machine for the block; results in a bucket are copied, and changes are copied back."""
    results = RunResults(location)
    if results.is_local:
        yield results
        return
    with tempfile.TemporaryDirectory() as scratch:
        local = RunResults(scratch)
        changed = results.tracked, results.registered
        for file in (*changed, results.decision, results.facts, *results.report_files):
            file.get(local.folder / file.name)
        with suppress(OSError, ValidationError):  # whoever reads the copy refuses a decision that is missing or damaged
            for verdict in Decision.read(local.decision.path).verdicts:
                file = results.flips(verdict.variant)
                file.get(local.folder / file.name)
        yield local
        for file in changed:
            if (local.folder / file.name).exists():
                file.put(local.folder / file.name)


def send(results: RunResults, tracking_uri: str = "") -> TrackedRun:
    """Record the run with these results in MLflow, by default at the tracking URI that the run was started with.

    A run that is sent again is updated. Raises PrerequisiteError when the folder contains no run with a decision, or
    when MLflow does not record the run.
    """
    try:
        decision, earlier = Decision.read(results.decision.path), TrackedRun.read(results.tracked.path)
        facts = RunFacts(run_id="", name="") if decision.judged_in else RunFacts.read(results.facts.path)
    except (OSError, ValidationError) as error:
        raise PrerequisiteError(
            f"{results.location} contains no run with a decision ({error}). Give the folder of a finished run, e.g."
            " runs/demo."
        ) from error
    if decision.judged_in:
        raise PrerequisiteError(
            f"The run in {results.location} has no verdict of its own to send: its verdict is that of"
            f" {decision.judged_in}."
        )
    if not tracking_uri and "//***@" in earlier.tracking_uri:
        raise PrerequisiteError(
            f"{results.location} is to be recorded at {earlier.tracking_uri}, whose password is not stored. Give the"
            " address with --tracking-uri, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    report = tuple(file.path for file in results.report_files if file.path.exists())
    files = RunFiles(report, flips=read_flip_tables(results, (row.variant for row in decision.verdicts)))
    tracked = track(decision, facts, files, tracking_uri or earlier.tracking_uri)
    tracked.write(results.tracked.path)
    return tracked
