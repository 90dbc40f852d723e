"""Run programs in this pod, and print how each ended. The Job of `job.py` starts this module.

    python -m quantgate.components.sandbox.pod /tmp/wanted.json.gz

The pod contains nothing of value, see `Containment.POD`. The file has the programs and their tests, so it is deleted
before a program runs. Each line is JSON: `program`, its number; `passed`; `reason`.
"""

import gzip
import json
import sys
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.sandbox.containment import Containment, Limits, Outcome, Program
from quantgate.components.sandbox.programs import run_programs
from quantgate.components.sandbox.refused_calls import PR_SET_DUMPABLE, control


def main() -> int:
    """Run the programs of the file; returns the exit status."""
    # a program runs as the same user, and must not open this process's memory or its open files, e.g. its output
    control(PR_SET_DUMPABLE, 0)
    file = Path(sys.argv[1])
    content = json.loads(gzip.decompress(file.read_bytes()))
    file.unlink()
    programs = [Program(**program) for program in content["programs"]]
    try:
        run_programs(programs, print_outcome, Limits(**content["limits"]), containment=Containment.POD)
    except PrerequisiteError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def print_outcome(number: int, outcome: Outcome) -> None:
    """Print one line, and flush it."""
    print(json.dumps({"program": number, "passed": outcome.passed, "reason": outcome.reason}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
