"""The attempts that MLflow knows of: runs on the same base model, for the same use case, of any store."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantgate.components.run.attempts import Attempt, AttemptRecord, Judgement, attempt_of, evidence_digest
from quantgate.components.run.verdicts import Decision
from quantgate.components.tracking.connect import connected
from quantgate.components.tracking.earlier import trusted_runs
from quantgate.components.tracking.experiments import rights_on
from quantgate.components.tracking.verification import checked_decision

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class TrackedJudgement:
    """What one run in MLflow has judged."""

    judgement: Judgement
    attempt: Attempt | None
    """None for a run that was recorded before attempts were counted."""
    where: str


def tracked_judgements(model: str, use_case: str, experiment: str, tracking_uri: str) -> list[TrackedJudgement]:
    """What the experiment's runs on the base model with this digest have judged for the use case, the oldest first.

    Only runs whose evidence has the digests that it was recorded with and, where MLflow has accounts, that this account
    signed. Raises PrerequisiteError when MLflow cannot be reached.
    """
    judged = []
    with connected(tracking_uri, "list its runs") as client, rights_on(experiment):
        for _, run in trusted_runs(client, experiment, f"params.model_digest = '{model}'", tracking_uri):
            checked = checked_decision(client, run)
            if not checked or checked.mismatches or checked.decision.use_case != use_case:
                continue
            if found := _judged(checked.decision, run):
                judged.append(found)
    return judged[::-1]


def add_to_record(record: AttemptRecord, tracked: list[TrackedJudgement]) -> None:
    """Count those of the judgements that the record lacks, each under the number that it was decided with."""
    for found in tracked:
        while True:
            known = record.read()
            attempt = found.attempt or attempt_of(known, found.judgement)
            if record.add(found.judgement, attempt, found.where, known):
                break


def _judged(decision: Decision, run: "Run") -> TrackedJudgement | None:
    """What the decision has judged; None if no variant was judged by evidence."""
    digests = decision.digests
    if digests is None or not any(verdict.form == "evidence" for verdict in decision.verdicts):
        return None
    looks = {row.variant: (row.look, row.looks) for row in decision.scores}
    judgement = Judgement(
        policy=digests.policy,
        weights=digests.weights,
        evidence=evidence_digest(digests.records, digests.again, looks),
        asked=decision.plan.asked if decision.plan else "",
    )
    return TrackedJudgement(judgement, decision.attempt, f"MLflow run {run.info.run_id}")
