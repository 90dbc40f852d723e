"""The flows of a plan, before anything is started: their checks, and the tasks that a policy may limit."""

from collections.abc import Sequence

from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.flow_file import Flow, FlowSet
from quantgate.components.flow_cases.flow_sources import flow_set, need_judge
from quantgate.components.flow_cases.flow_tasks import flow_tasks
from quantgate.components.run.plan import EvaluationPlan


def check_flows(plan: EvaluationPlan) -> FlowSet:
    """All flows of the plan; raises PrerequisiteError for a faulty file, or a rubric without a judge."""
    flows = flow_set(plan.flows)
    check_judge(flows.flows, plan.judge)
    if plan.tool_call_parser and not plan.flows:
        raise PrerequisiteError("--tool-call-parser is for flows with tools: add --flows, or leave it out.")
    return flows


def check_judge(flows: Sequence[Flow], judge: str) -> None:
    """Raise PrerequisiteError when a flow has a rubric and there is no judge, or a judge and no rubric."""
    judged = need_judge(flows)
    if judge and not judged:
        raise PrerequisiteError("No flow has a rubric, so the judge has nothing to decide. Leave --judge out.")
    if judged and not judge:
        raise PrerequisiteError(
            f"{len(judged)} flows have a rubric, which a judge decides ({', '.join(judged[:3])}), and no judge is"
            " named. Name one: --judge URL --judge-model NAME. Or take the rubrics out."
        )


def planned_flow_tasks(plan: EvaluationPlan) -> dict[str, int]:
    """The tasks of the plan's flows, each with its number of items; those that are left out do not count."""
    flows = flow_set(plan.flows).flows if plan.flows else ()
    return flow_tasks([flow for flow in flows if flow.id not in plan.flows_left_out])
