"""Run programs in this pod, and print how each ended. The Job of `job.py` starts this module.

    python -m components.sandbox.pod /programs/wanted.json.gz

The pod contains nothing of value, see `Containment.POD`. Each line is JSON: `program`, its number; `passed`; `reason`.
"""

import gzip
import json
import sys
from pathlib import Path

from components.errors import PrerequisiteError
from components.sandbox.containment import Containment, Limits, Outcome
from components.sandbox.inside import control
from components.sandbox.programs import run_programs

PR_SET_DUMPABLE = 4


def main() -> int:
    """Run the programs of the file; returns the exit status."""
    content = json.loads(gzip.decompress(Path(sys.argv[1]).read_bytes()))
    control(
        PR_SET_DUMPABLE, 0
    )  # a program runs as the same user, and must not open this process's open files: its output
    try:
        limits, workers = Limits(**content["limits"]), content["workers"]
        run_programs(content["programs"], print_outcome, limits, workers, Containment.POD)
    except PrerequisiteError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def print_outcome(number: int, outcome: Outcome) -> None:
    """Print one line, and flush it."""
    print(json.dumps({"program": number, "passed": outcome.passed, "reason": outcome.reason}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
