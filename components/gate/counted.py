"""Decide with the number of the attempt, and count it before anybody sees the verdict."""

from collections.abc import Callable, Sequence

from quantgate.components.gate.results_files import JudgedRecords
from quantgate.components.run.artifacts import Scores, Weights
from quantgate.components.run.attempts import Attempt, AttemptRecord, Judgement, attempt_of, evidence_digest
from quantgate.components.run.evidence_digests import policy_digest
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.verdicts import Decision


def judgement_of(
    plan: EvaluationPlan, weights: Sequence[Weights], scores: Sequence[Scores], records: JudgedRecords
) -> Judgement:
    """What the gate judges, for the record."""
    looks = {row.variant: (row.look, row.looks) for row in scores}
    return Judgement(
        policy=policy_digest(plan.decided_limits),
        weights={row.variant: row.digest for row in weights},
        evidence=evidence_digest(records.sha256s, records.again_sha256, looks),
        asked=plan.asked,
    )


def counted(decide: Callable[[Attempt], Decision], record: AttemptRecord, judgement: Judgement, where: str) -> Decision:
    """The decision as the record's next attempt, or as what the record says of the same judgement.

    If another run is counted meanwhile, this one is decided again with the next number. A decision in which no variant
    was judged by evidence is not counted. Raises PrerequisiteError if the record cannot be read or written.
    """
    while True:
        known = record.read()
        decision = decide(attempt_of(known, judgement))
        if decision.attempt is None or record.add(judgement, decision.attempt, where, known):
            return decision
