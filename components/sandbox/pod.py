"""Run programs in this pod, and tell on standard output how each ended: what the Job of `job.py` starts.

    python -m components.sandbox.pod /programs/wanted.json.gz

The pod holds nothing else, see `Containment.POD`. A line is JSON: `program`, its number; `passed`; `reason`.
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


if __name__ == "__main__":
    sys.exit(main())
