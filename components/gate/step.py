"""The step gate: decide on every variant."""

from dataclasses import replace
from pathlib import Path

from quantgate.components.benchmarks import selection
from quantgate.components.gate import results_files
from quantgate.components.run import progress
from quantgate.components.run.artifacts import Model, Scores, Weights
from quantgate.components.run.attempts import AttemptRecord
from quantgate.components.run.evidence_digests import digests_of
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision


def gate(baseline: str, plan: str, weights: list[str], scores: list[str], decision: str) -> dict[str, float]:
    """Decide on every variant; return the metrics for the run's page by name."""
    from quantgate.components.evidence.decision import decide
    from quantgate.components.evidence.speed_limits import with_speed
    from quantgate.components.evidence.spending import describe_attempt
    from quantgate.components.evidence.unscored_items import without_unscored
    from quantgate.components.gate.counted import counted, judgement_of
    from quantgate.components.gate.flipped_items import examples

    planned = EvaluationPlan.read(plan)
    with progress.step(planned.results, "gate") as step:
        if planned.judged_in:
            results_files.copy_earlier_decision(RunResults(planned.results), decision)
            step.end(skipped=True, note=f"judged before in {planned.judged_in}")
            return numbers(Decision.read(decision))
        last_scores = [Scores.read(file) for file in scores]
        records = results_files.read_answers(last_scores, planned.results)
        last_scores, answers, unscored = without_unscored(last_scores, records.answers)
        records = replace(records, answers=answers)
        if unscored:
            planned = planned.model_copy(update={"flows_notes": (*planned.flows_notes, unscored)})
        limits, all_weights = planned.decided_limits, [Weights.read(file) for file in weights]
        suite = selection.suite_of(planned).name
        model = Model.read(baseline)
        answer = counted(
            lambda attempt: decide(
                model, suite, limits, all_weights, last_scores, records.answers, records.again, attempt
            ),
            AttemptRecord(planned.store, model.digest, limits.name),
            judgement_of(planned, all_weights, last_scores, records),
            planned.results,
        )
        answer = with_speed(answer, results_files.read_load_tests(last_scores, planned.results))
        flips = results_files.write_flips(last_scores, planned.results)
        flip_examples = tuple(flip for row in answer.verdicts for flip in examples(flips.get(row.variant, ())))
        answer = answer.model_copy(
            update={
                "policy_text": planned.policy,
                "plan": planned,
                "examples": flip_examples,
                "screens": results_files.read_screens(last_scores, planned.results),
            }
        )
        digests = digests_of(answer.model_dump_json(), records.sha256s, records.again_sha256)
        answer = answer.model_copy(update={"digests": digests})
        answer.write(decision)
        RunResults(planned.results).decision.put(Path(decision))
        verdicts = ", ".join(f"{row.variant}: {row.verdict}" for row in answer.verdicts)
        attempt = answer.attempt and describe_attempt(limits.confidence, answer.attempt)
        step.end(note=f"{verdicts}; {attempt}" if attempt else verdicts)
    return numbers(answer)


def numbers(decision: Decision) -> dict[str, float]:
    """Each variant's average drop, size and scores, with metric names for the run's page."""
    metrics: dict[str, float] = {}
    for row in decision.verdicts:
        if row.average_drop is not None:
            metrics[f"{row.variant} average drop"] = row.average_drop
        if row.size_bytes:
            metrics[f"{row.variant} size, MB"] = row.size_bytes / 1e6
        metrics |= {f"{row.variant} {task}": score for task, score in row.scores.items()}
    return metrics
