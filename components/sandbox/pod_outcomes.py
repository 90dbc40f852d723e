"""Where a pod finds its programs, and the programs' outcomes in the pod's log."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from quantgate.components.errors import PrerequisiteError
from quantgate.components.sandbox.containment import Outcome

PROGRAMS, PROGRAMS_FILE = "/programs", "wanted.json.gz"


def outcomes_in(lines: Iterable[str], count: int) -> dict[int, Outcome]:
    """The outcomes in a pod's log by program number; other lines are ignored."""
    outcomes: dict[int, Outcome] = {}
    for line in lines:
        try:
            row = json.loads(line)
            number, outcome = row["program"], Outcome(passed=row["passed"], reason=row["reason"])
        except (ValueError, KeyError, TypeError):
            continue
        if number not in range(count) or outcomes.get(number, outcome) != outcome:
            raise PrerequisiteError(
                f"The log of the pod that ran the programs contains an invalid outcome: {line[:200]}"
            )
        outcomes[number] = outcome
    return outcomes


@dataclass
class ReportedOutcomes:
    """The outcomes reported so far; a pod that replaces another one starts again."""

    all: dict[int, Outcome] = field(default_factory=dict)
    pod: str = ""

    def fresh(self, pod: str, outcomes: dict[int, Outcome]) -> Iterator[tuple[int, Outcome]]:
        """The outcomes that are new since the last call, for the pod with that uid."""
        if pod != self.pod:
            self.pod, self.all = pod, {}
        for number, outcome in outcomes.items():
            if number not in self.all:
                self.all[number] = outcome
                yield number, outcome
