"""The steps evaluate-tiny and evaluate-full: the two stages of an evaluation."""

from pathlib import Path

from components.benchmarks import suites
from components.evaluate import early_stop, estimates, stages
from components.models.variants import BASELINE
from components.run import progress
from components.run.artifacts import Scores, Server
from components.run.plan import EvaluationPlan


def evaluate_tiny(server: str, plan: str, scores: str, records: str) -> None:
    """Score the tiny stage of the suite."""
    serving, planned = Server.read(server), EvaluationPlan.read(plan)
    with progress.step(planned.results, suites.TINY, serving.variant) as step:
        if serving.scored_in:
            stages.hand_on(serving, step, planned.results, scores)
            return
        found = stages.answered(serving, planned, suites.TINY, step, Path(records))
        stages.keep(found, step, planned.results, scores, skipped=bool(serving.failure))


def evaluate_full(server: str, tiny: str, plan: str, scores: str, records: str) -> None:
    """Score all of the suite, for a variant until more answers could not change its verdict."""
    serving, before, planned = Server.read(server), Scores.read(tiny), EvaluationPlan.read(plan)
    with progress.step(planned.results, suites.FULL, serving.variant) as step:
        if serving.scored_in:
            stages.hand_on(serving, step, planned.results, scores)
            return
        enough = early_stop.stopping(before, planned)
        stopped = before.model_copy(update={"stage": suites.FULL}) if before.failure else None
        if enough and not stopped:
            stopped = early_stop.stopped_after_tiny(before, planned, enough)
        if stopped:
            stages.keep(stopped, step, planned.results, scores, skipped=True)
            return
        found = stages.answered(serving, planned, suites.FULL, step, Path(records), enough)
        found = estimates.estimated(found, planned, Path(records))
        if planned.noise_floor and serving.variant == BASELINE and not found.failure:
            found = stages.asked_again(found, serving, planned, step)
        stages.keep(found, step, planned.results, scores)
