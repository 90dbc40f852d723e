"""How often variants of the base model were judged before: which attempt the run will be."""

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.artifacts import Model
from quantgate.components.run.attempts import Attempt, AttemptRecord, expected_attempt
from quantgate.components.run.evidence_digests import policy_digest
from quantgate.components.run.plan import EvaluationPlan


def count_tracked(model: Model, plan: EvaluationPlan) -> tuple[Attempt, str]:
    """The attempt that the run will probably be, and a note if MLflow could not be asked; its runs are counted first.

    Raises PrerequisiteError for a record in the store that is damaged.
    """
    from quantgate.components.tracking.earlier_attempts import add_to_record, tracked_judgements

    record, note = AttemptRecord(plan.store, model.digest, plan.decided_limits.name), ""
    record.read()  # raises for a damaged record before MLflow is asked
    if plan.tracking_uri:
        try:
            tracked = tracked_judgements(model.digest, record.use_case, plan.experiment, plan.tracking_uri)
        except PrerequisiteError as error:
            tracked, note = [], f"attempts are counted from the store alone: {str(error).partition(chr(10))[0]}"
        add_to_record(record, tracked)
    policy = policy_digest(plan.decided_limits)
    return expected_attempt(record.read(), policy, plan.asked, {}), note
