"""A run that MLflow did not take lies in its results' folder, from where it is sent later."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from components.errors import PrerequisiteError
from components.models.variants import VARIANTS
from components.run.artifacts import Decision
from components.run.results import RunResults
from components.track.kept_flips import tables_of_flips
from components.track.mlflow_writer import track
from components.tracking.facts import RunFacts, RunFiles
from components.tracking.tracked_run import TrackedRun
from components.tracking.uris import without_password


def spooled(decision: Decision, tracking_uri: str, reason: str) -> TrackedRun:
    """What is known of a run that MLflow does not have."""
    return TrackedRun(
        tracking_uri=without_password(tracking_uri),
        experiment="",
        experiment_id="",
        run_id="",
        children={each.variant: "" for each in decision.verdicts},
        page="",
        compare_page="",
        spooled=reason,
    )


@contextmanager
def at_hand(location: str) -> Iterator[RunResults]:
    """A run's results on this machine for the block; of those in a bucket a copy, whose new entries go back."""
    results = RunResults(location)
    if results.is_local:
        yield results
        return
    with tempfile.TemporaryDirectory() as scratch:
        here = RunResults(scratch)
        flips = tuple(results.flips(name) for name in VARIANTS)
        sent = results.tracked, results.registered
        for file in (*sent, results.decision, results.facts, *results.report_files, *flips):
            file.get(here.folder / file.name)
        yield here
        for file in sent:
            if (here.folder / file.name).exists():
                file.put(here.folder / file.name)


def send(results: RunResults, tracking_uri: str = "") -> TrackedRun:
    """Record the run whose results are in this folder, where it was to be recorded unless a tracking URI is given.

    Sent again it updates what MLflow has. Raises PrerequisiteError when the folder holds no run that came to its
    decision, or when MLflow does not take it now either.
    """
    try:
        decision, before = Decision.read(results.decision.path), TrackedRun.read(results.tracked.path)
        facts = RunFacts(run_id="", name="") if decision.judged_in else RunFacts.read(results.facts.path)
    except (OSError, ValidationError) as error:
        raise PrerequisiteError(
            f"{results.location} holds no run that came to its decision ({error}). Give the folder of one, e.g."
            " runs/demo."
        ) from error
    if decision.judged_in:
        raise PrerequisiteError(
            f"The run in {results.location} judged nothing: its verdict is that of {decision.judged_in}."
        )
    if not tracking_uri and "//***@" in before.tracking_uri:
        raise PrerequisiteError(
            f"{results.location} was to be recorded at {before.tracking_uri}, and its password is kept nowhere. Give"
            " the address with --tracking-uri, and name and password as MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD."
        )
    report = tuple(file.path for file in results.report_files if file.path.exists())
    files = RunFiles(report, flips=tables_of_flips(results))
    found = track(decision, facts, files, tracking_uri or before.tracking_uri)
    found.write(results.tracked.path)
    return found
