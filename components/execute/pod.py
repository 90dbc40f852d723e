"""Run programs in this pod, and tell on standard output how each ended: what the Job of `job.py` starts.

    python -m components.execute.pod /programs/wanted.json.gz

The pod holds nothing else, see `Containment.POD`. A line is JSON: `program`, its number; `passed`; `reason`.
"""

import gzip
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.errors import PrerequisiteError
from components.execute import run_programs
from components.execute.inside import control
from components.execute.sandbox import Containment, Limits, Outcome

PROGRAMS, WANTED = "/programs", "wanted.json.gz"
PR_SET_DUMPABLE = 4


def main() -> int:
    """Run what the file names; returns the exit status to leave with."""
    wanted = json.loads(gzip.decompress(Path(sys.argv[1]).read_bytes()))
    control(PR_SET_DUMPABLE, 0)  # a program of this user's may not open what this process has open: its output
    try:
        limits, workers = Limits(**wanted["limits"]), wanted["workers"]
        run_programs(wanted["programs"], tell, limits, workers, Containment.POD)
    except PrerequisiteError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def tell(number: int, outcome: Outcome) -> None:
    """Write one line, at once."""
    print(json.dumps({"program": number, "passed": outcome.passed, "reason": outcome.reason}), flush=True)


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


if __name__ == "__main__":
    sys.exit(main())
