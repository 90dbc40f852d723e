"""What a run tells while it works: one line per event in `progress.jsonl`, and the same as plain text on stdout.

The steps write, the live table of `quantgate run` reads. Results that go to s3:// have no such file: there the lines
on stdout (a pod's log) are all.
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
    """One thing that happened: a step of a variant (or of the run: variant "") changed its state or advanced."""

    time: float
    """Seconds since the epoch."""
    step: str
    variant: str
    state: str
    done: int = 0
    total: int = 0
    note: str = ""


class Step:
    """One step of one variant that tells how far it is."""

    def __init__(self, file: Path | None, step: str, variant: str) -> None:
        self.file, self.step, self.variant = file, step, variant
        self.state = DONE
        self.note = ""
        self.told_at = 0.0

    def tell(self, state: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Write one event."""
        event = Event(time.time(), self.step, self.variant, state, done, total, note)
        name = f"{self.variant} {self.step}".strip()
        count = f" {done}/{total}" if total else ""
        print(f"quantgate: {name}: {state}{count}{' - ' + note if note else ''}", flush=True)
        if self.file:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(event)) + "\n")

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Tell how much is done, at most every EVERY_S seconds."""
        now = time.monotonic()
        if done >= total or now - self.told_at >= EVERY_S:
            self.told_at = now
            self.tell(RUNNING, done, total, note)

    def end(self, failure: str = "", note: str = "", skipped: bool = False) -> None:
        """Say how the step will end: failed with that reason, skipped, or done with a note."""
        self.state = SKIPPED if skipped else FAILED if failure else DONE
        self.note = failure or note


@contextmanager
def step(results: str, name: str, variant: str = "") -> Iterator[Step]:
    """Tell that a step begins and, at the end of the block, how it ended; an exception counts as failed."""
    file = None
    kept = RunResults(results)
    if kept.is_local:
        kept.folder.mkdir(parents=True, exist_ok=True)
        file = kept.progress
    current = Step(file, name, variant)
    current.tell(RUNNING)
    try:
        yield current
    except BaseException as error:
        kind = "" if isinstance(error, PrerequisiteError) else f"{type(error).__name__}: "
        current.tell(FAILED, note=f"{kind}{error}")
        raise
    current.tell(current.state, note=current.note)


def read(file: Path, offset: int = 0) -> tuple[list[Event], int]:
    """The whole events after byte `offset` of the file, and the offset after them."""
    if not file.exists():
        return [], offset
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [Event(**json.loads(line)) for line in whole.splitlines()], offset + len(whole)
