"""A variant's model card: what it keeps of its base model, with bounds, protocol and digests.

README.md                           the card, with the metadata that Hugging Face's hub reads; its section can be copied
.eval_results/TASK.yaml             its scores on the hub's benchmarks
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import yaml

from quantgate.components.errors import PrerequisiteError
from quantgate.components.report.hub_results import HubBenchmark, hub_results
from quantgate.components.report.matrix import mark_of, matrix, tasks_of
from quantgate.components.report.pages import environment, report_facts
from quantgate.components.report.stated_limits import AVERAGE, bounds
from quantgate.components.report.story import measured, stories
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.verdicts import Decision, LimitEvidence, Verdict

CARD = "README.md"
HUB = "hf:"


@dataclass(frozen=True)
class Recovery:
    """What the variant keeps of the baseline's score on a task, or on average; unrounded."""

    task: str
    before: float
    after: float
    edges: tuple[float, ...]
    """The recoveries at which the verdict changes: no rounding crosses them."""
    drop: float | None
    lower: float | None
    upper: float | None
    """The bounds of the drop, in the policy's unit."""

    @property
    def recovered(self) -> float | None:
        """The share of the baseline's score; None if that is 0."""
        return self.after / self.before if self.before else None


def card_files(
    decision: Decision,
    variant: str,
    at: datetime | None = None,
    source: str = "",
    benchmarks: Mapping[str, HubBenchmark] | None = None,
) -> dict[str, str]:
    """The text of each file by its name; raises PrerequisiteError for a variant without scores."""
    results = hub_results(judged(decision, variant), variant, at, source, benchmarks)
    return {CARD: card(decision, variant, results.left_out), **results.files}


def judged(decision: Decision, variant: str) -> Decision:
    """The decision, if it has a score of the variant; raises PrerequisiteError otherwise, with what to do."""
    names = [row.variant for row in decision.verdicts[1:]]
    if variant not in names:
        raise PrerequisiteError(f"The run has no variant {variant}. Its variants: {', '.join(names) or 'none'}.")
    verdict = verdict_on(decision, variant)
    if verdict.verdict == "failed" or not verdict.scores:
        raise PrerequisiteError(f"{variant} has no scores, so it has no card: {verdict.sentence}")
    return decision


def verdict_on(decision: Decision, variant: str) -> Verdict:
    """The variant's verdict."""
    return next(row for row in decision.verdicts if row.variant == variant)


def card(decision: Decision, variant: str, left_out: tuple[str, ...] = ()) -> str:
    """The card as Markdown, with its metadata."""
    verdict, baseline = verdict_on(decision, variant), decision.verdicts[0]
    weights = next(row for row in decision.weights if row.variant == variant)
    facts = report_facts(decision) | {
        "verdict": verdict,
        "mark": mark_of(verdict),
        "baseline": baseline.variant,
        "weights": weights,
        "story": next(story for story in stories(decision) if story.row.variant == variant),
        "recoveries": list(recoveries(decision, verdict)),
        "own": [one for one in measured(decision) if variant in one.variants],
        "evidence": decision.digests.combined if decision.digests else "",
        "left_out": left_out,
        "engine": next((row.engine for row in decision.scores if row.variant == verdict.variant and row.engine), ""),
    }
    text = environment(decision, autoescape=False).get_template("model_card.md.j2").render(facts)
    return f"---\n{metadata(decision, weights)}---\n\n{text}"


def metadata(decision: Decision, weights: Weights) -> str:
    """The card's metadata as YAML; the base model only if it is a repository of the hub."""
    source = decision.model.source
    engines = ["llama.cpp", "gguf"] if weights.is_gguf else ["vllm", "compressed-tensors"]
    base = {"base_model": source.removeprefix(HUB).partition("@")[0], "base_model_relation": "quantized"}
    fields = {
        **(base if source.startswith(HUB) else {}),
        "pipeline_tag": "text-generation",
        "tags": ["quantgate", *engines, *([weights.scheme] if weights.scheme else [])],
    }
    return str(yaml.safe_dump(fields, sort_keys=False))


def recoveries(decision: Decision, verdict: Verdict) -> Iterator[Recovery]:
    """The recovery on each task that averages include, and last the average's."""
    rows = {row.variant: row for row in matrix(decision)}
    baseline, own = rows[decision.verdicts[0].variant], rows[verdict.variant]
    shares = {score.task for row in decision.scores for score in row.tasks if score.is_share}
    evidence = {task.task: (task.drop_lower, task.drop_upper) for task in verdict.tasks}
    for before, after in zip(baseline.cells, own.cells, strict=True):
        if before.task in shares:
            within = evidence.get(after.task, (None, None))
            yield from _recovery(decision, after.task, (before.score, after.score, after.drop), within)
    limit = average_limit(verdict)
    within = (limit.lower, limit.upper) if limit else (None, None)
    yield from _recovery(decision, AVERAGE, (baseline.mean_score, own.mean_score, verdict.average_drop), within)


def _recovery(
    decision: Decision,
    task: str,
    measured_values: tuple[float | None, float | None, float | None],
    within: tuple[float | None, float | None],
) -> Iterator[Recovery]:
    """The recovery from the scores before and after and the drop; none without both scores.

    The drop compares the same questions. So the score before is that on the variant's questions, which are fewer than
    the baseline's if the variant was stopped early.
    """
    before, after, drop = measured_values
    if before is None or after is None:
        return
    relative = decision.limits.relative
    if drop is not None:
        before = after + drop if not relative else after / (1 - drop) if drop < 1 else before
    edges = bounds(decision.limits, tasks_of(decision)).get(task, ()) if relative else ()
    yield Recovery(task, before, after, tuple(1 - edge for edge in edges), drop, *within)


def average_limit(verdict: Verdict) -> LimitEvidence | None:
    """The evidence of the average drop; None without per-item answers."""
    return next((limit for limit in verdict.limits if (limit.what, limit.kind) == (AVERAGE, "drop")), None)
