"""What MLflow shows of a decision: one row for the pipeline run and one for each variant, the baseline among them.

All variants have the same parameters, tags and, where they were measured, metrics, so that MLflow's compare page lines
them up. A number that was not measured is missing: never a zero.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.models.variants import VARIANTS
from components.policies.policy import text_of
from components.run.artifacts import Decision, Scores, Verdict, Weights
from components.storage.artifact import Artifact
from components.tracking.facts import RunFacts, RunFiles
from components.tracking.tags import DECISION, FLIPS, JUDGED_BY, RUN_ID_TAG, SCORES, VARIANT_TAG, VERDICT, WEIGHTS

SHOWN = 300
"""Characters of a sentence in a table."""
_NOTHING = "none"
"""A parameter that does not apply; MLflow's pages show an empty value like one that was forgotten."""


@dataclass(frozen=True)
class DataSet:
    """The rows of one task, as MLflow names what a run was given."""

    name: str
    digest: str
    """sha256, its beginning."""
    source: str


@dataclass(frozen=True)
class RunRow:
    """One MLflow run as it should be when it has been written."""

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

    @property
    def variant(self) -> str:
        """The variant's name; empty on the pipeline run's own row."""
        return self.tags.get(VARIANT_TAG, "")


def run_row(decision: Decision, run: RunFacts, files: RunFiles) -> RunRow:
    """The pipeline run's own row."""
    asked = {
        "model": decision.model.source,
        "model_digest": decision.model.digest,
        "model_note": decision.model.note or _NOTHING,
        "suite": decision.suite,
        "use_case": decision.use_case,
        "variants": ", ".join(each.variant for each in decision.verdicts),
        "policy": decision.policy,
        **_asked(decision),
    }
    tags = {
        RUN_ID_TAG: run.run_id,
        "verdicts": _verdicts(decision),
        "mlflow.note.content": _summary(decision),
        "mlflow.source.name": "quantgate",
        **{f"package.{name}": number for name, number in run.packages.items()},
        **{f"machine.{name}": words for name, words in run.machine.items()},
    }
    if run.commit:
        tags["mlflow.source.git.commit"] = run.commit
    if run.judged_by:
        tags[JUDGED_BY] = run.judged_by
    texts = {DECISION: _json(decision)}
    if policy := decision.policy_text or text_of(decision.use_case):
        texts["policy.yaml"] = policy
    return RunRow(
        run.name,
        {**run.settings, **asked},
        metrics={},
        tags=tags,
        texts=texts,
        files=files.report,
        tables={"decision_matrix.json": _matrix(decision)},
        datasets=tuple(dict.fromkeys(each for scores in decision.scores for each in _datasets(scores))),
        status="FINISHED",
    )


def variant_rows(decision: Decision, run: RunFacts, files: RunFiles) -> list[RunRow]:
    """A row for each verdict, in the matrix's order."""
    weights = {each.variant: each for each in decision.weights}
    scores = {each.variant: each for each in decision.scores}
    tasks = list(dict.fromkeys(task for each in decision.verdicts for task in each.scores))
    baseline_bytes = next((each.size_bytes for each in decision.verdicts if each.verdict == "reference"), 0)
    rows = []
    for verdict in decision.verdicts:
        made, measured = weights.get(verdict.variant), scores.get(verdict.variant)
        # MLflow's pages keep this order: what decides comes first.
        metrics = {
            **_mean_metrics(verdict, measured),
            **_cost_metrics(verdict, made, measured, baseline_bytes),
            **_evidence_metrics(verdict),
            **_task_metrics(verdict, measured, tasks),
        }
        rows.append(
            RunRow(
                name=verdict.variant,
                params=_params(decision, verdict, made, measured),
                metrics={key: value for key, value in metrics.items() if math.isfinite(value)},
                tags=_tags(verdict, made, measured, run.run_id),
                texts=_texts(verdict, made, measured),
                files=(*_records(measured), *files.variants.get(verdict.variant, ())),
                tables={FLIPS: flips} if (flips := files.flips.get(verdict.variant)) else {},
                datasets=_datasets(measured) if measured else (),
                status="FAILED" if verdict.verdict == "failed" else "FINISHED",
            )
        )
    return rows


def _params(decision: Decision, verdict: Verdict, made: Weights | None, measured: Scores | None) -> dict[str, str]:
    known = VARIANTS.get(verdict.variant)
    params = {
        "variant": verdict.variant,
        "scheme": (made.scheme if made else "") or (known.scheme if known else ""),
        "group_size": str(known.group_size) if known and known.group_size else "",
        "algorithm": made.algorithm if made else "",
        "layout": made.layout if made else "",
        "calibration": made.calibration if made else "",
        "digest": made.digest if made else "",
        "baseline_digest": decision.model.digest,
        "suite": decision.suite,
        "asked": decision.plan.asked if decision.plan else "",
        "stage": measured.stage if measured else "",
        "tasks": "; ".join(
            f"{each.task} {each.metric}, {each.shots}-shot, {each.items} items" for each in measured.tasks
        )
        if measured
        else "",
    }
    return {key: value or _NOTHING for key, value in params.items()}


def _tags(verdict: Verdict, made: Weights | None, measured: Scores | None, run_id: str) -> dict[str, str]:
    failures = [each.failure for each in (made, measured) if each and each.failure]
    return {
        RUN_ID_TAG: run_id,
        VARIANT_TAG: verdict.variant,
        "verdict": verdict.verdict,
        "sentence": verdict.sentence,
        "next_step": verdict.next_step or _NOTHING,
        # Tags, because both change when the same run is resumed, and MLflow never changes a parameter.
        "reused": str(made.reused).lower() if made else "false",
        "scored_in": (measured.scored_in if measured else "") or _NOTHING,
        "failure": failures[0] if failures else _NOTHING,
        "mlflow.note.content": f"**{verdict.verdict}** — {verdict.sentence}\n\n{verdict.next_step}".strip(),
        "mlflow.source.name": "quantgate",
    }


def _mean_metrics(verdict: Verdict, measured: Scores | None) -> dict[str, float]:
    perplexities = {each.task for each in measured.tasks if not each.is_share} if measured else set()
    shares = [score for task, score in verdict.scores.items() if task not in perplexities]
    if not shares:
        return {}
    metrics = {"mean_score": sum(shares) / len(shares)}
    if verdict.average_drop is not None:
        metrics["average_drop"] = verdict.average_drop
    elif verdict.verdict == "reference":
        metrics["average_drop"] = 0.0
    return metrics


def _asked(decision: Decision) -> dict[str, str]:
    """What the plan of the run says beside the suite."""
    plan = decision.plan
    if plan is None:
        return {}
    return {
        "custom": ", ".join(plan.custom) or _NOTHING,
        "limit": str(plan.limit or _NOTHING),
        "data": plan.data or _NOTHING,
        "chat_template": str(plan.chat_template).lower(),
        "stop_early": str(plan.stop_early).lower(),
        "noise_floor": str(plan.noise_floor).lower(),
    }


def _datasets(scores: Scores) -> tuple[DataSet, ...]:
    """The rows that were asked, a data set a task: `TASK: WHERE, sha256 DIGEST…` as the evaluation tells them."""
    told = re.findall(r"(?:^|; )([\w.-]+): (.+?), sha256 ([0-9a-f]{12,64})", scores.rows_source)
    return tuple(DataSet(task, digest[:36], where) for task, where, digest in told)


def _matrix(decision: Decision) -> dict[str, list[Any]]:
    """The decision matrix, a row a variant; a number that was not measured is None."""
    tasks = dict.fromkeys(task for each in decision.verdicts for task in each.scores)
    rows = decision.verdicts
    return {
        "variant": [each.variant for each in rows],
        "verdict": [each.verdict for each in rows],
        "average_drop": [each.average_drop for each in rows],
        "size_bytes": [each.size_bytes or None for each in rows],
        **{f"{task}.score": [each.scores.get(task) for each in rows] for task in tasks},
        "sentence": [each.sentence for each in rows],
        "next_step": [each.next_step for each in rows],
    }


def _evidence_metrics(verdict: Verdict) -> dict[str, float]:
    """The bounds of what limits the variant, and how its answers moved."""
    metrics: dict[str, float | None] = {}
    for limit in verdict.limits:
        name = f"{limit.what}_drop" if limit.what == "average" else f"{limit.what}.{limit.kind}"
        metrics |= {f"{name}_lower": limit.lower, f"{name}_upper": limit.upper}
    for task in verdict.tasks:
        metrics |= {f"{task.task}.drop_lower": task.drop_lower, f"{task.task}.drop_upper": task.drop_upper}
        metrics |= {f"{task.task}.flips": task.flip_rate, f"{task.task}.kl": task.kl}
        metrics |= {f"{task.task}.lost": task.lost, f"{task.task}.gained": task.gained}
    if verdict.tasks:
        items = sum(task.items for task in verdict.tasks)
        metrics["flips"] = sum(task.lost + task.gained for task in verdict.tasks) / items
        told = [(task.kl, task.items) for task in verdict.tasks if task.kl is not None]
        metrics["kl"] = sum(kl * count for kl, count in told) / sum(count for _, count in told) if told else None
    metrics |= {f"{task}.perplexity_ratio": ratio for task, ratio in verdict.perplexity_ratios.items()}
    return {name: value for name, value in metrics.items() if value is not None}


def _task_metrics(verdict: Verdict, measured: Scores | None, tasks: Iterable[str]) -> dict[str, float]:
    reference = verdict.verdict == "reference"
    by_task = {each.task: each for each in measured.tasks} if measured else {}
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
    return metrics


def _cost_metrics(
    verdict: Verdict, made: Weights | None, measured: Scores | None, baseline_bytes: int
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if verdict.size_bytes:
        metrics["size_bytes"] = verdict.size_bytes
        if baseline_bytes:
            metrics["size_ratio"] = verdict.size_bytes / baseline_bytes
    if made and not made.failure:
        metrics["quantize_s"] = made.duration_s
    if measured and not measured.failure and not measured.scored_in:
        metrics["evaluate_s"] = measured.duration_s
        if measured.tokens_per_s:
            metrics["tokens_per_s"] = measured.tokens_per_s
    return metrics


def _texts(verdict: Verdict, made: Weights | None, measured: Scores | None) -> dict[str, str]:
    artifacts = {VERDICT: verdict, WEIGHTS: made, SCORES: measured}
    return {name: _json(each) for name, each in artifacts.items() if each}


def _json(each: Artifact) -> str:
    return each.model_dump_json(indent=2) + "\n"


def _records(measured: Scores | None) -> tuple[Path, ...]:
    if not measured or not measured.records or not Path(measured.records).is_file():
        return ()  # records in S3 stay there: scores.json says where
    return (Path(measured.records),)


def _verdicts(decision: Decision) -> str:
    return " · ".join(f"{each.variant}: {each.verdict}" for each in decision.verdicts)


def shortened(sentence: str) -> str:
    """The first line of what may hold a server's log, for a cell of a table."""
    first = sentence.strip().partition("\n")[0]
    return first if len(first) <= SHOWN else f"{first[: SHOWN - 1]}…"


def _summary(decision: Decision) -> str:
    # MLflow folds a long description: the first line is all that is read without a click.
    rows = [f"| {each.variant} | **{each.verdict}** | {shortened(each.sentence)} |" for each in decision.verdicts]
    asked = f"`{decision.model.source}` for **{decision.use_case}**, suite {decision.suite}: {decision.policy}"
    note = ["", decision.model.note] if decision.model.note else []
    table = ["| variant | verdict | why |", "|---|---|---|", *rows]
    return "\n".join([f"**{_verdicts(decision)}**", "", *table, "", asked, *note])
