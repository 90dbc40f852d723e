"""Scores that others have published for a baseline: those that a policy names, and the shipped ones of known models.

Model cards print scores in percent, so that is how they are written here: 68.3 means 68.3 %.
"""

import math
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from quantgate.components.storage.yaml_file import parse

KNOWN_FILE = Path(__file__).parent / "known_baselines.yaml"
TOLERANCE = 5.0
"""Points of 100."""
PERCENT = "a published score is in percent, from 1 to 100, as 68.3: model cards print it so, and 0.683 would be 0.7 %"
POINTS = "a tolerance is in points of 100, more than 0 and at most 50, as 5"
HUB = "hf:"


def _number(low: float, high: float, allowed: str) -> BeforeValidator:
    """A validator of a number from `low` to `high`, which its error quotes as `allowed`."""

    def check(value: Any) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high:
            raise ValueError(f"{value} is not allowed: {allowed}")
        return float(value)

    written = Annotated[float, Field(ge=low, le=high, description=allowed)]
    return BeforeValidator(check, json_schema_input_type=written)


Percent = Annotated[float, _number(1, 100, PERCENT)]
Points = Annotated[float, _number(0.01, 50, POINTS)]
Items = Annotated[int, Field(ge=1)]


class PublishedScore(BaseModel):
    """A baseline's published score on one task."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    score: Percent
    """In percent, as model cards print it: 68.3."""
    tolerance: Points = TOLERANCE
    """How far the baseline's own score may be from it, in points of 100."""
    source: str = ""
    """Where it was published, for readers."""
    items: Items | None = None
    """The number of questions behind it. A run that asks them all has no sampling error."""

    @property
    def share(self) -> float:
        """The score as a share from 0 to 1."""
        return self.score / 100


def _written(value: Any) -> Any:
    """A bare number is the score."""
    return value if isinstance(value, (dict, PublishedScore)) else {"score": value}


PublishedEntry = Annotated[PublishedScore, BeforeValidator(_written, json_schema_input_type=Percent | PublishedScore)]
"""68.3, or the keys of a PublishedScore."""


class KnownScore(BaseModel):
    """A published score with the settings that a comparable evaluation has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    score: Percent
    metric: str
    shots: int
    items: Items
    filter: str = "none"


class KnownBaseline(BaseModel):
    """A model of the hub, whose scores were published for prompts without a chat template."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    models: list[str]
    """Its names on the hub."""
    source: str
    scores: dict[str, KnownScore]
    """By task of lm-eval."""


class KnownBaselines(BaseModel):
    """The shipped rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rows: list[KnownBaseline]


@cache
def known_baselines() -> tuple[KnownBaseline, ...]:
    """The rows in `known_baselines.yaml`."""
    return tuple(parse(KnownBaselines, KNOWN_FILE.read_text(encoding="utf-8"), str(KNOWN_FILE)).rows)


def known_baseline(source: str) -> KnownBaseline | None:
    """The row of the model at this source, `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`; None for any other."""
    name = source.removeprefix(HUB).partition("@")[0].lower()
    if not source.startswith(HUB):
        return None
    return next((row for row in known_baselines() if name in map(str.lower, row.models)), None)
