"""A run that MLflow did not take lies in its results' folder, from where it is sent later."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from components.errors import PrerequisiteError
from components.models.variants import VARIANTS
from components.run.artifacts import Decision
from components.storage.location import open_store
from components.track.mlflow_writer import track
from components.tracking.facts import FACTS, RunFacts, RunFiles
from components.tracking.tracked_run import TrackedRun
from components.tracking.uris import without_password

DECISION, TRACKED, VERDICTS = "decision.json", "tracked.json", "verdicts.json"
SENT = (TRACKED, "registered.json")
PLOTS = tuple(f"plots/{name}.svg" for name in ("size", "drops", "limits"))
REPORT = ("report.html", "report.md", VERDICTS, *PLOTS)


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
def at_hand(results: str) -> Iterator[Path]:
    """A run's folder for the block; of results in a bucket a copy, of which goes back what MLflow was sent."""
    if "://" not in results:
        yield Path(results)
        return
    store = open_store(results)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in (*SENT, DECISION, FACTS, *REPORT, *(f"variants/{each}/flips.json" for each in VARIANTS)):
            store.get_file(name, folder / name)
        yield folder
        for name in SENT:
            if (folder / name).exists():
                store.put_file(folder / name, name)


def send(folder: Path, tracking_uri: str = "") -> TrackedRun:
    """Record the run in this folder, where it was to be recorded unless a tracking URI is given.

    Sent again it updates what MLflow has. Raises PrerequisiteError when the folder holds no run that came to its
    decision, or when MLflow does not take it now either.
    """
    try:
        decision, before = Decision.read(folder / DECISION), TrackedRun.read(folder / TRACKED)
        facts = RunFacts(run_id="", name="") if decision.judged_in else RunFacts.read(folder / FACTS)
    except (OSError, ValidationError) as error:
        raise PrerequisiteError(
            f"{folder} holds no run that came to its decision ({error}). Give the folder of one, e.g. runs/demo."
        ) from error
    if decision.judged_in:
        raise PrerequisiteError(f"The run in {folder} judged nothing: its verdict is that of {decision.judged_in}.")
    if not tracking_uri and "//***@" in before.tracking_uri:
        raise PrerequisiteError(
            f"{folder} was to be recorded at {before.tracking_uri}, and its password is kept nowhere. Give the address"
            " with --tracking-uri, and name and password as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    kept = {each.parent.name: each for each in folder.glob("variants/*/flips.json")}
    flips = {name: json.loads(each.read_text(encoding="utf-8")) for name, each in kept.items()}
    report = tuple(folder / name for name in REPORT if (folder / name).exists())
    found = track(decision, facts, RunFiles(report, flips=flips), tracking_uri or before.tracking_uri)
    found.write(folder / TRACKED)
    return found
