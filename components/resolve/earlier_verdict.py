"""Reuse the earlier verdict of a base model by the same plan."""

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.artifacts import Model
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults


def with_earlier_verdict(model: Model, plan: EvaluationPlan, tracking_uri: str) -> EvaluationPlan:
    """The plan with the MLflow run that judged this model by the same plan; copies that run's decision to the results.

    If there is no such run, or MLflow does not answer, the plan is unchanged and the model is judged again.
    """
    from quantgate.components.tracking.earlier import find_decision

    try:
        earlier = find_decision(model, plan, tracking_uri)
    except PrerequisiteError:
        return plan
    if not earlier:
        return plan
    decision, tracked = earlier
    results = RunResults(plan.results)
    results.earlier_decision.write(decision)
    results.earlier_tracked.write(tracked)
    return plan.model_copy(update={"judged_in": decision.judged_in})
