"""Run `ship` on this machine under kfp's SubprocessRunner, watched, and with nothing left behind.

The caller's process holds the run's lease. kfp runs in a process of its own under a guard, as every server does, so
that whatever happens to the caller, SIGKILL included, all of it ends.

    python -m pipelines.local ARGUMENTS.json      (what the guard starts; kfp's own log goes to logs/pipeline.log)
"""

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil

from components.errors import PrerequisiteError
from components.processes import guarded, lease
from components.run import progress
from components.run.artifacts import Server
from components.run.results import RunResults
from components.servers import local_vllm as serving
from components.storage.artifact import Artifact, write_text

POLL_S = 0.2
STOPPED_WITHIN_S = 20.0


class RunState(Artifact):
    """run.json: how a run stands."""

    state: Literal["running", "finished", "failed", "interrupted"]
    arguments: dict[str, str | int | bool | list[str]]
    started_at: float
    """Seconds since the epoch."""
    ended_at: float = 0.0


def run(arguments: dict[str, Any], watch: Callable[[list[progress.Event]], None]) -> bool:
    """Run the pipeline into the folder `results` of the arguments; returns whether it came to its end.

    `watch` is called a few times a second with what happened since. What an earlier run left in the folder as its
    outcome is removed first; its weights and its MLflow store stay. Raises PrerequisiteError when a run in that folder
    is still going on; on KeyboardInterrupt every process of the run is stopped and run.json says `interrupted`.
    """
    results = RunResults(arguments["results"])
    with lease.hold(results.lease):
        results.clear()
        state = RunState(state="running", arguments=arguments, started_at=time.time())
        with recorded(results.state, state) as ended:
            write_text(results.arguments, json.dumps(arguments, indent=2) + "\n")
            guard = start_pipeline(results)
            try:
                follow(guard, results, watch)
            finally:
                stop_all(guard, results)
            ended.append(guarded.exit_status(guard) == 0)
    return ended[0]


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


def start_pipeline(results: RunResults) -> psutil.Process:
    """Start kfp under a guard."""
    log = results.log("pipeline")
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pipelines.local", str(results.arguments)]
    return guarded.start_guard(command, {}, lease=results.lease, log=log)


def follow(guard: psutil.Process, results: RunResults, watch: Callable[[list[progress.Event]], None]) -> None:
    """Call `watch` with the news until the pipeline has ended."""
    offset = 0
    while True:
        ended = guarded.exit_status(guard) is not None
        events, offset = progress.read(results.progress, offset)
        watch(events)
        if ended:
            return
        time.sleep(POLL_S)


def stop_all(guard: psutil.Process, results: RunResults) -> None:
    """End the pipeline, then every server that it left."""
    if guarded.exit_status(guard) is None:
        guard.terminate()
        guard.wait(STOPPED_WITHIN_S)
    for file in results.local_servers():
        serving.undeploy(Server.read(file))


def main(arguments_file: Path) -> None:
    """Run kfp; leaves with exit status 1 when a step failed."""
    from kfp import local

    from pipelines.ship import ship

    arguments = json.loads(arguments_file.read_text(encoding="utf-8"))
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(RunResults(arguments["results"]).steps),
        raise_on_error=True,
    )
    ship(**arguments)


if __name__ == "__main__":
    main(Path(sys.argv[1]))


NEEDED_BYTES = 2_000_000_000
NEEDED_MODULES = ("llmcompressor", "lm_eval", "scipy", "mlflow")
"""One of each extra that a run on this machine needs."""


def check_packages() -> None:
    """Raises PrerequisiteError where quantgate was installed without the extras of a run."""
    missing = [module for module in NEEDED_MODULES if importlib.util.find_spec(module) is None]
    if missing:
        raise PrerequisiteError(
            f"These packages are missing: {', '.join(missing)}. Install quantgate again with its extras [all], as "
            'in `pip install ".[all]"` or `pip install "quantgate-VERSION-py3-none-any.whl[all]"`.'
        )


def check_folder(folder: Path) -> None:
    """Raises PrerequisiteError when the results' folder holds something else, is read-only or too small."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not RunResults(str(folder)).is_for_runs():
            raise PrerequisiteError(f"{folder} holds something else than a run. Choose another folder with --out.")
        RunResults(str(folder)).lease.touch()
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
