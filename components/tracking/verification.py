"""Compare what MLflow holds of a run with the digests that its verdict was recorded with.

MLflow never changes a parameter, but everybody who may write to an experiment can replace a run's files and tags. So
`track` records one digest of the evidence as a parameter, and whoever relies on the run computes it again.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.evidence_check import CheckedRun, differences, judged_records
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.location import open_store
from quantgate.components.tracking.connect import connected
from quantgate.components.tracking.kubeflow_run import PARENT
from quantgate.components.tracking.tags import DECISION, EVIDENCE, VARIANT_TAG
from quantgate.components.tracking.tracked_run import TrackedRun

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


def checked_run(client: "MlflowClient", run: "Run") -> CheckedRun | None:
    """The decision of a pipeline run, compared with its digests and with the records of all variants.

    None if the decision is missing or unreadable.
    """
    checked = checked_decision(client, run)
    if not checked or not checked.decision.digests:
        return checked
    children = children_of(client, run)
    wrong: list[str] = []
    unread: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for judged in judged_records(checked.decision, checked.decision.digests):
            records = fetch_records(client, children.get(judged.variant), judged.location, Path(scratch))
            if not records:
                unread.append(judged.unread)
            elif sha256_of(records) != judged.sha256:
                wrong.append(judged.changed)
    return CheckedRun(checked.decision, (*checked.mismatches, *wrong), tuple(unread))


def checked_decision(client: "MlflowClient", run: "Run") -> CheckedRun | None:
    """The decision of a pipeline run, compared with its digests but for the records; None as for `checked_run`."""
    with tempfile.TemporaryDirectory() as scratch:
        file = download(client, run, DECISION, Path(scratch))
        try:
            text = file.read_text(encoding="utf-8") if file else ""
            decision = Decision.model_validate_json(text)
        except (ValidationError, UnicodeDecodeError):
            return None
    return CheckedRun(decision, tuple(_differing(run, decision, text)))


def recorded_mismatches(results: RunResults, decision: Decision, tracking_uri: str) -> tuple[str, ...]:
    """How MLflow's record of a run differs from its own digests, or from the decision in the run's results.

    Raises PrerequisiteError when MLflow does not have the run or cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    tracked = results.tracked.read(TrackedRun)
    if not tracked or not tracked.run_id:
        raise PrerequisiteError(f"MLflow does not have the run in {results.location}. Send it: quantgate track RUN.")
    with connected(tracking_uri, "compare its record of the run") as client:
        try:
            checked = checked_run(client, client.get_run(tracked.run_id))
        except MlflowException as error:
            raise PrerequisiteError(f"{tracking_uri} has no run {tracked.run_id}: {error.message}") from error
    if not checked or checked.decision.digests != decision.digests:
        return (f"MLflow's run {tracked.run_id} has another decision: judge it again",)
    return checked.mismatches


def _differing(run: "Run", decision: Decision, text: str) -> Iterator[str]:
    recorded = decision.digests
    if recorded and run.data.params.get(EVIDENCE) != recorded.combined:
        yield f"its digests are not those of the run's parameter {EVIDENCE}: judge it again"
    yield from differences(decision, text)


def children_of(client: "MlflowClient", run: "Run") -> "dict[str, Run]":
    """The runs of the run's variants, by variant."""
    of_run = f"tags.`{PARENT}` = '{run.info.run_id}' and tags.`{VARIANT_TAG}` != ''"
    children = client.search_runs([run.info.experiment_id], of_run, max_results=100)
    return {child.data.tags[VARIANT_TAG]: child for child in children}


def download(client: "MlflowClient", run: "Run", name: str, folder: Path) -> Path | None:
    """Download the run's artifact into the folder; None if the run has no artifact of that name."""
    from mlflow.exceptions import MlflowException

    try:
        return Path(client.download_artifacts(run.info.run_id, name, str(folder)))
    except (MlflowException, OSError):
        return None


def fetch_records(client: "MlflowClient", run: "Run | None", location: str, folder: Path) -> Path | None:
    """The run's records in the folder, from MLflow or from where they were judged; None if neither can be read.

    MLflow's copy comes first: a later run in the same folder replaces the other.
    """
    prefix, _, name = location.rpartition("/")
    if run and (file := download(client, run, name, folder)):
        return file
    try:
        return folder / name if open_store(prefix).get_file(name, folder / name) else None
    except (PrerequisiteError, OSError):
        return None
