"""A base model that has a verdict by the same plan is not judged again."""

from components.errors import PrerequisiteError
from components.run.artifacts import Model
from components.run.plan import EvaluationPlan
from components.run.results import RunResults


def judged_before(model: Model, plan: EvaluationPlan, tracking_uri: str) -> EvaluationPlan:
    """The plan with the MLflow run that judged this model by it, whose decision stays in the results.

    The plan as it is where there is no such run, or MLflow does not answer: the model is judged then.
    """
    from components.tracking.earlier import find_decision

    try:
        found = find_decision(model, plan, tracking_uri)
    except PrerequisiteError:
        return plan
    if not found:
        return plan
    decision, tracked = found
    results, link = RunResults(plan.results), {"judged_in": tracked.link}
    results.earlier_decision.write(decision.model_copy(update=link))
    results.earlier_tracked.write(tracked)
    return plan.model_copy(update=link)
