"""Compare what MLflow holds of a run with the digests that its verdict was recorded with.

MLflow never changes a parameter, but everybody who may write to an experiment can replace a run's files and tags. So
`track` records one digest of the evidence as a parameter, and whoever relies on the run computes it again.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.policies.policy import use_case_named, use_case_names
from quantgate.components.run.artifacts import Decision
from quantgate.components.run.evidence_digests import Digests, digests_of
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.location import open_store
from quantgate.components.tracking.kubeflow_run import PARENT
from quantgate.components.tracking.tags import DECISION, EVIDENCE, VARIANT_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PARTS = {
    "policy": "the policy is not the one that the variants were judged by",
    "plan": "the evaluation plan is not the one that the variants were judged by",
    "baseline": "the base model is not the one that the variants were judged against",
    "weights": "the digests of the weights are not those of the weights that were judged",
    "outcome": "the verdicts or the scores are not those that the gate wrote",
}
"""What to say of a part of the digests that differs."""


@dataclass(frozen=True)
class CheckedRun:
    """A run's decision in MLflow, compared with its digests."""

    decision: Decision
    mismatches: tuple[str, ...]
    """What differs and what to do, a sentence each; empty for evidence that holds."""
    unread: tuple[str, ...] = ()
    """The records that cannot be read from here, and so were not compared."""


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
        for variant, name, sha256, location in _records(checked.decision, checked.decision.digests):
            records = fetch_records(client, children.get(variant), location, Path(scratch))
            if not records:
                unread.append(f"the records of {name}, {location}")
            elif sha256_of(records) != sha256:
                wrong.append(f"the records of {name} have other bytes than those that were judged: judge it again")
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


def _differing(run: "Run", decision: Decision, text: str) -> Iterator[str]:
    recorded = decision.digests
    if not recorded:
        yield "it was recorded without digests of what it was judged by, by an earlier version: judge it again"
        return
    if run.data.params.get(EVIDENCE) != recorded.combined:
        yield f"its digests are not those of the run's parameter {EVIDENCE}: judge it again"
    computed = digests_of(text, recorded.records, recorded.again)
    for part, sentence in PARTS.items():
        if getattr(computed, part) != getattr(recorded, part):
            yield f"{sentence}: judge it again"
    limits = decision.limits
    if limits.name in use_case_names() and limits != use_case_named(limits.name):
        yield (
            f"its policy has the name of the shipped use case {limits.name} and other limits"
            f" ({limits.describe_limits()}): judge it again by the shipped one, or give the policy another name"
        )


def _records(decision: Decision, digests: Digests) -> Iterator[tuple[str, str, str, str]]:
    """The variant, the name, the sha256 and the location of each file of records that was judged."""
    for scores in decision.scores:
        if scores.records:
            yield scores.variant, scores.variant, digests.records.get(scores.variant, ""), scores.records
        if scores.again:
            yield scores.variant, f"{scores.variant}'s second pass", digests.again, scores.again


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
