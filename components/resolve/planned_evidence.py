"""What a run's questions can show, before anything is started."""

from components.benchmarks.selection import suite_of
from components.benchmarks.suites import GUESSED, SuiteTask
from components.evidence import prospects
from components.evidence.assumed_answers import SCORE, PlannedTask
from components.evidence.prospects import PASSING, VERDICT_NAMES, Prospect
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
    tasks = tuple(_planned(task, score) for task in scored)
    variants = sum(name != BASELINE for name in plan.variants)
    looks = len(suite.looks) if plan.stop_early else 1
    return Prospect(chosen(plan.use_case, plan.policy), tasks, variants, looks, attempt)


def _planned(task: SuiteTask, score: float) -> PlannedTask:
    chosen_answers = task.metric in GUESSED  # a choice is scored by its probability, which is not sampled
    samples, sampled = (1, False) if chosen_answers else (task.samples, task.temperature > 0)
    return PlannedTask(task.task, task.full, task.chance, score, samples, sampled, task.clusters)


def few_questions(plan: EvaluationPlan) -> str:
    """What a copy of the baseline could reach, if that is not `ship`; empty if it is, or unknown."""
    prospect = prospect_of(plan)
    if prospect is None or (verdict := prospects.copy_verdict(prospect)) == "ship":
        return ""
    reached = verdict if verdict in PASSING else f"{VERDICT_NAMES.get(verdict, verdict)}, so no variant passes"
    return (
        f"These questions are few for {prospect.use_case.name}: even a copy of a baseline that scores {SCORE:.0%} would"
        f" be {reached}. `quantgate power` shows how many are enough."
    )
