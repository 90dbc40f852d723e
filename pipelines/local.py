"""Run `ship` on this machine under kfp's SubprocessRunner, watched, and with nothing left behind.

The caller's process holds the run's lease. kfp runs in a process of its own under a guard, as every server does, so
that whatever happens to the caller, SIGKILL included, all of it ends.

    python -m pipelines.local ARGUMENTS.json      (what the guard starts; kfp's own log goes to logs/pipeline.log)
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from components.errors import PrerequisiteError
from components.processes import guarded, lease
from components.run import progress
from components.run.artifacts import Server
from components.servers import local_vllm as serving
from components.servers.local_vllm import find_engine
from components.storage.artifact import Artifact, write_text

POLL_S = 0.2
STOPPED_WITHIN_S = 20.0
OUTCOMES = (
    *(f"{each}.json" for each in ("plan", "decision", "verdicts", "facts", "tracked", "registered", "promotion")),
    "report.html",
    "report.md",
    "progress.jsonl",
)
OUTCOME_FOLDERS = ("variants", "plots", "judged", "logs", "steps")
DECIDED_IN_THE_RUN = {"asked", "judged_in"}
"""What a plan has only once the run has resolved it, and is no parameter of the pipeline."""


@dataclass(frozen=True)
class Arguments:
    """What `ship` is called with; the names are the pipeline's parameters."""

    model: str
    variants: list[str]
    suite: str
    use_case: str
    store: str
    results: str
    tracking_uri: str
    calibration_samples: int
    calibration_tokens: int
    ledger: bool = True
    skip_judged: bool = False
    policy: str = ""
    stop_early: bool = True
    noise_floor: bool = False
    custom: list[str] = field(default_factory=list)
    limit: int = 0
    data: str = ""
    chat_template: bool = False
    irt_parameters: str = ""
    promote: bool = False


class RunState(Artifact):
    """run.json: how a run stands."""

    state: Literal["running", "finished", "failed", "interrupted"]
    arguments: dict[str, str | int | bool | list[str]]
    started_at: float
    """Seconds since the epoch."""
    ended_at: float = 0.0


def run(arguments: Arguments, watch: Callable[[list[progress.Event]], None]) -> bool:
    """Run the pipeline into the folder `arguments.results`; returns whether it came to its end.

    `watch` is called a few times a second with what happened since. What an earlier run left in the folder as its
    outcome is removed first; its weights and its MLflow store stay. Raises PrerequisiteError when a run in that folder
    is still going on; on KeyboardInterrupt every process of the run is stopped and run.json says `interrupted`.
    """
    folder = Path(arguments.results)
    with lease.hold(folder / "lease"):
        clear(folder)
        state = RunState(state="running", arguments=asdict(arguments), started_at=time.time())
        with recorded(folder / "run.json", state) as ended:
            write_text(folder / "arguments.json", json.dumps(asdict(arguments), indent=2) + "\n")
            guard = start_pipeline(folder)
            try:
                follow(guard, folder, watch)
            finally:
                stop_all(guard, folder)
            ended.append(guarded.exit_status(guard) == 0)
    return ended[0]


def is_for_runs(folder: Path) -> bool:
    """Whether a run may have the folder: an earlier one has left its run.json there, or nothing has."""
    return (folder / "run.json").exists() or {each.name for each in folder.iterdir()} <= {"lease"}


def clear(folder: Path) -> None:
    """Remove what an earlier run in the folder has left as its outcome: nobody shall take it for this one's."""
    for name in OUTCOMES:
        (folder / name).unlink(missing_ok=True)
    for name in OUTCOME_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


@contextmanager
def recorded(file: Path, state: RunState) -> Iterator[list[bool]]:
    """Keep run.json true to the block: the caller appends whether the run came to its end."""
    state.write(file)
    ended: list[bool] = []
    outcome: Literal["finished", "failed", "interrupted"] = "failed"
    try:
        yield ended
        outcome = "finished" if ended and ended[0] else "failed"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        state.model_copy(update={"state": outcome, "ended_at": time.time()}).write(file)


def start_pipeline(folder: Path) -> psutil.Process:
    """Start kfp under a guard."""
    log = folder / "logs" / "pipeline.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pipelines.local", str(folder / "arguments.json")]
    return guarded.start_guard(command, {}, lease=folder / "lease", log=log)


def follow(guard: psutil.Process, folder: Path, watch: Callable[[list[progress.Event]], None]) -> None:
    """Call `watch` with the news until the pipeline has ended."""
    offset = 0
    while True:
        ended = guarded.exit_status(guard) is not None
        events, offset = progress.read(folder / "progress.jsonl", offset)
        watch(events)
        if ended:
            return
        time.sleep(POLL_S)


def stop_all(guard: psutil.Process, folder: Path) -> None:
    """End the pipeline, then every server that it left."""
    if guarded.exit_status(guard) is None:
        guard.terminate()
        guard.wait(STOPPED_WITHIN_S)
    for file in sorted(folder.glob("variants/*/server.json")):
        serving.undeploy(Server.read(file))


def main(arguments_file: Path) -> None:
    """Run kfp; leaves with exit status 1 when a step failed."""
    from kfp import local

    from pipelines.ship import ship

    arguments = Arguments(**json.loads(arguments_file.read_text(encoding="utf-8")))
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(Path(arguments.results) / "steps"),
        raise_on_error=True,
    )
    ship(**asdict(arguments))


if __name__ == "__main__":
    main(Path(sys.argv[1]))


NEEDED_BYTES = 2_000_000_000


def check_machine(folder: Path) -> None:
    """Raises PrerequisiteError when vLLM is missing, or the results' folder is another's, read-only or too small."""
    find_engine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not is_for_runs(folder):
            raise PrerequisiteError(f"{folder} holds something else than a run. Choose another folder with --out.")
        (folder / "lease").touch()
    except OSError as error:
        raise PrerequisiteError(
            f"Cannot write to {folder}: {error.strerror}. Choose another folder with --out."
        ) from None
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise PrerequisiteError(
            f"The disk of {folder} has {free / 1e9:.1f} GB free; a run wants {NEEDED_BYTES / 1e9:.0f} GB or more. "
            "Make room, or choose another folder with --out."
        )
