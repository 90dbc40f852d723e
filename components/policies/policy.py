"""The gate's policy: the bands on the average drop, and the stricter limits of each use case.

A use case is a YAML file in `use_cases/` with the same name; `bands.yaml` contains the default bands. A drop is
relative to the baseline's score unless the file sets `drop: absolute`: 0.02 is then a loss of 2 points of 100. Task
names must match lm-eval's exactly: `tinyGSM8k` and `gsm8k` are different tasks.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from quantgate.components.errors import PrerequisiteError
from quantgate.components.policies.published_scores import PublishedEntry
from quantgate.components.storage.yaml_file import fault, parse

USE_CASES = Path(__file__).parent / "use_cases"
BANDS_FILE = Path(__file__).parent / "bands.yaml"

EDGE = 1e-12
"""A drop this close to a bound counts as equal to it.

Floats cannot represent most decimal fractions: 0.8 → 0.76 is a drop of exactly 5 %, but floats compute
0.050000000000000044. The rounding error stays below 1e-14 here. No benchmark has so many items that a single item
changes the score by less than this tolerance.
"""


def side(drop: float, bound: float) -> int:
    """-1 if the drop is under the bound, 0 if it equals the bound (within EDGE), 1 if it is over the bound."""
    return (drop > bound + EDGE) - (drop < bound - EDGE)


PERCENTAGE = r"^\s*(\d+(\.\d+)?)\s*%\s*$"


def as_share(value: Any) -> Any:
    """0.02 for `2 %`; a value that is not a string is returned unchanged."""
    if not isinstance(value, str):
        return value
    percentage = re.match(PERCENTAGE, value)
    if not percentage:
        raise ValueError(f"{value!r} is not a share: write it as 2 % or 0.02")
    return float(percentage.group(1)) / 100


def in_range(low: float, high: float, allowed: str, *, share: bool = False) -> BeforeValidator:
    """A validator that accepts a number from `low` (inclusive) to `high` (exclusive); its error quotes `allowed`.

    A share may be written as a percentage too.
    """

    def check(value: Any) -> Any:
        value = as_share(value) if share else value
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value < high:
            raise ValueError(f"{value} is not allowed: {allowed}")
        return float(value)

    number = Annotated[float, Field(ge=low, lt=high)]
    written = number | Annotated[str, Field(pattern=PERCENTAGE)] if share else number
    return BeforeValidator(check, json_schema_input_type=Annotated[written, Field(description=allowed)])


Limit = Annotated[float, in_range(0, 1, "a limit is a share from 0 to less than 1, as 2 % or 0.02", share=True)]
Confidence = Annotated[
    float, in_range(0.5, 1, "a confidence is from 50 % to less than 100 %, as 95 % or 0.95", share=True)
]
ANSWERS_ERROR = 5.0
"""Where margins are evidence, the answers must show the same with this many times the error probability.

So whatever margins say, the error is at most this many times the policy's.
"""
MOST_NATS = 2.0
"""The most that the gate counts for one item's KL divergence, so a mean of this or more cannot be limited."""
Nats = Annotated[
    float, in_range(0, MOST_NATS, "a divergence is a number of nats, 0 or more and less than 2, the most of an item")
]
Growth = Annotated[float, in_range(0, 10, "a growth is a share from 0 to less than 10, as 20 % or 0.2", share=True)]
Ratio = Annotated[float, in_range(1, 100, "a perplexity ratio is 1 or more, as 1.05")]
SpeedRatioLimit = Annotated[
    float, in_range(0.01, 100, "a limit on speed is a multiple of the baseline's, from 0.01 to less than 100, as 1.2")
]
Weight = Annotated[float, in_range(1e-6, 1e6, "a weight is a positive number, as 2 or 0.5, and less than a million")]


class Edges(BaseModel):
    """Where each band of the average drop ends."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    ship: Limit
    """Average drops under this one ship."""
    monitor: Limit
    """Average drops from `ship` to under this one ship under monitoring."""
    ab_test: Limit
    """Average drops from `monitor` up to this one need an A/B test; larger ones are rejected."""

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if not self.ship < self.monitor < self.ab_test:
            raise ValueError("the bands must ascend: ship < monitor < ab_test")
        return self


class Average(BaseModel):
    """How the scores of several tasks become one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    weights: dict[str, Weight] = {}
    """Per task; a task that is not listed has the weight 1."""

    @property
    def subject(self) -> str:
        """The average in a sentence."""
        return "the weighted average" if self.weights else "the average"

    def weight(self, task: str) -> float:
        """The task's weight."""
        return self.weights.get(task, 1.0)

    def of(self, scores: Mapping[str, float]) -> float:
        """The weighted mean of at least one score, whatever the tasks' numbers of items."""
        return math.fsum(self.weight(task) * score for task, score in scores.items()) / self._total(scores)

    def error(self, errors: Mapping[str, float]) -> float:
        """The standard error of that mean, from the scores' standard errors."""
        return math.hypot(*(self.weight(task) * error for task, error in errors.items())) / self._total(errors)

    def _total(self, tasks: Iterable[str]) -> float:
        return math.fsum(map(self.weight, tasks))


@dataclass(frozen=True)
class Band:
    """The verdict for average drops between the end of the previous band and `upper`."""

    verdict: str
    upper: float
    range_description: str
    """`under 1 %`, `from 1 % to under 3 %`."""
    verdict_label: str
    """`ship`, `A/B test`."""
    opening: str
    """The start of the verdict's sentence, e.g. `Ships`."""
    upper_description: str = ""
    """`under 1 %`, `to 5 %`; empty for a band without an end."""
    upper_belongs: bool = False
    """True when a drop of exactly `upper` lies in this band, not in the next."""

    def holds(self, drop: float) -> bool:
        """True if the drop is not above this band. A drop below the band also returns True: check lower bands first."""
        return side(drop, self.upper) < 0 or (self.upper_belongs and side(drop, self.upper) == 0)


@cache
def shipped_edges() -> Edges:
    """The edges in `bands.yaml`."""
    return parse(Edges, BANDS_FILE.read_text(encoding="utf-8"), str(BANDS_FILE))


class SpeedLimits(BaseModel):
    """How fast a variant's server must be in a load test, relative to the baseline's, at every concurrency."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    min_speedup: SpeedRatioLimit | None = None
    """The least output tokens/s, as a multiple of the baseline's."""
    max_ttft_ratio: SpeedRatioLimit | None = None
    """The largest median time to the first token, as a multiple of the baseline's."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.min_speedup is None and self.max_ttft_ratio is None:
            raise ValueError("it sets no limit: give min_speedup or max_ttft_ratio")
        return self

    def describe(self) -> list[str]:
        """`output tokens/s at least 1.2 times the baseline's`, and the like."""
        limits = []
        if self.min_speedup is not None:
            limits.append(f"output tokens/s at least {self.min_speedup:g} times the baseline's")
        if self.max_ttft_ratio is not None:
            limits.append(f"time to first token at most {self.max_ttft_ratio:g} times the baseline's")
        return limits


class UseCase(BaseModel):
    """The largest losses that a use case allows; a measured drop equal to a limit is allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1)]
    """Any name but a shipped use case's."""
    drop: Literal["relative", "absolute"] = "relative"
    """Whether drops are relative to the baseline's score, or absolute, in points."""
    confidence: Confidence = 0.95
    """One-sided confidence that a variant over a limit does not pass."""
    promotes: list[Literal["ship", "monitor"]] = ["ship"]
    """The verdicts with which a variant may become champion in the registry."""
    suites: list[str] = []
    """The suites that score the limited tasks."""
    too_long: Literal["exclude", "refuse"] = "exclude"
    """Whether to leave out the items that do not fit the model's window, or to refuse the run."""
    missing_tasks: Literal["refuse", "skip"] = "refuse"
    """Whether to refuse a run that lacks a limited task, or to skip that task's limits."""
    bands: Edges = Field(default_factory=shipped_edges)
    """Where each band of the average drop ends."""
    max_drop: dict[str, Limit] = {}
    """The largest drop for each task."""
    max_average_drop: Limit | None = None
    """The largest drop of the tasks' average score."""
    average: Average = Average()
    """How the scores of several tasks become one."""
    clusters: Literal["random", "fixed"] = "random"
    """Whether a task's clusters, as MMLU's subjects, are a random sample or all that the limits are about."""
    evidence: Literal["answers", "margins"] = "answers"
    """Whether right and wrong answers decide a drop, or on multiple-choice tasks also by how much they are."""
    max_cluster_drop: dict[str, Limit] = {}
    """Per task with clusters: the largest drop of any of them."""
    max_divergence: dict[str, Nats] = {}
    """Per multiple-choice task: mean KL divergence of the choices' distribution from the baseline's, in nats."""
    max_perplexity_ratio: dict[str, Ratio] = {}
    """Per perplexity task: the variant's perplexity over the baseline's."""
    max_longer_answers: dict[str, Growth] = {}
    """Per task with generated answers: how much more tokens the variant's answers have than the baseline's."""
    max_cut_answers: dict[str, Limit] = {}
    """Per task with generated answers: the share of the variant's answers that the token limit cuts."""
    # excluded if it is None: a policy without these limits has the digest that it always had
    speed: SpeedLimits | None = Field(None, exclude_if=lambda limits: limits is None)
    """Limits on a load test of the variant's server."""
    published: dict[str, PublishedEntry] = Field({}, exclude_if=lambda scores: not scores)
    """Per task, the baseline's published score in percent. A baseline that is too far away stops the run."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.tasks and self.max_average_drop is None and self.speed is None:
            raise ValueError(
                "it sets no limit: give max_drop, max_average_drop, max_cluster_drop, max_divergence,"
                " max_perplexity_ratio, max_longer_answers, max_cut_answers or speed"
            )
        return self

    @property
    def relative(self) -> bool:
        """Whether drops are relative to the baseline's score."""
        return self.drop == "relative"

    @property
    def alpha(self) -> float:
        """The maximum probability that a variant over a limit passes."""
        return 1 - self.confidence

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have a limit."""
        limits_by_kind = (
            self.max_drop,
            self.max_cluster_drop,
            self.max_divergence,
            self.max_perplexity_ratio,
            self.max_longer_answers,
            self.max_cut_answers,
        )
        return tuple(dict.fromkeys(task for limits in limits_by_kind for task in limits))

    def required(self) -> tuple[str, ...]:
        """The tasks without which a run is refused."""
        return self.tasks if self.missing_tasks == "refuse" else ()

    def weights_without_task(self, tasks: Iterable[str]) -> list[str]:
        """The tasks that the average weights and that these tasks lack; none if missing tasks are skipped."""
        scored = set(tasks) if self.missing_tasks == "refuse" else set(self.average.weights)
        return [task for task in self.average.weights if task not in scored]

    def published_without_task(self, tasks: Iterable[str]) -> list[str]:
        """The tasks with a published score that these tasks lack; none if missing tasks are skipped."""
        scored = set(tasks) if self.missing_tasks == "refuse" else set(self.published)
        return [task for task in self.published if task not in scored]

    def band_list(self) -> tuple[Band, ...]:
        """The bands in ascending order; the last band has no end."""
        ship, monitor, ab_test = (self.describe_limit(edge) for edge in self.edges)
        return (
            Band("ship", self.bands.ship, f"under {ship}", "ship", "Ships", f"under {ship}"),
            Band(
                "monitor",
                self.bands.monitor,
                f"from {ship} to under {monitor}",
                "monitor",
                "Ships under monitoring",
                f"under {monitor}",
            ),
            Band(
                "ab_test",
                self.bands.ab_test,
                f"from {monitor} to {ab_test}",
                "A/B test",
                "Needs an A/B test",
                f"to {ab_test}",
                upper_belongs=True,
            ),
            Band("reject", math.inf, f"over {ab_test}", "reject", "Rejected"),
        )

    @property
    def edges(self) -> tuple[float, float, float]:
        """The drops at which the bands end, in ascending order."""
        return (self.bands.ship, self.bands.monitor, self.bands.ab_test)

    def band_of(self, average_drop: float) -> Band:
        """The band of an average drop: exactly 1 % is monitor, exactly 3 % and exactly 5 % are ab_test."""
        return next(band for band in self.band_list() if band.holds(average_drop))

    def describe_limit(self, limit: float) -> str:
        """The limit as its author wrote it: `2 %` for 0.02, or `2 points`."""
        unit = "%" if self.relative else "point" if limit == 0.01 else "points"
        return f"{limit * 100:g} {unit}"

    def describe_limits(self) -> str:
        """The use case's limits, e.g. `gsm8k at most 2 %`."""
        limits = [f"{task} at most {self.describe_limit(limit)}" for task, limit in self.max_drop.items()]
        if self.max_average_drop is not None:
            limits.append(f"average at most {self.describe_limit(self.max_average_drop)}")
        limits += [
            f"every cluster of {task} at most {self.describe_limit(limit)}"
            for task, limit in self.max_cluster_drop.items()
        ]
        if self.average.weights:
            weights = ", ".join(f"{task} {weight:g}" for task, weight in self.average.weights.items())
            limits.append(f"the average weighs {weights}, any other task 1")
        limits += [f"divergence on {task} at most {limit:g} nats" for task, limit in self.max_divergence.items()]
        limits += [f"perplexity on {task} at most {ratio:g} times" for task, ratio in self.max_perplexity_ratio.items()]
        limits += [f"answers on {task} at most {100 * by:g} % longer" for task, by in self.max_longer_answers.items()]
        limits += [
            f"at most {100 * share:g} % of answers cut on {task}" for task, share in self.max_cut_answers.items()
        ]
        limits += self.speed.describe() if self.speed else []
        return ", ".join(limits)

    def describe_policy(self) -> str:
        """The bands and the limits in one line of text."""
        bands = ", ".join(f"{band.verdict_label} {band.range_description}" for band in self.band_list())
        scale = "drops are relative to the baseline's score" if self.relative else "drops are in points of 100"
        clusters = "; clusters are the whole population" if self.clusters == "fixed" else ""
        published = ", ".join(
            f"{task} {entry.score:g} % within {entry.tolerance:g} points" for task, entry in self.published.items()
        )
        published = f"; the baseline's published scores: {published}" if published else ""
        margins = "; margins of multiple-choice questions are evidence" if self.evidence == "margins" else ""
        limits = f"average drop: {bands}; {self.name}: {self.describe_limits()}, else reject"
        return f"{limits}; {scale}{clusters}{margins}{published}"


def parse_use_case(text: str, source: str) -> UseCase:
    """The use case in the YAML text; raises PrerequisiteError that names `source`, the place and the problem.

    A name of a shipped use case is refused for another content: readers would take it for the shipped one.
    """
    use_case = parse(UseCase, text, source)
    if use_case.name in use_case_names() and use_case != use_case_named(use_case.name):
        raise fault(
            text,
            source,
            ("name",),
            f"{use_case.name} is the name of a shipped use case, whose limits are others. Give this policy another"
            f" name, or leave it out and choose --use-case {use_case.name}",
        )
    return use_case


def read_use_case(path: Path) -> UseCase:
    """The use case in the YAML file; raises PrerequisiteError that names the file and the problem."""
    return parse_use_case(_text(path), str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PrerequisiteError(f"The policy {path} cannot be read: {error}") from error


def use_case_names() -> list[str]:
    """The names of the shipped use cases, sorted."""
    return sorted(path.stem for path in USE_CASES.glob("*.yaml"))


def use_case_named(name: str) -> UseCase:
    """The shipped use case with this name; raises PrerequisiteError with the valid names."""
    if name not in use_case_names():
        raise PrerequisiteError(f"Unknown use case {name!r}. Choose from: {', '.join(use_case_names())}.")
    file = USE_CASES / f"{name}.yaml"
    return parse(UseCase, _text(file), str(file))


def chosen(use_case: str, policy: str = "") -> UseCase:
    """The use case in a policy file's text; if the text is empty, the shipped use case with this name."""
    return parse_use_case(policy, "The policy") if policy else use_case_named(use_case)


def text_of(use_case: str) -> str:
    """The YAML text of the shipped use case with this name; empty if there is no such use case."""
    file = USE_CASES / f"{use_case}.yaml"
    return file.read_text(encoding="utf-8") if file.exists() else ""


def check_use_case(use_case: UseCase, tasks: Iterable[str]) -> None:
    """Raise PrerequisiteError if these tasks lack a task that the use case limits or weights: call it before a run."""
    scored = list(tasks)
    if unknown := use_case.weights_without_task(scored):
        raise PrerequisiteError(
            f"The average of {use_case.name} weights {', '.join(unknown)}, which this suite does not score. It scores"
            f" {', '.join(scored) or 'no task'}. Correct the name in average.weights, or choose another suite."
        )
    if unknown := use_case.published_without_task(scored):
        raise PrerequisiteError(
            f"The policy {use_case.name} has a published score of {', '.join(unknown)}, which this suite does not"
            f" score. It scores {', '.join(scored) or 'no task'}. Correct the name in `published`, choose another"
            " suite, or set missing_tasks: skip."
        )
    lacking = [task for task in use_case.required() if task not in scored]
    if lacking:
        suites = f" ({', '.join(use_case.suites)})" if use_case.suites else ""
        possible = [name for name in use_case_names() if set(use_case_named(name).required()) <= set(scored)]
        raise PrerequisiteError(
            f"The use case {use_case.name} limits {', '.join(lacking)}, which this suite does not score. It"
            f" scores {', '.join(scored) or 'no task'}. Choose a suite with {', '.join(lacking)}{suites}, or a use case"
            f" whose limits this suite covers: {', '.join(possible) or 'none'}."
        )
