"""The baseline's scores beside published ones, as a table of texts."""

from quantgate.components.evidence.change import percent
from quantgate.components.evidence.published_check import AGREES, APART, UNCLEAR, causes, describe
from quantgate.components.report.formats import MINUS
from quantgate.components.run.verdicts import Decision, PublishedComparison

PUBLISHED_COLUMNS = ("Task", "Published", "Baseline", "95 % interval", "Distance", "Allowed", "Result", "Source")
RESULTS = {AGREES: "✓ agrees", APART: "✗ too far away", UNCLEAR: "? too few questions to tell"}


def published_rows(decision: Decision) -> list[tuple[str, ...]]:
    """One row for each comparison, in the order of the columns."""
    return [_row(found) for found in decision.published]


def published_notes(decision: Decision) -> list[str]:
    """Each score that does not agree as a sentence, with what follows from it."""
    notes = []
    for found in decision.published:
        if found.outcome == AGREES:
            continue
        text = f"{describe(found)[0].upper()}{describe(found)[1:]}."
        if found.outcome == APART:
            warning = "A warning only, because no policy names this score." if not found.required else ""
            text = f"{text} {causes(found)} {warning}".rstrip()
        notes.append(text)
    return notes


def _row(found: PublishedComparison) -> tuple[str, ...]:
    sign = MINUS if found.distance < 0 else "+"
    exact = found.lower == found.upper
    return (
        f"{found.task}, {found.shots}-shot, {found.metric}",
        percent(found.published, found.published),
        percent(found.measured, found.published),
        "all questions" if exact else f"{percent(found.lower)} to {percent(found.upper)}",
        f"{sign}{percent(abs(found.distance), found.tolerance, unit='points')}",
        percent(found.tolerance, found.tolerance, unit="points"),
        RESULTS[found.outcome],
        found.source or "the policy",
    )
