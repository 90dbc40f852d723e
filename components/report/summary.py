"""The summary of an evaluated model as a JSON file, and the comparison of two summaries.

    Scores -> summary_of -> 2026-11-21_ORG_MODEL_BENCHMARKS.json;  two summaries -> compare -> a table, or JSON

A summary contains scores and evaluation settings. It contains no per-item results, so two summaries give no verdict.
"""

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

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.change import percent
from quantgate.components.policies.policy import side
from quantgate.components.report.formats import MINUS, MISSING
from quantgate.components.run.artifacts import PERPLEXITIES, Scores, TaskScore
from quantgate.components.run.machine import Gpu
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.components.storage.artifact import Artifact

MOST_NAMED, LONGEST_ORG, LONGEST_MODEL, LONGEST_NAMED = 6, 42, 80, 80
"""Limits of a file name: its benchmarks, and its parts' characters; under 255 in all, with what `write_text` adds."""
ADVICE = "Give a summary that `quantgate eval` wrote."
READING = "Score ± standard error. B less A: in points of 100, and relative to A. For perplexity, less is better."
NO_VERDICT = "This table is not a verdict: it has no paired test. `quantgate gate` decides from per-item results."

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
Instant = Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC))]


class Benchmark(Artifact):
    """A benchmark's score and evaluation settings."""

    questions: Count
    score: Amount
    """The mean of `metric`: a share from 0 to 1, or a perplexity."""
    metric: str
    stderr: Amount | None
    """Standard error of the mean; None for a perplexity and for a single question."""
    shots: int
    cut: int
    """The number of answers that the token limit cut off."""
    version: str
    """lm-eval's version of the task."""
    settings: PromptSettings
    rows: str
    """The source of the rows, with its digest; empty if it is unknown."""

    @property
    def is_share(self) -> bool:
        """Whether the score is a share from 0 to 1, where higher is better."""
        return self.metric not in PERPLEXITIES

    @model_validator(mode="after")
    def _measures(self) -> Self:
        if self.is_share and self.score > 1:
            raise ValueError(f"{self.metric} is {self.score}, which is not a share from 0 to 1")
        return self


class Summary(Artifact):
    """An evaluated model: its identity, the evaluation settings and the scores."""

    timestamp: Instant
    """In UTC."""
    repository: Name
    """`ORG/MODEL`, or only the name if the model has no organisation."""
    model_format: Name
    """E.g. `bf16 safetensors`, `compressed-tensors int-quantized`, `unknown`."""
    gpus: tuple[Gpu, ...]
    """The GPUs of the machine that ran the command, not of a remote endpoint; empty if it has none."""
    engine: str
    """Package and version of the engine that answered, e.g. `vllm 0.32.0`; empty if it did not report them."""
    suite: str
    rows_source: str
    benchmarks: Annotated[dict[str, Benchmark], Field(min_length=1)]
    """In the suite's order."""
    overall: Amount | None
    """The unweighted mean over the benchmarks whose metric is a share; None if there are none."""

    @property
    def description(self) -> str:
        """The model, its format, its engine and the time of the evaluation, in one line of text."""
        what = (self.repository, self.model_format, self.engine, f"{self.timestamp:%Y-%m-%d %H:%M} UTC")
        return ", ".join(filter(None, what))


class Difference(Artifact):
    """How B's score, on a benchmark or overall, differs from A's."""

    difference: float | None = None
    """B's score minus A's: for a share, 0.01 is a point. None if the scores are not comparable."""
    relative: float | None = None
    """The difference divided by A's score; None also if A's score is 0."""
    not_comparable: tuple[str, ...] = ()
    """Why there is no difference, e.g. `shots 5 and 0`."""


class Compared(Artifact):
    """Two summaries and their differences on every benchmark that either has."""

    a: Summary
    b: Summary
    benchmarks: dict[str, Difference]
    overall: Difference
    notes: tuple[str, ...]


def summary_of(scores: Scores, repository: str, model_format: str, gpus: Sequence[Gpu], at: datetime) -> Summary:
    """The summary of a model's scores; `at` must have a time zone.

    Raises PrerequisiteError for a failed evaluation, ValueError for invalid scores.
    """
    if scores.failure or not scores.tasks:
        reason = scores.failure or "it was evaluated on no benchmark."
        raise PrerequisiteError(
            f"{repository} has no scores to summarize: {reason} Fix the cause and evaluate it again."
        )
    benchmarks = {task_score.task: _benchmark(task_score, scores) for task_score in scores.tasks}
    if len(benchmarks) < len(scores.tasks):
        raise ValueError(f"two scores for one benchmark: {', '.join(task_score.task for task_score in scores.tasks)}")
    shares = [benchmark.score for benchmark in benchmarks.values() if benchmark.is_share]
    return Summary(
        timestamp=at,
        repository=repository,
        model_format=model_format,
        gpus=tuple(gpus),
        engine=scores.engine,
        suite=scores.suite,
        rows_source=scores.rows_source,
        benchmarks=benchmarks,
        overall=fmean(shares) if shares else None,
    )


def _benchmark(task_score: TaskScore, scores: Scores) -> Benchmark:
    rows = {origin.task: origin.rows for origin in scores.row_origins}
    return Benchmark(
        questions=task_score.items,
        score=task_score.score,
        metric=task_score.metric,
        stderr=None if not task_score.is_share or task_score.items == 1 else task_score.stderr,
        shots=task_score.shots,
        cut=task_score.cut,
        version=task_score.version,
        settings=task_score.settings,
        rows=rows.get(task_score.task, ""),
    )


def file_name(summary: Summary) -> str:
    """`2026-11-21_HuggingFaceTB_SmolLM2-135M-Instruct_arc_easy-hellaswag-piqa.json`, safe on every file system.

    A model without an organisation, such as one served from a path, gets the organisation `local`.
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
    """The summary in the file; raises PrerequisiteError that names the file and the problem."""
    try:
        return Summary.read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise PrerequisiteError(f"{path} cannot be read: {error}. {ADVICE}") from error
    except ValidationError as error:
        first = error.errors()[0]
        message = ": ".join((*map(str, first["loc"]), first["msg"]))
        raise PrerequisiteError(f"{path} is not a summary that this version can read: {message}. {ADVICE}") from error


def compared(a: Summary, b: Summary) -> Compared:
    """The comparison of two summaries: how B's scores differ from A's, and why some are not comparable."""
    differences = {name: _of_benchmark(name, a, b) for name in {**a.benchmarks, **b.benchmarks}}
    averaged_in_a, averaged_in_b = (
        {name for name, benchmark in summary.benchmarks.items() if benchmark.is_share} for summary in (a, b)
    )
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
        ("samples of a question", a.settings.samples, b.settings.samples),
        ("chat template", *("yes" if benchmark.settings.chat_template else "no" for benchmark in (a, b))),
        ("chat", *("yes" if benchmark.settings.chat else "no" for benchmark in (a, b))),
        ("filter", a.settings.filter, b.settings.filter),
        ("task version", a.version, b.version),
    )
    reasons = [f"{setting} {in_a} and {in_b}" for setting, in_a, in_b in settings if in_a != in_b]
    reasons += ["other rows"] if a.rows != b.rows else []
    reasons += ["other generation settings"] if a.settings.generation != b.settings.generation else []
    return _difference(a.score, b.score, reasons)


def _difference(a: float | None, b: float | None, reasons: Sequence[str]) -> Difference:
    if reasons or a is None or b is None:
        return Difference(not_comparable=tuple(reasons))
    return Difference(difference=b - a, relative=(b - a) / a if a else None)


def _notes(a: Summary, b: Summary) -> Iterator[str]:
    for label, summary in (("A", a), ("B", b)):
        for name, benchmark in summary.benchmarks.items():
            if benchmark.cut:
                answers = benchmark.questions * benchmark.settings.samples
                yield f"The token limit cut off {benchmark.cut:,} of {label}'s {answers:,} answers on {name}."
    if a.engine != b.engine:
        yield f"The engines differ: A ran on {a.engine or 'unknown'}, B on {b.engine or 'unknown'}."
    yield NO_VERDICT


def compare(a: Summary, b: Summary) -> Group:
    """The table that compares A and B by benchmark, with descriptions above and notes below; print it with rich."""
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
