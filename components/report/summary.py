"""The summary of one tested model as one JSON file, and two of them side by side.

    Scores -> summary_of -> 2026-11-21_ORG_MODEL_BENCHMARKS.json;  two of those -> compare -> a table, or JSON

A summary tells scores and how they were asked. It holds no per-item results, so that two of them make no verdict.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError, model_validator
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from components.errors import PrerequisiteError
from components.evidence.change import percent
from components.policies.policy import side
from components.report.formats import MINUS, MISSING
from components.run.artifacts import PERPLEXITIES, Scores, TaskScore
from components.run.machine import Gpu
from components.storage.artifact import Artifact

MOST_NAMED, LONGEST_ORG, LONGEST_MODEL, LONGEST_NAMED = 6, 42, 80, 80
"""Benchmarks in a file's name, and characters of its parts: under 255 in all, even with what `write_text` adds."""
ADVICE = "Give a summary that `quantgate eval` wrote."
READING = "Score ± standard error. B less A: in points of 100, and relative to A. For perplexity, less is better."
NO_VERDICT = "This table is not a verdict: it has no paired test. `quantgate gate` decides from per-item results."

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
Instant = Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC))]


class Benchmark(Artifact):
    """One benchmark's score, and how it was asked."""

    questions: Count
    score: Amount
    """The mean of `metric`: a share from 0 to 1, or a perplexity."""
    metric: str
    stderr: Amount | None
    """Standard error of the mean; None for a perplexity and for a single question."""
    shots: int
    cut: int
    """How many answers the limit of tokens ended."""
    version: str
    """lm-eval's version of the task."""
    generation: str
    """How texts were generated, as JSON; empty where there is nothing to tell."""
    rows: str
    """Where the rows came from, with digest."""

    @property
    def is_share(self) -> bool:
        """Whether more is better, and 1 is all."""
        return self.metric not in PERPLEXITIES

    @model_validator(mode="after")
    def _measures(self) -> Self:
        if self.is_share and self.score > 1:
            raise ValueError(f"{self.metric} is {self.score}, which is not a share from 0 to 1")
        return self


class Summary(Artifact):
    """One tested model: what it is, what it was asked, what it scored."""

    timestamp: Instant
    """In UTC."""
    repository: Name
    """`ORG/MODEL`, or the name alone of a model without an organisation."""
    model_format: Name
    """E.g. `bf16 safetensors`, `compressed-tensors int-quantized`, `unknown`."""
    gpus: tuple[Gpu, ...]
    """Of the machine that ran the command, not of an endpoint elsewhere; empty where it has none."""
    engine: str
    """Package and version that answered, e.g. `vllm 0.32.0`; empty when it did not tell."""
    suite: str
    chat_template: bool
    """Whether prompts were put into the model's chat template."""
    rows_source: str
    benchmarks: Annotated[dict[str, Benchmark], Field(min_length=1)]
    """In the suite's order."""
    overall: Amount | None
    """The plain mean over the benchmarks whose metric is a share; None where there is none."""

    @property
    def description(self) -> str:
        """What it is, in one line for people."""
        what = (self.repository, self.model_format, self.engine, f"{self.timestamp:%Y-%m-%d %H:%M} UTC")
        return ", ".join(filter(None, what))


class Difference(Artifact):
    """How B's score, on a benchmark or overall, differs from A's."""

    difference: float | None = None
    """B's score less A's: 0.01 is a point of a share. None where nothing can be compared."""
    relative: float | None = None
    """The same over A's score; None also where that is 0."""
    not_comparable: tuple[str, ...] = ()
    """Why there is no difference, e.g. `shots 5 and 0`."""


class Compared(Artifact):
    """Two summaries side by side, with every benchmark that either has."""

    a: Summary
    b: Summary
    benchmarks: dict[str, Difference]
    overall: Difference
    notes: tuple[str, ...]


def summary_of(scores: Scores, repository: str, model_format: str, gpus: Sequence[Gpu], at: datetime) -> Summary:
    """What a model scored, as a summary; `at` must know its time zone.

    Raises PrerequisiteError for scores that failed, ValueError for numbers that are no scores.
    """
    if scores.failure or not scores.tasks:
        reason = scores.failure or "it was evaluated on no benchmark."
        raise PrerequisiteError(
            f"{repository} has no scores to summarize: {reason} Fix the cause and evaluate it again."
        )
    benchmarks = {each.task: _benchmark(each, scores) for each in scores.tasks}
    if len(benchmarks) < len(scores.tasks):
        raise ValueError(f"two scores for one benchmark: {', '.join(each.task for each in scores.tasks)}")
    shares = [each.score for each in benchmarks.values() if each.is_share]
    return Summary(
        timestamp=at,
        repository=repository,
        model_format=model_format,
        gpus=tuple(gpus),
        engine=scores.engine,
        suite=scores.suite,
        chat_template=any(json.loads(each.settings or "{}").get("chat_template") for each in scores.tasks),
        rows_source=scores.rows_source,
        benchmarks=benchmarks,
        overall=fmean(shares) if shares else None,
    )


def _benchmark(task_score: TaskScore, scores: Scores) -> Benchmark:
    generation = json.loads(task_score.settings or "{}")
    generation.pop("chat_template", None)
    rows = {origin.task: origin.rows for origin in scores.row_origins}
    return Benchmark(
        questions=task_score.items,
        score=task_score.score,
        metric=task_score.metric,
        stderr=None if not task_score.is_share or task_score.items == 1 else task_score.stderr,
        shots=task_score.shots,
        cut=task_score.cut,
        version=task_score.version,
        generation=json.dumps(generation, sort_keys=True) if generation else "",
        rows=rows.get(task_score.task, scores.rows_source),
    )


def file_name(summary: Summary) -> str:
    """`2026-11-21_HuggingFaceTB_SmolLM2-135M-Instruct_arc_easy-hellaswag-piqa.json`, safe on every file system.

    Without an organisation, as of a model served from a path, it is `local`.
    """
    org, _, model = summary.repository.rstrip("/").rpartition("/")
    org = "" if summary.repository.startswith(("/", ".", "~")) else org
    benchmarks = "-".join(summary.benchmarks)
    if len(summary.benchmarks) > MOST_NAMED or len(benchmarks) > LONGEST_NAMED:
        benchmarks = summary.suite
    org, model, benchmarks = (re.sub(r"[^A-Za-z0-9._-]+", "-", part) for part in (org, model, benchmarks))
    parts = (org[:LONGEST_ORG] or "local", model[:LONGEST_MODEL] or "model", benchmarks[:LONGEST_NAMED])
    return f"{summary.timestamp:%Y-%m-%d}_{'_'.join(parts)}.json"


def read_summary(path: str | os.PathLike[str]) -> Summary:
    """The summary in the file; raises PrerequisiteError that names the file and what is wrong with it."""
    try:
        return Summary.read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise PrerequisiteError(f"{path} cannot be read: {error}. {ADVICE}") from error
    except ValidationError as error:
        first = error.errors()[0]
        message = ": ".join((*map(str, first["loc"]), first["msg"]))
        raise PrerequisiteError(f"{path} is not a summary that this version can read: {message}. {ADVICE}") from error


def compared(a: Summary, b: Summary) -> Compared:
    """One as A beside the other as B: how their scores differ, and why some cannot be compared."""
    differences = {name: _of_benchmark(name, a, b) for name in {**a.benchmarks, **b.benchmarks}}
    averaged_in_a, averaged_in_b = ({name for name, each in of.benchmarks.items() if each.is_share} for of in (a, b))
    reasons = [f"{name} is not" for name in differences if name in averaged_in_a and differences[name].not_comparable]
    overall = _difference(
        a.overall, b.overall, reasons if averaged_in_a == averaged_in_b else ["means of other benchmarks"]
    )
    return Compared(a=a, b=b, benchmarks=differences, overall=overall, notes=tuple(_notes(a, b)))


def compared_json(a: Summary, b: Summary) -> str:
    """Both summaries, their differences and the notes as JSON for scripts, numbers unrounded."""
    return compared(a, b).model_dump_json(indent=2)


def _of_benchmark(name: str, summary_a: Summary, summary_b: Summary) -> Difference:
    a, b = summary_a.benchmarks.get(name), summary_b.benchmarks.get(name)
    if a is None or b is None:
        return Difference(not_comparable=(f"only {'B' if a is None else 'A'} has it",))
    settings = (
        ("metric", a.metric, b.metric),
        ("shots", a.shots, b.shots),
        ("questions", a.questions, b.questions),
        ("chat template", *("yes" if summary.chat_template else "no" for summary in (summary_a, summary_b))),
        ("task version", a.version, b.version),
    )
    reasons = [f"{name_of_setting} {ours} and {theirs}" for name_of_setting, ours, theirs in settings if ours != theirs]
    reasons += ["other rows"] if a.rows != b.rows else []
    reasons += ["other generation settings"] if a.generation != b.generation else []
    return _difference(a.score, b.score, reasons)


def _difference(a: float | None, b: float | None, reasons: Sequence[str]) -> Difference:
    if reasons or a is None or b is None:
        return Difference(not_comparable=tuple(reasons))
    return Difference(difference=b - a, relative=(b - a) / a if a else None)


def _notes(a: Summary, b: Summary) -> Iterator[str]:
    for label, summary in (("A", a), ("B", b)):
        for name, benchmark in summary.benchmarks.items():
            if benchmark.cut:
                answers = f"{benchmark.cut:,} of {label}'s {benchmark.questions:,} answers on {name}"
                yield f"The token limit cut off {answers}."
    if a.engine != b.engine:
        yield f"The engines differ: A ran on {a.engine or 'unknown'}, B on {b.engine or 'unknown'}."
    yield NO_VERDICT


def compare(a: Summary, b: Summary) -> Group:
    """A and B in a table with a row a benchmark, between what they are and what to know; print it with rich."""
    comparison = compared(a, b)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Benchmark", overflow="fold")
    for label in ("A", "B"):
        table.add_column(label, justify="right", overflow="fold")
    table.add_column("B less A", overflow="fold")
    for name, difference in comparison.benchmarks.items():
        halves = [summary.benchmarks.get(name) for summary in (a, b)]
        metrics = dict.fromkeys(summary.metric for summary in halves if summary)
        difference_text = _difference_text(difference, points=not set(metrics) & set(PERPLEXITIES))
        table.add_row(*map(Text, (f"{name}\n{' and '.join(metrics)}", *map(_cell, halves), difference_text)))
    means = (MISSING if difference.overall is None else f"{difference.overall:.4f}" for difference in (a, b))
    table.add_row(*map(Text, ("overall", *means, _difference_text(comparison.overall, points=True))))
    return Group(Text(f"A  {a.description}\nB  {b.description}"), table, Text("\n".join((READING, *comparison.notes))))


def _cell(benchmark: Benchmark | None) -> str:
    if benchmark is None:
        return MISSING
    error = "" if benchmark.stderr is None else f" ± {benchmark.stderr:.4f}"
    return f"{benchmark.score:.4f}{error}\n{benchmark.questions:,} questions"


def _difference_text(difference: Difference, *, points: bool) -> str:
    if difference.difference is None:
        return f"not comparable: {'; '.join(difference.not_comparable)}" if difference.not_comparable else MISSING
    sign = ("", "+", MINUS)[side(difference.difference, 0)]
    amount = percent(abs(difference.difference), unit="points") if points else f"{abs(difference.difference):.4g}"
    relative = "" if difference.relative is None else f" ({sign}{percent(abs(difference.relative))})"
    return f"{sign}{amount}{relative}"
