"""The progress of a run: one line per event in `progress.jsonl`, and the same as plain text on stdout.

The steps write the events, and the live table of `quantgate run` reads them. Results in s3:// have no such file: there
the events are only the lines on stdout (a pod's log).
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from components.errors import PrerequisiteError
from components.run.results import RunResults

EVERY_S = 0.5

RUNNING, DONE, FAILED, SKIPPED = "running", "done", "failed", "skipped"


@dataclass(frozen=True)
class Event:
    """A step of a variant (or of the run: variant "") changed its state or advanced."""

    time: float
    """Seconds since the epoch."""
    step: str
    variant: str
    state: str
    done: int = 0
    total: int = 0
    note: str = ""


class Step:
    """One step of one variant, which reports its progress."""

    def __init__(self, file: Path | None, step: str, variant: str) -> None:
        self.file, self.step, self.variant = file, step, variant
        self.state = DONE
        self.note = ""
        self.reported_at = 0.0

    def report(self, state: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Write one event."""
        event = Event(time.time(), self.step, self.variant, state, done, total, note)
        name = f"{self.variant} {self.step}".strip()
        count = f" {done}/{total}" if total else ""
        print(f"quantgate: {name}: {state}{count}{' - ' + note if note else ''}", flush=True)
        if self.file:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(event)) + "\n")

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` is done, at most every EVERY_S seconds."""
        now = time.monotonic()
        if done >= total or now - self.reported_at >= EVERY_S:
            self.reported_at = now
            self.report(RUNNING, done, total, note)

    def end(self, failure: str = "", note: str = "", skipped: bool = False) -> None:
        """Set the outcome of the step: failed with that reason, skipped, or done with a note."""
        self.state = SKIPPED if skipped else FAILED if failure else DONE
        self.note = failure or note


@contextmanager
def step(results: str, name: str, variant: str = "") -> Iterator[Step]:
    """Report that a step begins and, at the end of the block, its outcome; an exception counts as failed."""
    file = None
    run_results = RunResults(results)
    if run_results.is_local:
        run_results.folder.mkdir(parents=True, exist_ok=True)
        file = run_results.progress
    current = Step(file, name, variant)
    current.report(RUNNING)
    try:
        yield current
    except BaseException as error:
        kind = "" if isinstance(error, PrerequisiteError) else f"{type(error).__name__}: "
        current.report(FAILED, note=f"{kind}{error}")
        raise
    current.report(current.state, note=current.note)


def read(file: Path, offset: int = 0) -> tuple[list[Event], int]:
    """The complete events after byte `offset` of the file, and the offset after them."""
    if not file.exists():
        return [], offset
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    complete = data[: data.rfind(b"\n") + 1]
    return [Event(**json.loads(line)) for line in complete.splitlines()], offset + len(complete)
