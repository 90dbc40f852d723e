"""The rows that MLflow shows of a decision: one for the pipeline run and one for each variant, including the baseline.

All variants have the same parameters, tags and, if measured, metrics, so that MLflow's compare page lines them up. A
number that was not measured is missing, never zero.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantgate.components.evidence.pareto import FrontRow, front
from quantgate.components.evidence.spending import describe_attempt
from quantgate.components.models.variants import known_variant
from quantgate.components.policies.policy import Average, text_of
from quantgate.components.run.artifacts import Scores, Weights, is_flow_task
from quantgate.components.run.load_results import LoadTest
from quantgate.components.run.verdicts import Decision, Verdict
from quantgate.components.storage.artifact import Artifact
from quantgate.components.track.cost_metrics import cost_metrics, speed_metrics, system_metrics
from quantgate.components.track.logged_models import ExternalModel, external_model
from quantgate.components.track.work_times import WorkTimes, variant_times
from quantgate.components.tracking.facts import RunFacts, RunFiles
from quantgate.components.tracking.tags import (
    DECISION,
    EVIDENCE,
    FLIPS,
    JUDGED_BY,
    RUN_ID_TAG,
    SCORES,
    SENTENCE_TAG,
    VARIANT_TAG,
    VERDICT,
    VERDICT_TAG,
    WEIGHTS,
)

LONGEST_CELL = 300
"""Characters of a sentence in a table's cell."""
_NOTHING = "none"
"""The value of a parameter that does not apply: MLflow's pages show an empty value like a forgotten one."""


@dataclass(frozen=True)
class DataSet:
    """The rows of one task, as an MLflow dataset."""

    name: str
    digest: str
    """The beginning of the rows' sha256."""
    source: str


@dataclass(frozen=True)
class RunRow:
    """The content of one MLflow run."""

    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    texts: Mapping[str, str]
    """Artifacts by file name."""
    files: tuple[Path, ...]
    tables: Mapping[str, Mapping[str, list[Any]]]
    """Columns by file name."""
    datasets: tuple[DataSet, ...]
    status: str
    """MLflow's FINISHED or FAILED."""
    times: WorkTimes
    model: ExternalModel | None = None
    """None on the pipeline run's own row, and for a variant without weights."""

    @property
    def variant(self) -> str:
        """The variant's name; empty on the pipeline run's own row."""
        return self.tags.get(VARIANT_TAG, "")


def run_row(decision: Decision, run: RunFacts, files: RunFiles) -> RunRow:
    """The pipeline run's own row."""
    params = {
        "model": decision.model.source,
        "model_digest": decision.model.digest,
        "model_note": decision.model.note or _NOTHING,
        "suite": decision.suite,
        "use_case": decision.use_case,
        "variants": ", ".join(verdict.variant for verdict in decision.verdicts),
        "policy": decision.policy,
        **_plan_params(decision),
        **_attempt_params(decision),
        **({EVIDENCE: decision.digests.combined} if decision.digests else {}),
    }
    tags = {
        RUN_ID_TAG: run.run_id,
        "verdicts": _verdicts(decision),
        "mlflow.note.content": _summary(decision),
        "mlflow.source.name": "quantgate",
        **{f"package.{name}": version for name, version in run.packages.items()},
        **{f"machine.{name}": value for name, value in run.machine.items()},
    }
    if run.commit:
        tags["mlflow.source.git.commit"] = run.commit
    if decision.published:
        tags["published_scores"] = ", ".join(f"{row.task}: {row.outcome}" for row in decision.published)
    if run.judged_by:
        tags[JUDGED_BY] = run.judged_by
    texts = {DECISION: _json(decision)}
    if policy := decision.policy_text or text_of(decision.use_case):
        texts["policy.yaml"] = policy
    for recipe in decision.plan.variant_recipe if decision.plan else ():
        name, _, text = recipe.partition("=")
        texts[f"{name}.yaml"] = text
    return RunRow(
        run.name,
        {**run.settings, **params},
        metrics={},
        tags=tags,
        texts=texts,
        files=files.report,
        tables={"decision_matrix.json": _matrix(decision)},
        datasets=tuple(dict.fromkeys(dataset for scores in decision.scores for dataset in _datasets(scores))),
        status="FINISHED",
        times=WorkTimes(run.started_at, run.decided_at),
    )


def variant_rows(decision: Decision, run: RunFacts, files: RunFiles) -> list[RunRow]:
    """A row for each verdict, in the decision matrix's order."""
    weights_of = {weights.variant: weights for weights in decision.weights}
    scores_of = {scores.variant: scores for scores in decision.scores}
    screens = {scores.variant: scores for scores in decision.screens}
    loads = {test.variant: test for test in decision.load_tests}
    fronts = {row.variant: row for row in front(decision)}
    tasks = list(dict.fromkeys(task for verdict in decision.verdicts for task in verdict.scores))
    baseline_bytes = next((verdict.size_bytes for verdict in decision.verdicts if verdict.verdict == "reference"), 0)
    rows = []
    for verdict in decision.verdicts:
        weights, scores = weights_of.get(verdict.variant), scores_of.get(verdict.variant)
        # MLflow's pages keep this order: the metrics that decide come first.
        metrics = {
            **_mean_metrics(verdict, scores, decision.limits.average),
            **cost_metrics(verdict, weights, scores, baseline_bytes),
            **_evidence_metrics(verdict),
            **_task_metrics(verdict, scores, tasks),
            **_screen_metrics(screens.get(verdict.variant)),
            **speed_metrics(loads.get(verdict.variant), loads.get(decision.verdicts[0].variant)),
            **system_metrics(weights, scores),
            **(_published_metrics(decision) if verdict == decision.verdicts[0] else {}),
        }
        params = _params(decision, verdict, weights, scores)
        rows.append(
            RunRow(
                name=verdict.variant,
                params=params,
                metrics={key: value for key, value in metrics.items() if math.isfinite(value)},
                tags=_tags(verdict, weights, scores, run.run_id)
                | _speed_tags(loads.get(verdict.variant))
                | _front_tags(fronts.get(verdict.variant)),
                texts=_texts(verdict, weights, scores),
                files=(*_records(scores), *files.variants.get(verdict.variant, ())),
                tables={FLIPS: flips} if (flips := files.flips.get(verdict.variant)) else {},
                datasets=_datasets(scores) if scores else (),
                status="FAILED" if verdict.verdict == "failed" else "FINISHED",
                times=variant_times(weights, scores, loads.get(verdict.variant)),
                model=external_model(weights, verdict, run.run_id, params),
            )
        )
    return rows


def _params(decision: Decision, verdict: Verdict, weights: Weights | None, scores: Scores | None) -> dict[str, str]:
    known = known_variant(verdict.variant)
    params = {
        "variant": verdict.variant,
        "scheme": (weights.scheme if weights else "") or (known.scheme if known else ""),
        "group_size": str(known.group_size) if known and known.group_size else "",
        "algorithm": weights.algorithm if weights else "",
        "layout": weights.layout if weights else "",
        "calibration": weights.calibration if weights else "",
        "seed": str(weights.seed) if weights and weights.calibration else "",
        "source": weights.source if weights else "",
        "recipe_sha256": weights.recipe_sha256 if weights else "",
        "kv_cache_dtype": weights.kv_cache_dtype if weights else "",
        "calibration_sha256": weights.calibration_sha256 if weights else "",
        "calibration_tokens": str(weights.calibration_tokens or "") if weights else "",
        "digest": weights.digest if weights else "",
        "baseline_digest": decision.model.digest,
        "suite": decision.suite,
        "asked": decision.plan.asked if decision.plan else "",
        "stage": scores.stage if scores else "",
        "tasks": "; ".join(f"{task.task} {task.metric}, {task.shots}-shot, {task.items} items" for task in scores.tasks)
        if scores
        else "",
    }
    return {key: value or _NOTHING for key, value in params.items()}


def _tags(verdict: Verdict, weights: Weights | None, scores: Scores | None, run_id: str) -> dict[str, str]:
    tried = [artifact for artifact in (weights, scores) if artifact and not (weights and weights.skipped)]
    failures = [artifact.failure for artifact in tried if artifact.failure]
    return {
        RUN_ID_TAG: run_id,
        VARIANT_TAG: verdict.variant,
        VERDICT_TAG: verdict.verdict,
        SENTENCE_TAG: verdict.sentence,
        "next_step": verdict.next_step or _NOTHING,
        # Tags and not parameters: both change when the same run is resumed, and MLflow never changes a parameter.
        "reused": str(weights.reused).lower() if weights else "false",
        "scored_in": (scores.scored_in if scores else "") or _NOTHING,
        "failure": failures[0] if failures else _NOTHING,
        "mlflow.note.content": f"**{verdict.verdict}** — {verdict.sentence}\n\n{verdict.next_step}".strip(),
        "mlflow.source.name": "quantgate",
    }


def _mean_metrics(verdict: Verdict, scores: Scores | None, average: Average) -> dict[str, float]:
    left_out = {task.task for task in scores.tasks if not task.is_averaged} if scores else set()
    shares = {task: score for task, score in verdict.scores.items() if task not in left_out}
    if not shares:
        return {}
    metrics = {"mean_score": average.of(shares)}
    if verdict.average_drop is not None:
        metrics["average_drop"] = verdict.average_drop
    elif verdict.verdict == "reference":
        metrics["average_drop"] = 0.0
    return metrics


def _attempt_params(decision: Decision) -> dict[str, str]:
    """The number of the attempt, and of the run within it; none if attempts were not counted."""
    attempt = decision.attempt
    return {"attempt": str(attempt.number), "attempt_run": str(attempt.run)} if attempt else {}


def _plan_params(decision: Decision) -> dict[str, str]:
    """The plan's options beside the suite, as parameters."""
    plan = decision.plan
    if plan is None:
        return {}
    return {
        "asked": plan.asked or _NOTHING,
        "custom": ", ".join(plan.custom) or _NOTHING,
        "limit": str(plan.limit or _NOTHING),
        "data": plan.data or _NOTHING,
        "window": str(plan.window or _NOTHING),
        "too_long": ", ".join(f"{count} of {task}" for task, count in plan.too_long.items()) or _NOTHING,
        "chat_template": str(plan.chat_template).lower(),
        "chat": plan.chat or _NOTHING,
        "samples": str(plan.samples or _NOTHING),
        "temperature": str(plan.temperature or _NOTHING),
        "max_answer_tokens": str(plan.max_answer_tokens or _NOTHING),
        "stop_early": str(plan.stop_early).lower(),
        "noise_floor": str(plan.noise_floor).lower(),
        "speed": plan.speed,
        "search": str(plan.search).lower(),
    }


def _datasets(scores: Scores) -> tuple[DataSet, ...]:
    """One dataset for each task."""
    return tuple(DataSet(origin.task, origin.sha256, origin.where) for origin in scores.row_origins)


def _matrix(decision: Decision) -> dict[str, list[Any]]:
    """The decision matrix, one row for each variant; a number that was not measured is None."""
    tasks = dict.fromkeys(task for verdict in decision.verdicts for task in verdict.scores)
    rows = decision.verdicts
    return {
        "variant": [row.variant for row in rows],
        "verdict": [row.verdict for row in rows],
        "average_drop": [row.average_drop for row in rows],
        "size_bytes": [row.size_bytes or None for row in rows],
        **{f"{task}.score": [row.scores.get(task) for row in rows] for task in tasks},
        "sentence": [row.sentence for row in rows],
        "next_step": [row.next_step for row in rows],
    }


def _evidence_metrics(verdict: Verdict) -> dict[str, float]:
    """The bounds of the variant's drops, and how its answers differ from the baseline's."""
    metrics: dict[str, float | None] = {}
    for limit in verdict.limits:
        name = f"{limit.what}_drop" if limit.what == "average" else f"{limit.what}.{limit.kind}"
        metrics |= {f"{name}_lower": limit.lower, f"{name}_upper": limit.upper}
    for task in verdict.tasks:
        metrics |= {f"{task.task}.drop_lower": task.drop_lower, f"{task.task}.drop_upper": task.drop_upper}
        metrics |= {f"{task.task}.flips": task.flip_rate, f"{task.task}.kl": task.kl}
        metrics |= {f"{task.task}.lost": task.lost, f"{task.task}.gained": task.gained}
        metrics |= {f"{task.task}.longer": task.longer}
    if benchmarks := [task for task in verdict.tasks if not is_flow_task(task.task)]:
        items = sum(task.items for task in benchmarks)
        metrics["flips"] = sum(task.lost + task.gained for task in benchmarks) / items
        measured = [(task.kl, task.items) for task in verdict.tasks if task.kl is not None]
        metrics["kl"] = (
            sum(kl * count for kl, count in measured) / sum(count for _, count in measured) if measured else None
        )
    metrics |= {f"{task}.perplexity_ratio": ratio for task, ratio in verdict.perplexity_ratios.items()}
    return {name: value for name, value in metrics.items() if value is not None}


def _task_metrics(verdict: Verdict, scores: Scores | None, tasks: Iterable[str]) -> dict[str, float]:
    reference = verdict.verdict == "reference"
    by_task = {score.task: score for score in scores.tasks} if scores else {}
    metrics: dict[str, float] = {}
    for task in tasks:
        if task in verdict.scores:
            metrics[f"{task}.score"] = verdict.scores[task]
            if reference:
                metrics[f"{task}.drop"] = 0.0
        if task in verdict.drops:
            metrics[f"{task}.drop"] = verdict.drops[task]
        if task in verdict.scores and task in by_task:
            metrics[f"{task}.stderr"] = by_task[task].stderr
            metrics[f"{task}.items"] = by_task[task].items
            if lengths := by_task[task].lengths:
                metrics |= {f"{task}.answer_tokens_median": lengths.median, f"{task}.answer_tokens_p95": lengths.p95}
                metrics[f"{task}.cut"] = by_task[task].cut
    return metrics


def _published_metrics(decision: Decision) -> dict[str, float]:
    """The published scores of the baseline, as shares, and how far its own are from them."""
    metrics: dict[str, float] = {}
    for row in decision.published:
        metrics |= {f"{row.task}.published": row.published, f"{row.task}.published_distance": row.distance}
    return metrics


def _screen_metrics(screen: Scores | None) -> dict[str, float]:
    """tinyBenchmarks' estimates of the screen, such as `screen/mmlu/mean`."""
    return {
        f"screen/{task.task}/{name}": value
        for task in (screen.tasks if screen else ())
        if task.chosen
        for name, value in task.estimates.items()
    }


def _speed_tags(test: LoadTest | None) -> dict[str, str]:
    """Why the load test failed; nothing without a load test."""
    return {"speed_failure": test.failure or _NOTHING} if test else {}


def _front_tags(row: FrontRow | None) -> dict[str, str]:
    """The place in a search: on the Pareto front, or which variant is better; nothing without a search."""
    if row is None:
        return {}
    return {"pareto_front": (f"behind {row.better}" if row.better else "yes") if row.is_placed else _NOTHING}


def _texts(verdict: Verdict, weights: Weights | None, scores: Scores | None) -> dict[str, str]:
    artifacts = {VERDICT: verdict, WEIGHTS: weights, SCORES: scores}
    return {name: _json(artifact) for name, artifact in artifacts.items() if artifact}


def _json(artifact: Artifact) -> str:
    return artifact.model_dump_json(indent=2) + "\n"


def _records(scores: Scores | None) -> tuple[Path, ...]:
    """The local files of the records; those in S3 stay there: the scores say where."""
    files = (scores.records, scores.again) if scores else ()
    return tuple(Path(file) for file in files if file and Path(file).is_file())


def _verdicts(decision: Decision) -> str:
    return ", ".join(f"{row.variant}: {row.verdict}" for row in decision.verdicts)


def shortened(sentence: str) -> str:
    """The sentence's first line, cut to fit a table's cell: the sentence may contain a server's log."""
    first = sentence.strip().partition("\n")[0]
    return first if len(first) <= LONGEST_CELL else f"{first[: LONGEST_CELL - 1]}…"


def _summary(decision: Decision) -> str:
    # MLflow folds a long description: only the first line shows without a click.
    rows = [f"| {row.variant} | **{row.verdict}** | {shortened(row.sentence)} |" for row in decision.verdicts]
    run = f"`{decision.model.source}` for **{decision.use_case}**, suite {decision.suite}: {decision.policy}"
    note = ["", decision.model.note] if decision.model.note else []
    if decision.attempt:
        note = ["", f"{describe_attempt(decision.limits.confidence, decision.attempt)}.", *note]
    table = ["| variant | verdict | why |", "|---|---|---|", *rows]
    return "\n".join([f"**{_verdicts(decision)}**", "", *table, "", run, *note])
