"""What the gate allows: the bands on the average drop, and each use case's own, stricter limits.

A use case is a YAML file in `policies/`, named after it. A drop is relative to the baseline's score: 0.02 is a loss
of 2 % of what the baseline scored. Task names are lm-eval's, exactly: `tinyGSM8k` is another task than `gsm8k`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.errors import PrerequisiteError
from components.variants import VARIANTS, variant_named

POLICIES = Path(__file__).parent / "policies"

EDGE = 1e-12
"""A drop this close to a bound lies on it.

Binary fractions miss a bound that decimal ones hit: 0.8 → 0.76 is a drop of exactly 5 %, which floats compute as
0.050000000000000044. Their error stays below 1e-14 here; no benchmark is large enough for this to excuse one item.
"""

Limit = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


def side(drop: float, bound: float) -> int:
    """-1 for a drop under the bound, 0 for one on it (within EDGE), 1 for one over it."""
    return (drop > bound + EDGE) - (drop < bound - EDGE)


@dataclass(frozen=True)
class Band:
    """The verdict on average drops that lie above the band before it and below `upper`."""

    verdict: str
    upper: float
    range_in_words: str
    verdict_in_words: str
    opening: str
    """What the sentence of such a verdict begins with."""
    next_step: str = ""
    """What a release manager then does; empty where that depends on the variant."""
    upper_belongs: bool = False
    """True when a drop of exactly `upper` lies in this band, not in the next."""

    def holds(self, drop: float) -> bool:
        """True for a drop that is not above this band; the bands before it come first."""
        return side(drop, self.upper) < 0 or (self.upper_belongs and side(drop, self.upper) == 0)


BANDS = (
    Band("ship", 0.01, "under 1 %", "ship", "Ships", next_step="Serve it."),
    Band(
        "monitor",
        0.03,
        "from 1 % to under 3 %",
        "monitor",
        "Ships under monitoring",
        next_step="Serve it and watch the benchmarks' live counterpart.",
    ),
    Band(
        "ab_test",
        0.05,
        "from 3 % to 5 %",
        "A/B test",
        "Needs an A/B test",
        next_step="A/B test it against the baseline on live traffic before it replaces the baseline.",
        upper_belongs=True,
    ),
    Band("reject", math.inf, "over 5 %", "reject", "Rejected"),
)


def band_of(average_drop: float) -> Band:
    """The band of an average drop: exactly 1 % is monitor, exactly 3 % and exactly 5 % are ab_test."""
    return next(band for band in BANDS if band.holds(average_drop))


class UseCase(BaseModel):
    """What a use case may lose at most; a drop of exactly a limit is allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    max_drop: dict[str, Limit] = {}
    """Per task, which the suite must then score."""
    max_average_drop: Limit | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.max_drop and self.max_average_drop is None:
            raise ValueError("it sets no limit: give max_drop, max_average_drop or both")
        return self

    def in_words(self) -> str:
        """Its limits, e.g. `gsm8k at most 2 %`."""
        limits = [f"{task} at most {limit_in_words(limit)}" for task, limit in self.max_drop.items()]
        if self.max_average_drop is not None:
            limits.append(f"average at most {limit_in_words(self.max_average_drop)}")
        return ", ".join(limits)


def read_use_case(path: Path) -> UseCase:
    """The use case that a YAML file describes; raises PrerequisiteError saying what is wrong with the file."""
    try:
        use_case = UseCase.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise PrerequisiteError(f"The use case in {path} cannot be read, correct the file: {error}") from error
    if use_case.name != path.stem:
        raise PrerequisiteError(f"The use case in {path} is named {use_case.name!r}: give both the same name.")
    return use_case


def use_case_names() -> list[str]:
    """The names to choose from, sorted."""
    return sorted(path.stem for path in POLICIES.glob("*.yaml"))


def use_case_named(name: str) -> UseCase:
    """The use case of that name; raises PrerequisiteError with the valid names."""
    if name not in use_case_names():
        raise PrerequisiteError(f"Unknown use case {name!r}. Choose from: {', '.join(use_case_names())}.")
    return read_use_case(POLICIES / f"{name}.yaml")


def required_tasks(use_case: str) -> tuple[str, ...]:
    """The tasks that a suite must score for this use case to be judged; none when it limits only the average."""
    return tuple(use_case_named(use_case).max_drop)


def check_use_case(use_case: str, tasks: Iterable[str]) -> None:
    """Raise PrerequisiteError when a suite of these tasks cannot answer for the use case: call it before a run."""
    scored = list(tasks)
    lacking = [task for task in required_tasks(use_case) if task not in scored]
    if lacking:
        possible = [name for name in use_case_names() if set(required_tasks(name)) <= set(scored)]
        raise PrerequisiteError(
            f"The use case {use_case} limits the drop on {', '.join(lacking)}, which this suite does not score: it"
            f" scores {', '.join(scored) or 'no task'}. Choose a suite with {', '.join(lacking)}, or a use case that"
            f" this suite can answer for: {', '.join(possible) or 'none'}."
        )


def policy_in_words(use_case: str) -> str:
    """The bands and the use case's limits in one line, as `Decision.policy` keeps them."""
    bands = ", ".join(f"{band.verdict_in_words} {band.range_in_words}" for band in BANDS)
    return (
        f"average drop: {bands}; {use_case}: {use_case_named(use_case).in_words()}, else reject;"
        " drops are relative to the baseline's score"
    )


def limit_in_words(limit: float) -> str:
    """`2 %` for 0.02: a limit as its author wrote it."""
    return f"{limit * 100:g} %"


OTHER_STEPS = {
    "reference": "Keep serving it until a variant replaces it.",
    "failed": "Remove the cause named here and run again; until then keep what serves today.",
    "not_comparable": "Evaluate it and the baseline again in one run; until then keep what serves today.",
}
"""Next steps of the verdicts that no band gives."""


def next_step(verdict: str, variant: str) -> str:
    """What a release manager does about a variant with that verdict."""
    steps = OTHER_STEPS | {band.verdict: band.next_step for band in BANDS}
    return steps[verdict] or _milder_than(variant)


def _milder_than(variant: str) -> str:
    """What to try in place of a rejected variant: scales that fewer weights share, or wider weights."""
    row = variant_named(variant)
    if row.group_size is None:
        return "Keep serving the baseline."
    finer = [
        each.name
        for each in VARIANTS.values()
        if each.scheme == row.scheme and each.group_size is not None and each.group_size < row.group_size
    ]
    return f"Try int8 or a smaller group size ({', '.join(finer)})." if finer else "Try int8."
