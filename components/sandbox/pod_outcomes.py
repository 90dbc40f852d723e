"""Where a pod finds the programs, and what its log says of how they ended."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from components.errors import PrerequisiteError
from components.sandbox.containment import Outcome

PROGRAMS, WANTED = "/programs", "wanted.json.gz"


def heard(lines: Iterable[str], count: int) -> dict[int, Outcome]:
    """The outcomes that a pod told, by number; its other lines are nothing to us."""
    found: dict[int, Outcome] = {}
    for line in lines:
        try:
            row = json.loads(line)
            number, outcome = row["program"], Outcome(passed=row["passed"], reason=row["reason"])
        except (ValueError, KeyError, TypeError):
            continue
        if number not in range(count) or found.get(number, outcome) != outcome:
            raise PrerequisiteError(f"The pod that ran the programs told what cannot be: {line[:200]}")
        found[number] = outcome
    return found


@dataclass
class Heard:
    """What was told so far; a pod that takes another one's place begins anew."""

    all: dict[int, Outcome] = field(default_factory=dict)
    pod: str = ""

    def fresh(self, pod: str, outcomes: dict[int, Outcome]) -> Iterator[tuple[int, Outcome]]:
        """What the pod of that uid has told since the last time."""
        if pod != self.pod:
            self.pod, self.all = pod, {}
        for number, outcome in outcomes.items():
            if number not in self.all:
                self.all[number] = outcome
                yield number, outcome
