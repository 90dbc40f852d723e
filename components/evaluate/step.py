"""The steps evaluate-tiny and evaluate-full: the two stages of an evaluation."""

from pathlib import Path

from quantgate.components.benchmarks import suites
from quantgate.components.evaluate import early_stop, estimates, load_test, stages
from quantgate.components.evidence.reference import without_reference
from quantgate.components.run import progress
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.plan import EvaluationPlan


def evaluate_tiny(server: str, plan: str, scores: str, records: str) -> None:
    """Score the tiny stage of the suite."""
    serving, planned = Server.read(server), EvaluationPlan.read(plan)
    with progress.step(planned.results, suites.TINY, serving.variant) as step:
        if serving.scored_in:
            stages.copy_earlier_scores(serving, step, planned.results, scores)
            return
        serving = stages.with_reference(serving, planned)
        tiny_scores = stages.score_stage(serving, planned, suites.TINY, step, Path(records))
        tiny_scores = estimates.with_screen(tiny_scores, planned, Path(records))
        skipped = bool(serving.failure and tiny_scores.failure)
        stages.save_scores(tiny_scores, step, planned.results, scores, skipped=skipped)


def evaluate_full(server: str, tiny: str, plan: str, scores: str, records: str) -> None:
    """Score the full stage of the suite; a variant's evaluation ends once more answers cannot change its verdict.

    Then load-test the server, if the plan asks for it. A variant that the tiny stage rejects is not load-tested.
    """
    serving, tiny_scores, planned = Server.read(server), Scores.read(tiny), EvaluationPlan.read(plan)
    with progress.step(planned.results, suites.FULL, serving.variant) as step:
        if serving.scored_in:
            stages.copy_earlier_scores(serving, step, planned.results, scores)
            return
        final_scores = None
        if failure := tiny_scores.failure or without_reference(serving.variant, planned):
            without_score = {"stage": suites.FULL, "tasks": (), "records": "", "failure": failure}
            final_scores = tiny_scores.model_copy(update=without_score)
        may_stop = early_stop.stop_rule(tiny_scores, planned)
        if may_stop and not final_scores:
            final_scores = early_stop.stopped_after_tiny(tiny_scores, planned, may_stop)
        if final_scores:
            stages.save_scores(final_scores, step, planned.results, scores, skipped=True)
            return
        answered = stages.tiny_records(serving.variant, planned.results)
        full_scores = stages.score_stage(
            serving, planned, suites.FULL, step, Path(records), tiny=answered, may_stop=may_stop
        )
        full_scores = estimates.with_estimates(full_scores, planned, Path(records))
        if planned.noise_floor and serving.variant == planned.baseline and not full_scores.failure:
            full_scores = stages.with_second_pass(full_scores, serving, planned, step)
        stages.save_scores(full_scores, step, planned.results, scores)
    load_test.after_full_stage(serving, full_scores, planned)
