"""A variant's scores as Hugging Face's hub reads them: `.eval_results/*.yaml` of a model repository.

Source: the hub's documentation, "Evaluation Results", and eval_results.yaml in huggingface/hub-docs. The hub accepts an
entry only for a data set that it lists as a benchmark. A score counts there for the whole benchmark, so a score on a
part of its questions has no entry.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import yaml

from quantgate.components.errors import PrerequisiteError
from quantgate.components.report.formats import count_text
from quantgate.components.run.artifacts import Scores, TaskScore
from quantgate.components.run.verdicts import Decision

FOLDER = ".eval_results"


@dataclass(frozen=True)
class HubBenchmark:
    """A benchmark of the hub."""

    dataset: str
    task: str
    """The name in the data set's eval.yaml."""
    items: int | None = None
    """Questions of the whole benchmark; None if that is not known."""


BENCHMARKS: Mapping[str, HubBenchmark] = {
    "gsm8k": HubBenchmark("openai/gsm8k", "gsm8k", 1319),
    "leaderboard_mmlu_pro": HubBenchmark("TIGER-Lab/MMLU-Pro", "mmlu_pro", 12032),
    "leaderboard_gpqa_extended": HubBenchmark("Idavidrein/gpqa", "gpqa_extended", 546),
}
"""By lm-eval's task. A new row is a data set that has the tag "Benchmark" on the hub."""


@dataclass(frozen=True)
class HubResults:
    """The files of a variant's scores, and the tasks without one."""

    files: dict[str, str]
    """By name below the folder."""
    left_out: tuple[str, ...]
    """Why a task has no file, a sentence each."""


def parsed_benchmark(text: str) -> tuple[str, HubBenchmark]:
    """The task and its benchmark from `TASK=DATASET:TASK_ID`; raises PrerequisiteError for another form."""
    task, _, where = text.partition("=")
    dataset, _, name = where.rpartition(":")
    if not task or not name or dataset.count("/") != 1:
        raise PrerequisiteError(f"--benchmark is {text!r}. Write it like arc_easy=allenai/ai2_arc:arc_easy.")
    return task, HubBenchmark(dataset, name)


def hub_results(
    decision: Decision,
    variant: str,
    at: datetime | None = None,
    source: str = "",
    more: Mapping[str, HubBenchmark] | None = None,
) -> HubResults:
    """The results of the variant; `source` is the address of a page about them, `more` are further benchmarks."""
    scores = next(row for row in decision.scores if row.variant == variant)
    known, files, left_out = {**BENCHMARKS, **(more or {})}, {}, []
    for score in scores.tasks:
        benchmark = known.get(score.task)
        if reason := _why_not(score, scores, benchmark):
            left_out.append(f"{score.task}: {reason}")
        elif benchmark:
            files[f"{FOLDER}/{score.task}.yaml"] = _entry(score, scores, benchmark, at, source)
    return HubResults(files, tuple(left_out))


def _why_not(score: TaskScore, scores: Scores, benchmark: HubBenchmark | None) -> str:
    """Why the score has no entry; empty if it has one."""
    if benchmark is None:
        return "the hub lists no benchmark for it"
    if not score.is_share:
        return f"{score.metric} is no share"
    if scores.look < scores.looks:
        return f"it was stopped early, after {count_text(score.items)} questions"
    if score.chosen or (benchmark.items is not None and score.items < benchmark.items):
        return f"{count_text(score.items)} questions are a part of the benchmark ({count_text(benchmark.items)})"
    return ""


def _entry(score: TaskScore, scores: Scores, benchmark: HubBenchmark, at: datetime | None, source: str) -> str:
    """The file; the value is in percent, as the hub's leaderboards have it."""
    entry = {
        "dataset": {"id": benchmark.dataset, "task_id": benchmark.task},
        "value": round(100 * score.score, 4),
        **({"date": f"{at:%Y-%m-%d}"} if at else {}),
        **({"source": {"url": source, "name": "quantgate's report"}} if source else {}),
        "notes": ", ".join(_notes(score, scores)),
    }
    return str(yaml.safe_dump([entry], sort_keys=False, allow_unicode=True))


def _notes(score: TaskScore, scores: Scores) -> Iterator[str]:
    yield f"{score.shots}-shot"
    yield score.metric
    yield f"{score.items:,} questions, standard error {100 * score.stderr:.2f}"
    yield f"lm-evaluation-harness {score.task} {score.version}"
    if scores.engine:
        yield scores.engine
