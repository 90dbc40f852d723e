"""Whether a decision is the one that the gate wrote: its parts and its records, compared with its digests."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.policies.policy import use_case_named, use_case_names
from quantgate.components.run.evidence_digests import Digests, digests_of
from quantgate.components.run.results import AGAIN, ResultFile, RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.storage.hashing import sha256_of

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
    """A run's decision, compared with its digests."""

    decision: Decision
    mismatches: tuple[str, ...]
    """What differs and what to do, a sentence each; empty for evidence that holds."""
    unread: tuple[str, ...] = ()
    """The records that cannot be read from here, and so were not compared."""


@dataclass(frozen=True)
class RecordsFile:
    """One file of records that was judged."""

    variant: str
    stage: str
    name: str
    sha256: str
    location: str

    @property
    def changed(self) -> str:
        """What to say if the file has other bytes."""
        return f"the records of {self.name} have other bytes than those that were judged: judge it again"

    @property
    def unread(self) -> str:
        """What to say if the file cannot be read."""
        return f"the records of {self.name}, {self.location}"


def differences(decision: Decision, text: str) -> Iterator[str]:
    """How a decision, given with the text of its file, differs from its own digests; records are not read."""
    recorded = decision.digests
    if not recorded:
        yield "it was recorded without digests of what it was judged by, by an earlier version: judge it again"
        return
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


def judged_records(decision: Decision, digests: Digests) -> Iterator[RecordsFile]:
    """The files of records that the decision was reached by."""
    for scores in decision.scores:
        variant = scores.variant
        if scores.records:
            yield RecordsFile(variant, scores.stage, variant, digests.records.get(variant, ""), scores.records)
        if scores.again:
            yield RecordsFile(variant, AGAIN, f"{variant}'s second pass", digests.again, scores.again)


def checked_results(results: RunResults) -> CheckedRun:
    """The decision in a run's results, compared with its digests and with the records in the results.

    Raises PrerequisiteError without a decision.
    """
    try:
        text = results.decision.text()
    except OSError as error:
        raise PrerequisiteError(f"{results.decision} cannot be read: {error.strerror}.") from None
    try:
        decision = None if text is None else Decision.model_validate_json(text)
    except ValidationError as error:
        raise PrerequisiteError(
            f"{results.decision} is not a decision that this version can read. Use the version of quantgate that wrote"
            " it, or run the pipeline again."
        ) from error
    if text is None or decision is None:
        raise PrerequisiteError(
            f"{results.location} contains no run with a decision. Give the folder of a finished run, e.g. runs/demo."
        )
    wrong, unread = list(differences(decision, text)), []
    with TemporaryDirectory() as scratch:
        for records in judged_records(decision, decision.digests) if decision.digests else ():
            copy = _copied(results.records(records.variant, records.stage), records, Path(scratch))
            if not copy:
                unread.append(records.unread)
            elif sha256_of(copy) != records.sha256:
                wrong.append(records.changed)
    return CheckedRun(decision, tuple(wrong), tuple(unread))


def _copied(own: ResultFile, records: RecordsFile, folder: Path) -> Path | None:
    """The records from the run's results, else from where they were judged; None if neither can be read."""
    prefix, _, name = records.location.rpartition("/")
    for file in (own, ResultFile(prefix or ".", name)):
        try:
            if file.get(folder / name):
                return folder / name
        except (PrerequisiteError, OSError):
            continue
    return None
