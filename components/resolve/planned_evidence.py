"""What a run's questions can show, before anything is started."""

from components.benchmarks.selection import suite_of
from components.benchmarks.suites import GUESSED, SuiteTask
from components.evidence.assumed_answers import SCORE, PlannedTask
from components.evidence.forecast import forecast
from components.evidence.prospects import Prospect
from components.flow_cases.planned_flows import planned_flow_tasks
from components.models.variants import BASELINE
from components.policies.policy import chosen
from components.run.artifacts import PERPLEXITIES
from components.run.attempts import Attempt
from components.run.plan import EvaluationPlan

FIRST = Attempt(number=1)


def prospect_of(plan: EvaluationPlan, score: float = SCORE, attempt: Attempt = FIRST) -> Prospect | None:
    """The run's policy and questions; None if it scores nothing, or a suite file does not say how many items it has.

    `score` is the baseline's assumed score on every task.
    """
    suite = suite_of(plan)
    scored = [task for task in suite.tasks if task.metric not in PERPLEXITIES]
    if not scored or not all(task.full for task in scored):
        return None
    flows = planned_flow_tasks(plan).items()
    limited = plan.limits or chosen(plan.use_case, plan.policy)
    of_flows = [PlannedTask(task, items, 0.0, score, 1, False, (), True) for task, items in flows]
    tasks = (
        *(_planned(task, score) for task in scored),
        *(task for task in of_flows if task.name in limited.max_drop),
    )
    variants = sum(name != BASELINE for name in plan.variants)
    looks = len(suite.looks) if plan.stop_early else 1
    return Prospect(chosen(plan.use_case, plan.policy), tasks, variants, looks, attempt=attempt)


def _planned(task: SuiteTask, score: float) -> PlannedTask:
    generated = task.metric not in GUESSED  # a choice is scored by its probability, which is not sampled
    samples, sampled = (task.samples, task.temperature > 0) if generated else (1, False)
    return PlannedTask(task.task, task.full, task.chance, score, samples, sampled, task.clusters, generated)


def forecast_of(plan: EvaluationPlan) -> str:
    """What a run of the plan can show, in a few lines; empty if that is unknown."""
    prospect = prospect_of(plan)
    return forecast(prospect) if prospect else ""
