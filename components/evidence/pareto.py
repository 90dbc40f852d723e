"""The Pareto front of a search: size, speed and average drop of each variant, and why it did not end the search."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantgate.components.run.load_results import speed_ratios
from quantgate.components.run.verdicts import Decision, Verdict


@dataclass(frozen=True)
class FrontRow:
    """A variant's place; None for a number that is unavailable."""

    variant: str
    number: int
    """Of its row in the decision matrix."""
    size_bytes: int | None
    speedup: float | None
    """Output tokens/s relative to the baseline's, with the most requests at a time."""
    drop: float | None
    lower: float | None
    upper: float | None
    why: str
    """Why it did not end the search; empty if it did, and for the baseline."""
    better: str = ""
    """The variant that is no worse in anything and better in something; empty on the front."""

    @property
    def is_placed(self) -> bool:
        """Whether its size and its drop are known."""
        return self.size_bytes is not None and self.drop is not None

    def is_behind(self, other: "FrontRow") -> bool:
        """Whether the other is as small, as fast and as good, and better in one of them, by the measured values."""
        if not (self.is_placed and other.is_placed):
            return False
        ours, theirs = ([float(row.size_bytes or 0), float(row.drop or 0)] for row in (self, other))
        if self.speedup is not None and other.speedup is not None:
            ours, theirs = [*ours, -self.speedup], [*theirs, -other.speedup]
        return theirs != ours and all(there <= here for there, here in zip(theirs, ours, strict=True))


def front(decision: Decision) -> tuple[FrontRow, ...]:
    """The variants of a search, the baseline first; empty without a search, or if the baseline failed."""
    if not (decision.plan and decision.plan.search) or decision.verdicts[0].verdict != "reference":
        return ()
    tests = {test.variant: test for test in decision.load_tests}
    baseline = tests.get(decision.verdicts[0].variant)
    ratios = {name: speed_ratios(baseline, test) for name, test in tests.items()}
    speedups = {name: levels[-1].speedup for name, levels in ratios.items() if levels}
    rows = [_row(number, verdict, speedups, decision) for number, verdict in enumerate(decision.verdicts)]
    return tuple(_with_better(row, rows) for row in rows)


def _row(number: int, verdict: Verdict, speedups: dict[str, float], decision: Decision) -> FrontRow:
    bounds = next((row for row in verdict.limits if (row.what, row.kind) == ("average", "drop")), None)
    ended = number == 0 or verdict.verdict in decision.limits.promotes
    return FrontRow(
        verdict.variant,
        number,
        size_bytes=verdict.size_bytes or None,
        speedup=speedups.get(verdict.variant),
        drop=verdict.average_drop if number else 0.0,
        lower=bounds.lower if bounds else None,
        upper=bounds.upper if bounds else None,
        why="" if ended else verdict.sentence.partition("\n")[0],
    )


def _with_better(row: FrontRow, rows: Sequence[FrontRow]) -> FrontRow:
    return replace(row, better=next((other.variant for other in rows if row.is_behind(other)), ""))
