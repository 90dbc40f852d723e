"""A store of MLflow with half a year of runs: a model retrained each week, and judged for two use cases."""

import datetime
from functools import cache
from pathlib import Path

from quantgate.components.policies.policy import use_case_named
from quantgate.components.run.verdicts import Decision, LimitEvidence, Verdict
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.facts import RunFacts, RunFiles
from quantgate.components.tracking.uris import local_tracking_uri
from tests.support.decided import FACTS, make_decision

WEEKS = 26
FIRST_DAY = datetime.datetime(2026, 5, 4, 3, 0, tzinfo=datetime.UTC)
HALF_WIDTH = 0.008
SIZES = {"bf16": 16_060_000_000, "int8": 9_080_000_000, "int4-g128": 5_700_000_000, "int4-g64": 5_900_000_000}
DROPS = {"int8": 0.001, "int4-g128": 0.024, "int4-g64": 0.016}
FAILED_WEEK, LOST_WEEK = 7, 20
"""When int4-g64 could not be made, and since when int4-g128 loses 4 points more."""


@cache
def fill(folder: Path) -> str:
    """Track every week's run of general-chat, and of math-tutoring every fourth; returns the tracking URI."""
    uri = local_tracking_uri(folder / "mlflow")
    for week in range(WEEKS):
        for use_case in ("general-chat", *(["math-tutoring"] if week % 4 == 0 else [])):
            track(decision_of(week, use_case, folder), facts_of(week, use_case), RunFiles(), uri)
    return uri


def facts_of(week: int, use_case: str) -> RunFacts:
    """The week's run."""
    day = FIRST_DAY + datetime.timedelta(weeks=week)
    changes = {"run_id": f"{use_case} {week}", "name": f"week {week}", "started_at": day.timestamp()}
    return FACTS.model_copy(update=changes)


def drop_of(variant: str, week: int) -> float:
    """What the variant lost in that week."""
    wave = 0.006 * ((week * 7) % 5 - 2) / 2
    return DROPS[variant] + wave + (0.04 if variant == "int4-g128" and week >= LOST_WEEK else 0.0)


def decision_of(week: int, use_case: str, folder: Path) -> Decision:
    """The week's decision, each verdict by its bounds."""
    failed = "int4-g64" if week == FAILED_WEEK else ""
    decision = make_decision(folder, failed=failed)
    rows = tuple(row if row.variant == failed else judged(row, week) for row in decision.verdicts)
    return decision.model_copy(update={"limits": use_case_named(use_case), "verdicts": rows})


def judged(row: Verdict, week: int) -> Verdict:
    """The row with its size and, but for the baseline, the week's drop, its bounds and the verdict that follows."""
    sized = row.model_copy(update={"size_bytes": SIZES[row.variant]})
    if row.verdict == "reference":
        return sized
    drop = drop_of(row.variant, week)
    lower, upper = drop - HALF_WIDTH, drop + HALF_WIDTH
    bands = use_case_named("general-chat").band_list()[:-1]
    verdict = next((band.verdict for band in bands if upper < band.upper), "inconclusive")
    evidence = {"limit": bands[-1].upper, "estimate": drop, "lower": lower, "upper": upper, "outcome": "passed"}
    return sized.model_copy(
        update={
            "average_drop": drop,
            "limits": tuple(LimitEvidence(what=task, kind="drop", **evidence) for task in ("average", "piqa")),
            "verdict": "reject" if lower > bands[-1].upper else verdict,
        }
    )
