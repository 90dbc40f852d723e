"""The report apart from the matrix: the evidence, how each variant was built, and how to reproduce the run."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from quantgate.components.benchmarks.suite_file import short_suite
from quantgate.components.evidence.change import confidence_text
from quantgate.components.evidence.spending import describe_attempt
from quantgate.components.policies.policy import ANSWERS_ERROR
from quantgate.components.report.formats import duration_text, percent_text
from quantgate.components.report.matrix import Row, matrix
from quantgate.components.report.screen import stopped_variants
from quantgate.components.run.artifacts import FLOWS, TaskScore, Weights, is_flow_task
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.components.run.verdicts import Decision, TaskEvidence

ATTEMPTS = (
    "all attempts on this base model for this use case, and the runs of an attempt on more questions, share the error"
    " that the policy allows."
)


@dataclass(frozen=True)
class Measured:
    """A task with its settings, and the variants that were evaluated with these settings."""

    stage: str
    task: TaskScore
    """The first variant's score; the settings in it are the same for all `variants`."""
    variants: tuple[str, ...]
    largest_stderr: float | None
    """None for a perplexity; so are `stderr_as_drop` and `above_chance`."""
    stderr_as_drop: float | None
    """The largest standard error as a share of the baseline's score: a drop of this size may be noise."""
    above_chance: bool | None
    """Whether the baseline scores better than guessing; None if the baseline was not evaluated with these settings."""


@dataclass(frozen=True)
class Story:
    """The report's section about a variant."""

    row: Row
    build: tuple[tuple[str, str], ...]
    """How the variant was built, as pairs of a label and a text."""
    digest: str
    failure: str
    """The full reason of a failure; empty if the variant did not fail."""


def measured(decision: Decision) -> tuple[Measured, ...]:
    """Each task, once for each combination of settings: variants with different settings are listed separately."""
    by_settings: dict[tuple[object, ...], list[tuple[str, TaskScore]]] = {}
    for scores in decision.scores:
        for task_score in (task for task in scores.tasks if not is_flow_task(task.task)):
            settings = (
                scores.stage,
                task_score.task,
                task_score.metric,
                task_score.items,
                task_score.shots,
                task_score.chance,
                task_score.version,
                task_score.settings.describe(),
            )
            by_settings.setdefault(settings, []).append((scores.variant, task_score))
    baseline = decision.verdicts[0].variant if decision.verdicts else ""
    return tuple(_measured(str(settings[0]), task_scores, baseline) for settings, task_scores in by_settings.items())


def stories(decision: Decision) -> tuple[Story, ...]:
    """The sections about the variants, in the order of the matrix."""
    weights = {variant_weights.variant: variant_weights for variant_weights in decision.weights}
    scores = {variant_scores.variant: variant_scores for variant_scores in decision.scores}
    result = []
    for row in matrix(decision):
        weight, score = weights.get(row.variant), scores.get(row.variant)
        tried = [artifact for artifact in (weight, score) if artifact and not (weight and weight.skipped)]
        reasons = dict.fromkeys(artifact.failure for artifact in tried if artifact.failure)
        failure = "\n\n".join(reasons) or (row.sentence if row.mark.verdict == "failed" else "")
        result.append(Story(row, _build_facts(weight) if weight else (), weight.digest if weight else "", failure))
    return tuple(result)


@dataclass(frozen=True)
class Certainty:
    """The report's sentences about the confidence of the verdicts."""

    by_evidence: bool
    """False if measured drops were compared with the limits directly, without confidence bounds."""
    promise: str
    saved: tuple[str, ...]
    """The items, evaluations and questions that the run skipped, one sentence each."""
    notes: tuple[str, ...]
    """Further notes on the scores."""
    twice: bool
    """Whether the baseline was evaluated twice, so that the noise floor is known."""


def certainty(decision: Decision) -> Certainty:
    """The confidence of the run's bounds, and the evaluations and questions that the run skipped."""
    judged = [verdict for verdict in decision.verdicts if verdict.form == "evidence"]
    point = [verdict for verdict in decision.verdicts if verdict.form == "point" and verdict.average_drop is not None]
    highest = max((verdict.confidence or 0.0 for verdict in judged), default=0.0)
    lowest = min((verdict.confidence or 0.0 for verdict in judged), default=0.0)
    spread = confidence_text(1 - lowest) + (f" to {confidence_text(1 - highest)}" if highest > lowest else "")
    promise = (
        f"Each upper bound holds with {spread} confidence: the variants of a run share the error that the policy allows"
        " (Holm's method), and so do the interim looks at a variant that may be stopped early. If answers are only"
        " lost, the bounds of a drop are proven. Else they are a conjecture (Gaffke's), which no simulation"
        " contradicted. Bounds over clusters and of a perplexity are t-tests."
    )
    if decision.limits.evidence == "margins":
        promise += (
            " Margins of multiple choice are evidence beside the answers: their confidence was simulated, and some ways"
            f" of damage break it. Whatever the damage, the error is at most {ANSWERS_ERROR:g} times as large."
        )
    if decision.attempt:
        promise = f"{describe_attempt(decision.limits.confidence, decision.attempt)}: {ATTEMPTS} {promise}"
    return Certainty(
        by_evidence=not point,
        promise=promise,
        saved=left_out_items(decision)
        + scores_of_earlier_runs(decision)
        + tuple(
            f"{verdict.variant} stopped early after {verdict.items:,} of {verdict.planned_items:,} questions: more"
            " answers could not have changed its verdict."
            for verdict in judged
            if verdict.items < verdict.planned_items and verdict.variant not in stopped_variants(decision)
        ),
        notes=tuple(
            f"Kubernetes replaced the pod of {scores.variant}'s server (times: {scores.replaced}): its evaluation"
            " waited for the same server and went on."
            for scores in decision.scores
            if scores.replaced
        )
        + tuple(note for verdict in judged for task in verdict.tasks for note in margin_notes(verdict.variant, task))
        + tuple(note for scores in decision.scores for task in scores.tasks for note in notes(scores.variant, task)),
        twice=any(task.noise_floor is not None for verdict in judged for task in verdict.tasks),
    )


def margin_notes(variant: str, task: TaskEvidence) -> Iterator[str]:
    """A note on the margins of a multiple-choice task, where the policy counts them: how far they are from answers."""
    if task.margins is None:
        return
    lost = task.margins.before - task.margins.after
    between = [bound for bound in (task.margins.distance_lower, task.margins.distance_upper) if bound is not None]
    interval = f" (95 % interval {' to '.join(f'{100 * bound:.1f}' for bound in between)})" if between else ""
    yield (
        f"On {task.task} by margins {variant} loses {100 * lost:.1f} points, by right and wrong answers"
        f" {100 * (lost + task.margins.distance):.1f}: {100 * task.margins.distance:.1f} points more{interval}."
    )


def left_out_items(decision: Decision) -> tuple[str, ...]:
    """A sentence for each task with items that do not fit the window."""
    if decision.plan is None:
        return ()
    return tuple(
        f"{count:,} items of {task} were left out for all variants: with its answer, each needs more than the window of"
        f" {decision.plan.window:,} tokens."
        for task, count in decision.plan.too_long.items()
    )


def scores_of_earlier_runs(decision: Decision) -> tuple[str, ...]:
    """A sentence for each variant whose scores come from an earlier run."""
    return tuple(
        f"{scores.variant} was not evaluated again: its scores come from {scores.scored_in}."
        for scores in decision.scores
        if scores.scored_in
    )


def notes(variant: str, score: TaskScore) -> Iterator[str]:
    """Notes on a score: answers that the token limit cut off, and IRT estimates."""
    if score.cut:
        yield f"The token limit cut off {score.cut:,} of {variant}'s {score.answers:,} answers on {score.task}."
    if score.estimates and not score.chosen:  # the screen shows those of chosen items
        estimates = ", ".join(f"{name} {value:.4f}" for name, value in score.estimates.items())
        yield f"The IRT models of tinyBenchmarks estimate {variant}'s score on all items of {score.task}: {estimates}."


def sources(decision: Decision) -> tuple[str, ...]:
    """The sources of the benchmark rows, without duplicates."""
    names: list[str] = []
    for scores in decision.scores:
        names += [origin.describe() for origin in scores.row_origins]
    return tuple(dict.fromkeys(names))


def prompt_settings(decision: Decision) -> tuple[tuple[str, str], ...]:
    """Each task that has other settings than lm-eval's defaults, and these settings."""
    pairs = ((task_score.task, task_score.settings) for scores in decision.scores for task_score in scores.tasks)
    shown = (pair for pair in pairs if pair[0] == FLOWS or not is_flow_task(pair[0]))
    texts = ((task, settings.describe()) for task, settings in shown if settings != PromptSettings())
    return tuple(dict.fromkeys(texts))


def command(decision: Decision) -> str:
    """The command line that reproduces the run; for a custom policy it needs `policy_text` as `policy.yaml`.

    A recipe of the user's own is needed as NAME.yaml.
    """
    names, plan = [verdict.variant for verdict in decision.verdicts], decision.plan
    suite = short_suite(plan.suite) if plan else decision.suite
    words = ["quantgate", "run", "--model", decision.model.source, "--suite", suite]
    words += ["--policy", "policy.yaml"] if decision.policy_text else ["--use-case", decision.use_case]
    words += ["--variants", ",".join(names[1:] or names)]
    for entry in plan.variant if plan else ():
        words += ["--variant", entry]
    for recipe in plan.variant_recipe if plan else ():
        name = recipe.partition("=")[0]
        words += ["--variant-recipe", f"{name}={name}.yaml"]
    return shlex.join([*words, *(options(plan) if plan else ())])


def options(plan: EvaluationPlan) -> Iterator[str]:
    """The command-line options for the plan's settings that differ from the defaults."""
    for custom_task in plan.custom:
        yield from ("--custom", custom_task)
    for entry in plan.flows:
        yield from ("--flows", f"{json.loads(entry)['name']}.yaml" if entry.startswith("{") else entry)
    if plan.tool_call_parser:
        yield from ("--tool-call-parser", plan.tool_call_parser)
    for name in ("judge", "judge_model", "judge_key"):
        if getattr(plan, name):
            yield from (f"--{name.replace('_', '-')}", getattr(plan, name))
    for texts in plan.calibration_also:
        yield from ("--calibration-also", texts)
    if plan.trust_tasks:
        yield "--trust-tasks"
    if plan.limit:
        yield from ("--limit", str(plan.limit))
    if plan.data not in ("", "embedded"):
        yield from ("--data", plan.data)
    if plan.irt_parameters:
        yield from ("--irt-parameters", plan.irt_parameters)
    fields = EvaluationPlan.model_fields
    generated = ("chat", "samples", "temperature", "max_answer_tokens")
    for name in ("calibration", "calibration_samples", "calibration_tokens", "quantize_gpus", *generated, "speed"):
        if getattr(plan, name) != fields[name].default:
            yield from (f"--{name.replace('_', '-')}", str(getattr(plan, name)))
    for is_set, option in (
        (plan.chat_template, "--chat-template"),
        (not plan.stop_early, "--no-stop-early"),
        (plan.noise_floor, "--noise-floor"),
        (not plan.ledger, "--no-ledger"),
        (not plan.check_power, "--no-check-power"),
        (plan.search, "--search"),
    ):
        if is_set:
            yield option


def noisiest(decision: Decision) -> Measured | None:
    """The task whose standard error is the largest share of the baseline's score."""
    candidates = [task for task in measured(decision) if task.stderr_as_drop is not None]
    return max(candidates, key=lambda task: task.stderr_as_drop or 0.0, default=None)


def _measured(stage: str, task_scores: list[tuple[str, TaskScore]], baseline: str) -> Measured:
    largest, share = max(task.stderr for _, task in task_scores), task_scores[0][1].is_share
    reference = next((task for variant, task in task_scores if variant == baseline), None)
    return Measured(
        stage=stage,
        task=task_scores[0][1],
        variants=tuple(variant for variant, _ in task_scores),
        largest_stderr=largest if share else None,
        stderr_as_drop=largest / reference.score if reference and reference.score > 0 and share else None,
        above_chance=reference.score > reference.chance if reference and share else None,
    )


def largest_changes(weights: Weights) -> str:
    """E.g. `model.layers.3.mlp.down_proj by 14.2 %, …`: the layers whose weights changed most."""
    return ", ".join(f"{name} by {percent_text(error)}" for name, error in weights.largest_errors.items())


def calibration_words(weights: Weights) -> str:
    """E.g. `32 samples of up to 256 tokens of boolq passages; 4,012 tokens in all, sha256 0123456789abcdef`."""
    if not weights.calibration_sha256:
        return weights.calibration
    return (
        f"{weights.calibration}; {weights.calibration_tokens:,} tokens in all, sha256 {weights.calibration_sha256[:16]}"
    )


def _build_facts(weights: Weights) -> tuple[tuple[str, str], ...]:
    if not weights.scheme:
        return ()
    facts = [
        ("Scheme", weights.scheme),
        ("Made elsewhere", weights.source),
        ("Algorithm", weights.algorithm or "none: the weights are unchanged"),
        ("Served by", "llama.cpp" if weights.is_gguf else ""),
        ("Layout", weights.layout),
        ("Key-value cache", weights.kv_cache_dtype and f"{weights.kv_cache_dtype}, on the weights of its row"),
        ("Largest change", largest_changes(weights)),
        ("Calibration", calibration_words(weights)),
        ("Seed", str(weights.seed or "")),
        ("Recipe", weights.recipe_sha256 and f"sha256 {weights.recipe_sha256[:16]}"),
    ]
    if weights.reused:
        facts.append(("Reused", "yes: an earlier run with the same inputs stored these weights"))
    if weights.duration_s:
        facts.append(("Took", duration_text(weights.duration_s)))
    return tuple((name, words) for name, words in facts if words)
