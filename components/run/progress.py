"""The progress of a run: one line per event in `progress.jsonl`, and the same as plain text on stdout.

The steps write the events, and the live table of `quantgate run` reads them. Results in s3:// have no such file: there
each event is also a line of JSON on stdout, the pod's log, which `quantgate follow` reads through Kubeflow. A step that
fails in a pod writes its reason to the pod's termination message too.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.results import RunResults

EVERY_S = 0.5
LOGGED_EVERY_S = 15.0
"""In a pod's log, which is read as a whole at each look."""
MARK = "quantgate-event "
"""The beginning of a line with an event as JSON."""
TERMINATION_MESSAGE = Path("/dev/termination-log")
"""Kubernetes shows its text as the reason of a container that ended; it exists only in a pod."""
LONGEST_MESSAGE_BYTES = 4096
IN_A_TASK = "_KFP_RUNTIME"
"""The variable that kfp sets for a task's process."""

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
    to_do: str = ""
    """What a person has to do after the run, shown last."""
    verdicts: tuple[tuple[str, str, str], ...] = ()
    """Of the step report: each judged variant with its verdict and sentence."""
    results: str = ""
    """Where the run's results are, in the last event of a step."""

    @property
    def name(self) -> str:
        """The variant, if there is one, and the step."""
        return f"{self.variant} {self.step}".strip()


class Step:
    """One step of one variant, which reports its progress."""

    def __init__(self, file: Path | None, step: str, variant: str) -> None:
        self.file, self.step, self.variant = file, step, variant
        self.state = DONE
        self.note = ""
        self.to_do = ""
        self.verdicts: tuple[tuple[str, str, str], ...] = ()
        self.reported_at, self.reported = 0.0, (0, 0)

    def report(self, state: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Write one event."""
        self.write(Event(time.time(), self.step, self.variant, state, done, total, note))

    def write(self, event: Event) -> None:
        """Print the event, and write it to the file or as a line of JSON."""
        count = f" {event.done}/{event.total}" if event.total else ""
        print(f"quantgate: {event.name}: {event.state}{count}{' - ' + event.note if event.note else ''}", flush=True)
        if event.to_do:
            print(event.to_do, flush=True)
        if self.file:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(event)) + "\n")
        else:
            print(f"{MARK}{json.dumps(asdict(event))}", flush=True)

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` is done, at most every EVERY_S seconds, in a pod's log LOGGED_EVERY_S."""
        now = time.monotonic()
        is_due = now - self.reported_at >= (EVERY_S if self.file else LOGGED_EVERY_S)
        if is_due or (done >= total and self.reported != (done, total)):
            self.reported_at, self.reported = now, (done, total)
            self.report(RUNNING, done, total, note)

    def end(self, failure: str = "", note: str = "", skipped: bool = False, to_do: str = "") -> None:
        """Set the outcome of the step: failed with that reason, skipped, or done with a note.

        `to_do` is what a person has to do after the run.
        """
        self.state = SKIPPED if skipped else FAILED if failure else DONE
        self.note, self.to_do = failure or note, to_do

    def judge(self, verdicts: Sequence[tuple[str, str, str]]) -> None:
        """Set the verdicts that the step's last event names: variant, verdict and sentence."""
        self.verdicts = tuple(verdicts)


@contextmanager
def step(results: str, name: str, variant: str = "") -> Iterator[Step]:
    """Report that a step begins and, at the end of the block, its outcome; an exception counts as failed.

    In a task of kfp an error that a user can fix ends the process without a traceback: its message is reported.
    """
    file = None
    run_results = RunResults(results)
    if run_results.is_local:
        run_results.folder.mkdir(parents=True, exist_ok=True)
        file = run_results.progress
    current = Step(file, name, variant)
    current.report(RUNNING)
    with reported(current):
        yield current
    ended = Event(time.time(), name, variant, current.state, note=current.note, to_do=current.to_do)
    current.write(replace(ended, verdicts=current.verdicts, results=results))


@contextmanager
def before_plan(name: str) -> Iterator[None]:
    """As `step`, for what a step does before it knows where the results go: only a failure is reported, in the log."""
    with reported(Step(None, name, "")):
        yield


@contextmanager
def reported(current: Step) -> Iterator[None]:
    """Report an exception of the block as the step's failure."""
    try:
        yield
    except PrerequisiteError as error:
        fail(current, str(error))
        if os.environ.get(IN_A_TASK):
            raise SystemExit(1) from None
        raise
    except BaseException as error:
        fail(current, f"{type(error).__name__}: {error}")
        raise


def fail(current: Step, reason: str) -> None:
    """Report the reason, and write it to the pod's termination message."""
    current.report(FAILED, note=reason)
    if TERMINATION_MESSAGE.exists():
        TERMINATION_MESSAGE.write_bytes(reason.encode()[:LONGEST_MESSAGE_BYTES])


def read(file: Path, offset: int = 0) -> tuple[list[Event], int]:
    """The complete events after byte `offset` of the file, and the offset after them."""
    if not file.exists():
        return [], offset
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    complete = data[: data.rfind(b"\n") + 1]
    return [event_of(json.loads(line)) for line in complete.splitlines()], offset + len(complete)


def events_in(log: str) -> list[Event]:
    """The events in a pod's log, in their order; a line that is cut off is left out."""
    events = []
    for line in log.splitlines():
        if line.startswith(MARK):
            try:
                values = json.loads(line.removeprefix(MARK))
            except ValueError:
                continue
            events.append(event_of(values))
    return events


def event_of(values: dict[str, Any]) -> Event:
    """The event with these values; those that another version wrote in addition are left out."""
    known = {field.name: values[field.name] for field in fields(Event) if field.name in values}
    return Event(**known | {"verdicts": tuple(tuple(row) for row in known.get("verdicts", ()))})
