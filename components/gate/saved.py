"""Read and judge results on disk: a variant's folder of a run, or lm-eval's output with `--log_samples`.

a run's   full.json (Scores), full.parquet (one record per item), weights.json; without full.*, the tiny stage's files
lm-eval's results_<date>.json, samples_<task>_<date>.jsonl; the tasks of a group (MMLU's subjects) become its clusters
          where its score is the mean over all items
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from quantgate.components.benchmarks.suites import guessed_score
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence import choice_margins
from quantgate.components.evidence.answers import Answers, answers
from quantgate.components.evidence.candidate import Candidate, candidate
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.evidence.saved_answers import read_ours
from quantgate.components.evidence.unscored_items import with_scored_items
from quantgate.components.gate.harness_groups import group_fault, grouped
from quantgate.components.policies.policy import UseCase, check_use_case
from quantgate.components.run.artifacts import Model, RowsOrigin, Scores, TaskScore, Weights
from quantgate.components.run.attempts import Attempt
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.components.run.results import FULL, TINY, VariantResults
from quantgate.components.run.verdicts import Decision

METRICS = (
    "acc_norm",
    "acc",
    "exact_match",
    "mc2",
    "pass@1",
    "pass_at_1",
    "prompt_level_strict_acc",
    "word_perplexity",
)
"""The gate compares the first of these metrics that lm-eval logged for a task; all but perplexity are at most 1."""
PERPLEXITY = "word_perplexity"
SUITE = "saved"
SAMPLES = "lm-eval's samples"
"""The origin of the rows: the samples contain the items, but do not name the files that these came from."""


def decide_saved(
    use_case: UseCase, folders: Sequence[Path], metrics: Sequence[str] = (), attempt: Attempt | None = None
) -> Decision:
    """The decision on the results in these folders; the first folder is the baseline's.

    `attempt` is None if attempts are not counted: nobody records what is judged here.
    """
    return decide_read(use_case, folders, read_saved(use_case, folders, metrics), attempt)


def read_saved(use_case: UseCase, folders: Sequence[Path], metrics: Sequence[str] = ()) -> list[Candidate]:
    """The results in these folders; raises PrerequisiteError if the policy does not fit the baseline's tasks.

    Also for a policy that limits speed.
    """
    if use_case.speed:
        raise PrerequisiteError(
            f"The policy {use_case.name} limits speed, which is measured within one run: saved results may come from"
            " several. Take `speed` out of the policy, or judge them by quantgate run with --speed."
        )
    candidates = _with_unique_names([(folder, read_candidate(folder, metrics)) for folder in folders])
    if not candidates[0].failure:
        check_use_case(use_case, candidates[0].scores.by_task())
    return candidates


def decide_read(
    use_case: UseCase, folders: Sequence[Path], candidates: Sequence[Candidate], attempt: Attempt | None = None
) -> Decision:
    """The decision on the results that were read from these folders."""
    candidates = with_scored_items(candidates)
    baseline, folder = candidates[0], str(folders[0])
    model = Model(source=folder, digest=baseline.weights.digest, uri=folder, size_bytes=0)
    return decide_candidates(model, baseline.scores.suite, use_case, candidates, attempt)


def _with_unique_names(candidates: Sequence[tuple[Path, Candidate]]) -> list[Candidate]:
    """The candidates with unique names; candidates with the same name get their folder's path as name."""
    count = Counter(saved.name for _, saved in candidates)
    named: list[Candidate] = []
    for number, (folder, saved) in enumerate(candidates):
        name = saved.name if count[saved.name] == 1 else str(folder)
        if name in [other.name for other in named]:
            name = f"{name} ({number})"
        weights = saved.weights.model_copy(update={"variant": name})
        named.append(replace(saved, weights=weights, scores=saved.scores.model_copy(update={"variant": name})))
    return named


def read_candidate(folder: Path, metrics: Sequence[str] = ()) -> Candidate:
    """The results in the folder; raises PrerequisiteError if it has no readable results."""
    if not folder.is_dir():
        raise PrerequisiteError(f"{folder} is not a directory. Give a variant's folder, e.g. runs/demo/variants/int8.")
    if any(VariantResults(str(folder)).scores(stage).path.exists() for stage in (FULL, TINY)):
        return read_ours(folder)
    if next(folder.rglob("samples_*.jsonl"), None):
        return read_harness(folder, metrics)
    raise PrerequisiteError(
        f"{folder} contains no results: neither full.json with full.parquet, which quantgate writes to"
        " variants/NAME, nor samples_*.jsonl, which lm-eval writes with --output_path and --log_samples."
    )


def read_harness(folder: Path, metrics: Sequence[str]) -> Candidate:
    """The results in lm-eval's output folder; if it holds several runs, each task's newest results.

    A listed task without samples, or a group whose score is not its tasks', fails the candidate.
    """
    summaries = sorted(folder.rglob("results_*.json"), key=lambda path: path.name, reverse=True)
    if not summaries:
        raise PrerequisiteError(f"{folder} has samples but no results_*.json with the settings of the evaluation.")
    if len(folders := {path.parent for path in summaries}) > 1:
        names = ", ".join(sorted(str(path) for path in folders))
        raise PrerequisiteError(
            f"{folder} contains the results of several models. Give the folder of one model: {names}."
        )
    task_answers: dict[str, Answers] = {}
    scores: list[TaskScore] = []
    listed: set[str] = set()
    lacking: list[str] = []
    faults: list[str] = []
    for summary in summaries:
        results = _json(summary.read_bytes(), summary)
        date = summary.stem.removeprefix("results_")
        with _format_errors(summary):
            if summary == summaries[0]:
                _require_metrics(metrics, results, summary)
            files = {task: summary.with_name(f"samples_{task}_{date}.jsonl") for task in sorted(results["configs"])}
            lacking += [task for task, file in files.items() if task not in listed and not file.exists()]
            listed.update(files)
            rows_by_task = {
                task: _rows(task, file, (*metrics, *METRICS), results) for task, file in files.items() if file.exists()
            }
            faults.append(group_fault(results, rows_by_task))
            for task, rows in grouped(results, rows_by_task):
                if task not in task_answers:
                    task_answers[task] = _answers(task, rows)
                    scores.append(_task_score(task, task_answers[task], rows, results))
    if lacking:
        faults.insert(
            0,
            f"{folder} has no samples for {', '.join(lacking)}, which its results_*.json list: run lm-eval again with"
            " --log_samples, or copy the files samples_TASK_*.jsonl beside them.",
        )
    if not task_answers:
        raise PrerequisiteError(faults[0] or f"{folder} has no task in its results_*.json: run lm-eval again.")
    name = folder.name
    origins = tuple(RowsOrigin(task=score.task, where=SAMPLES) for score in scores)
    all_scores = Scores(
        variant=name, suite=SUITE, stage="full", tasks=tuple(scores), records=str(folder), row_origins=origins
    )
    saved = candidate(Weights(variant=name, baseline_digest=""), all_scores, SUITE, answers=task_answers)
    fault = next(filter(None, faults), "")
    if fault and not saved.failure:
        return replace(saved, scores=all_scores.model_copy(update={"tasks": (), "failure": fault}), answers={})
    return saved


@contextmanager
def _format_errors(file: Path) -> Iterator[None]:
    """Turn errors from files that are not in lm-eval's format into a PrerequisiteError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, pyarrow.ArrowException) as error:
        raise PrerequisiteError(
            f"{file} and its samples are not in lm-eval's format ({type(error).__name__}: {error}). Run lm-eval again."
        ) from error


def _rows(task: str, file: Path, metrics: Sequence[str], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record per item of lm-eval's samples, for the first of `metrics` in them, of one filter only."""
    samples = [_json(line, file) for line in file.read_bytes().split(b"\n") if line.strip()]
    if not samples:
        raise PrerequisiteError(f"{file} is empty: run lm-eval again.")
    metric, chosen_filter = _choice(task, samples, metrics, results, file)
    higher_is_better = (results.get("higher_is_better") or {}).get(task) or {}
    if higher_is_better.get(metric) is False and metric != PERPLEXITY:
        raise PrerequisiteError(
            f"{file}: lower is better for {metric}, and the gate cannot limit it. Choose another metric with --metric."
        )
    config = results["configs"][task]
    multiple_choice = config.get("output_type") == "multiple_choice"
    delimiter = len(str(config.get("target_delimiter", " ")))
    rows = [
        {**_row(sample, metric, multiple_choice, delimiter), "filter": chosen_filter}
        for sample in samples
        if sample.get("filter", "none") == chosen_filter
    ]
    reported = (results.get("results") or {}).get(task, {}).get(f"{metric},{chosen_filter}")
    mean = float(np.mean([row["score"] for row in rows]))
    if metric != PERPLEXITY and isinstance(reported, float) and abs(reported - mean) > 1e-6:
        raise PrerequisiteError(
            f"{file}: {metric} is {reported:.6f}, not the mean of its items ({mean:.6f}), so its items cannot"
            " be paired. Choose another metric with --metric."
        )
    return rows


def _choice(
    task: str, samples: list[dict[str, Any]], metrics: Sequence[str], results: Mapping[str, Any], file: Path
) -> tuple[str, str]:
    """The metric and the filter of the first of `metrics`, NAME or NAME,FILTER, that the samples hold.

    Without FILTER it is the first one of the task's definition, so that the order of the lines does not matter.
    """
    order = [part["name"] for part in results["configs"][task].get("filter_list") or ()]
    filters = {sample.get("filter", "none"): sample for sample in reversed(samples)}
    for name in sorted(filters, key=lambda name: (order.index(name) if name in order else len(order), name)):
        for wanted in metrics:
            metric, _, wanted_filter = wanted.partition(",")
            chosen_filter = wanted_filter or name
            if metric in filters.get(chosen_filter, {}):
                return metric, chosen_filter
    raise PrerequisiteError(
        f"{file} has none of the metrics {', '.join(metrics)}: choose one of its metrics with --metric."
    )


def _require_metrics(wanted: Sequence[str], results: Mapping[str, Any], summary: Path) -> None:
    """Raise PrerequisiteError if no task of lm-eval's results has one of the metrics that the user chose."""
    held = {
        name
        for task in results["configs"]
        for name in (results.get("results") or {}).get(task, {})
        if "," in name and "_stderr," not in name
    }
    names = held | {name.partition(",")[0] for name in held}
    if unknown := [name for name in wanted if name not in names]:
        raise PrerequisiteError(
            f"{summary} has no metric {', '.join(unknown)}. Choose NAME or NAME,FILTER from: {', '.join(sorted(held))}."
        )


def _answers(task: str, rows: list[dict[str, Any]]) -> Answers:
    records = pyarrow.Table.from_pylist(rows)
    return answers(task, records.append_column("margin", choice_margins.margins(records)))


def _row(sample: dict[str, Any], metric: str, multiple_choice: bool, delimiter: int) -> dict[str, Any]:
    """The record of a sample; a continuation is a choice after a delimiter of so many characters."""
    value, units = (sample[metric], None) if metric != PERPLEXITY else sample[metric]
    return {
        "item_id": str(sample["doc_id"]),
        "item_hash": f"{sample.get('doc_hash', '')} {sample.get('target_hash', '')}",
        "prompt_hash": hashlib.sha256(json.dumps(sample["arguments"], sort_keys=True).encode()).hexdigest(),
        "score": _number(value),
        "units": None if units is None else _number(units),
        "truncated": False,
        "logliks": [float(loglik) for loglik, _ in sample["filtered_resps"]] if multiple_choice else [],
        "metric": metric,
        "target": int(target) if (target := str(sample.get("target", ""))).isdecimal() else -1,
        "choices": _choices(sample["arguments"], delimiter) if multiple_choice else [],
        "cluster": "",
    }


def _choices(arguments: Any, delimiter: int) -> list[str]:
    """The choices' texts, from the continuations that lm-eval sent."""
    requests = arguments.values() if isinstance(arguments, dict) else ()
    return [
        str(request["arg_1"])[delimiter:] for request in requests if isinstance(request, dict) and "arg_1" in request
    ]


def _number(value: object) -> float:
    """The number; raises TypeError for text. lm-eval writes log-likelihoods as text, but scores as numbers."""
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} in place of a number")
    return float(value)


def _task_score(task: str, answers: Answers, rows: list[dict[str, Any]], results: Mapping[str, Any]) -> TaskScore:
    members = sorted({row["cluster"] or task for row in rows})
    metric = str(rows[0]["metric"])
    scores, units = answers.scores, answers.units
    if units is not None:
        score, error = math.exp(-scores.sum() / units.sum()), 0.0
    else:
        score = float(scores.mean())
        error = float(scores.std(ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else 0.0
    choices = [len(row["logliks"]) for row in rows]
    versions = sorted({str((results.get("versions") or {}).get(member, "unknown")) for member in members})
    return TaskScore(
        task=task,
        metric=metric,
        score=score,
        stderr=error,
        items=answers.items,
        shots=max(int((results.get("n-shot") or {}).get(member) or 0) for member in members),
        chance=guessed_score(task, metric, choices),
        version=f"{', '.join(versions)} of lm-eval {results.get('lm_eval_version', 'unknown')}",
        settings=_prompt_settings(members, rows, results),
    )


def _prompt_settings(
    members: Sequence[str], rows: Sequence[dict[str, Any]], results: Mapping[str, Any]
) -> PromptSettings:
    """The settings of these tasks: a single task, or the tasks of a group."""
    generation = [results["configs"].get(member, {}).get("generation_kwargs") or {} for member in members]
    if all(kwargs == generation[0] for kwargs in generation):
        generation = generation[:1]
    template, system = (results.get(f"{name}_sha") or "" for name in ("chat_template", "system_instruction"))
    return PromptSettings(
        chat_template=bool(template),
        chat_template_sha=template,
        system_instruction_sha=system,
        fewshot_as_multiturn=bool(results.get("fewshot_as_multiturn")),
        generation=tuple(generation) if any(generation) else (),
        filter=", ".join(sorted({str(row["filter"]) for row in rows})),
    )


def _json(text: bytes, file: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise PrerequisiteError(f"{file} is damaged: {error}. Run lm-eval again.") from error
    if not isinstance(value, dict):
        raise PrerequisiteError(f"{file} is not in lm-eval's format.")
    return value
