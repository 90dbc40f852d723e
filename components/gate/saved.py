"""Results that lie on a disk, for the gate: a variant's folder of a run, or lm-eval's output with `--log_samples`.

ours      full.json (Scores), full.parquet (a record an item), weights.json; the tiny stage's where there is no full
lm-eval's results_<date>.json, samples_<task>_<date>.jsonl; a group's tasks (MMLU's subjects) become its clusters
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from pydantic import ValidationError

from components.artifacts import Decision, Model, Scores, TaskScore, Weights
from components.errors import PrerequisiteError
from components.gate.answers import Answers, answers
from components.gate.candidate import Candidate, candidate
from components.gate.decision import decide_candidates
from components.gate.policy import UseCase, check_use_case

METRICS = (
    "acc_norm",
    "acc",
    "exact_match",
    "mc2",
    "pass@1",
    "pass_at_1",
    "prompt_level_strict_acc",
    "f1",
    "word_perplexity",
)
"""Of the metrics that a task of lm-eval's logs, the first of these is compared; all but perplexity rise to 1."""
PERPLEXITY = "word_perplexity"
GUESSED = ("acc", "acc_norm")
"""Metrics on which guessing scores one in so many choices."""
CHOSEN = (*GUESSED, "mc2")
"""Metrics of choices, whose log-likelihoods are logged."""
SUITE = "saved"


def decide_saved(use_case: UseCase, folders: Sequence[Path], metrics: Sequence[str] = METRICS) -> Decision:
    """The decision on the results in these folders, the baseline's the first."""
    candidates = _apart([(folder, read_candidate(folder, metrics)) for folder in folders])
    baseline = candidates[0]
    if not baseline.failure:
        check_use_case(use_case, baseline.scores.by_task())
    model = Model(source=str(folders[0]), digest=baseline.weights.digest, uri=str(folders[0]), size_bytes=0)
    return decide_candidates(model, baseline.scores.suite, use_case, candidates)


def _apart(found: Sequence[tuple[Path, Candidate]]) -> list[Candidate]:
    """The candidates, each under a name of its own: their folders' where they have the same."""
    times = Counter(each.name for _, each in found)
    named: list[Candidate] = []
    for place, (folder, each) in enumerate(found):
        name = each.name if times[each.name] == 1 else str(folder)
        if name in [other.name for other in named]:
            name = f"{name} ({place})"
        weights = each.weights.model_copy(update={"variant": name})
        named.append(replace(each, weights=weights, scores=each.scores.model_copy(update={"variant": name})))
    return named


def read_candidate(folder: Path, metrics: Sequence[str] = METRICS) -> Candidate:
    """What lies in the folder; raises PrerequisiteError when these are no results that can be read."""
    if not folder.is_dir():
        raise PrerequisiteError(f"{folder} is no folder. Give a variant's folder, e.g. runs/demo/variants/int8.")
    if any((folder / f"{stage}.json").exists() for stage in ("full", "tiny")):
        return read_ours(folder)
    if next(folder.rglob("samples_*.jsonl"), None):
        return read_harness(folder, metrics)
    raise PrerequisiteError(
        f"{folder} holds no results: neither full.json beside full.parquet, as a run of quantgate leaves them in"
        " variants/NAME, nor samples_*.jsonl, as lm-eval writes them with --output_path and --log_samples."
    )


def read_ours(folder: Path) -> Candidate:
    """A variant's folder of a run."""
    stage = "full" if (folder / "full.json").exists() else "tiny"
    try:
        scores = Scores.read(folder / f"{stage}.json")
        made = folder / "weights.json"
        weights = Weights.read(made) if made.exists() else Weights(variant=scores.variant, baseline_digest="")
    except (ValidationError, UnicodeDecodeError) as error:
        raise PrerequisiteError(f"{folder} holds results that this version cannot read: {error}") from error
    if scores.failure:
        return candidate(weights, scores, scores.suite)
    records = folder / f"{scores.stage}.parquet"
    if not records.exists():
        raise PrerequisiteError(f"{records} is missing: the gate compares item by item. Copy it beside {stage}.json.")
    again = folder / "again.parquet"
    return candidate(
        weights,
        scores,
        scores.suite,
        answers=read_records(records),
        again=read_records(again) if again.exists() else {},
    )


def read_records(file: Path) -> dict[str, Answers]:
    """Each task's answers in a Parquet file of per-item records; raises PrerequisiteError when it is damaged."""
    try:
        return by_task(pyarrow.parquet.read_table(file))
    except (pyarrow.ArrowException, KeyError, OSError) as error:
        raise PrerequisiteError(f"{file} is no file of per-item records that can be read: {error}") from error


def by_task(records: pyarrow.Table) -> dict[str, Answers]:
    """Each task's answers in a table of per-item records."""
    tasks = records["task"].combine_chunks().dictionary_encode()
    codes = tasks.indices.to_numpy()
    return {
        str(task): answers(str(task), records.take(pyarrow.array(np.flatnonzero(codes == code))))
        for code, task in enumerate(tasks.dictionary.to_pylist())
    }


def read_harness(folder: Path, metrics: Sequence[str]) -> Candidate:
    """A folder that lm-eval wrote; of several runs in it the newest of each task."""
    summary = _newest(folder.rglob("results_*.json"))
    if summary is None:
        raise PrerequisiteError(f"{folder} has samples but no results_*.json, which says how they were asked.")
    results = _json(summary.read_text(encoding="utf-8"), summary)
    rows = {task: _rows(file, metrics) for task, file in sorted(_samples(folder, results).items())}
    grouped = dict(_grouped(results, rows))
    found = {task: answers(task, pyarrow.Table.from_pylist(each)) for task, each in grouped.items()}
    name = folder.name
    scores = Scores(
        variant=name,
        suite=SUITE,
        stage="full",
        tasks=tuple(_task_score(task, each, grouped[task], results) for task, each in found.items()),
        records=str(folder),
        rows_source="lm-eval",
    )
    weights = Weights(variant=name, baseline_digest="")
    return candidate(weights, scores, SUITE, answers=found)


def _samples(folder: Path, results: Mapping[str, Any]) -> dict[str, Path]:
    """The newest samples of each task of the results."""
    found: dict[str, Path] = {}
    for task in results.get("configs", {}):
        # `mmlu_*` finds `mmlu_anatomy_*` too: a date must follow
        newest = _newest(folder.rglob(f"samples_{task}_[0-9][0-9][0-9][0-9]-*.jsonl"))
        if newest:
            found[task] = newest
    if not found:
        raise PrerequisiteError(f"{folder} has no samples of the tasks in its results_*.json: run lm-eval again.")
    return found


def _rows(file: Path, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """One record an item of lm-eval's samples, of the first metric and the first filter."""
    with file.open(encoding="utf-8") as lines:
        samples = [_json(line, file) for line in lines if line.strip()]
    if not samples:
        raise PrerequisiteError(f"{file} is empty: run lm-eval again.")
    metric = next((each for each in metrics if each in samples[0]), None)
    if metric is None:
        raise PrerequisiteError(f"{file} has none of the metrics {', '.join(metrics)}: name its own with --metric.")
    kept = samples[0].get("filter", "none")
    return [_row(each, metric) for each in samples if each.get("filter", "none") == kept]


def _row(sample: dict[str, Any], metric: str) -> dict[str, Any]:
    value, units = sample[metric], None
    if metric == PERPLEXITY:
        value, units = value
    elif isinstance(value, list):
        value = sum(value) / len(value)
    choices = [float(loglik) for loglik, _ in sample["filtered_resps"]] if metric in CHOSEN else []
    return {
        "item_id": str(sample["doc_id"]),
        "item_hash": f"{sample.get('doc_hash', '')} {sample.get('target_hash', '')}",
        "prompt_hash": hashlib.sha256(json.dumps(sample["arguments"], sort_keys=True).encode()).hexdigest(),
        "score": float(value),
        "units": None if units is None else float(units),
        "truncated": False,
        "logliks": choices,
        "metric": metric,
        "cluster": "",
    }


def _grouped(
    results: Mapping[str, Any], rows: dict[str, list[dict[str, Any]]]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The tasks' rows, those of a group together with the task as their cluster."""
    subtasks = {name: list(each) for name, each in results.get("group_subtasks", {}).items() if each}

    def leaves(name: str) -> list[str]:
        return [leaf for each in subtasks[name] for leaf in leaves(each)] if name in subtasks else [name]

    inner = {each for members in subtasks.values() for each in members}
    taken: set[str] = set()
    for group in (name for name in subtasks if name not in inner):
        members = [each for each in leaves(group) if each in rows]
        if len({row["metric"] for each in members for row in rows[each]}) == 1:
            taken.update(members)
            yield group, [{**row, "cluster": each} for each in members for row in rows[each]]
    yield from ((task, each) for task, each in rows.items() if task not in taken)


def _task_score(task: str, found: Answers, rows: list[dict[str, Any]], results: Mapping[str, Any]) -> TaskScore:
    members = sorted({row["cluster"] or task for row in rows})
    metric = str(rows[0]["metric"])
    asked = [results["configs"].get(each, {}).get("generation_kwargs") for each in members]
    settings = {
        "generation": asked if any(asked) else None,
        **{name: results.get(name) for name in ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")},
    }
    scores, units = found.scores, found.units
    if units is not None:
        score, error = math.exp(-scores.sum() / units.sum()), 0.0
    else:
        score = float(scores.mean())
        error = float(scores.std(ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else 0.0
    choices = [len(row["logliks"]) for row in rows]
    versions = sorted({str(results.get("versions", {}).get(each, "unknown")) for each in members})
    return TaskScore(
        task=task,
        metric=metric,
        score=score,
        stderr=error,
        items=found.items,
        shots=max(int(results.get("n-shot", {}).get(each, 0) or 0) for each in members),
        chance=float(np.mean([1 / each for each in choices])) if metric in GUESSED and all(choices) else 0.0,
        version=f"{', '.join(versions)} of lm-eval {results.get('lm_eval_version', 'unknown')}",
        settings=json.dumps({name: value for name, value in settings.items() if value}, sort_keys=True),
    )


def _newest(files: Iterable[Path]) -> Path | None:
    """The last by name, which ends with lm-eval's date."""
    return max(files, key=lambda each: (each.stem.rsplit("_", 1)[-1], each.stat().st_mtime), default=None)


def _json(text: str, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise PrerequisiteError(f"{file} is not whole: {error}. Run lm-eval again.") from error
    if not isinstance(found, dict):
        raise PrerequisiteError(f"{file} is not what lm-eval writes.")
    return found
