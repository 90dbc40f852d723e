"""Run `ship` on this machine under kfp's SubprocessRunner, report its progress, and stop every process at the end.

The caller's process holds the run's lease. kfp and every server run in their own processes under a guard. So all of
them end when the caller ends, even by SIGKILL.

    python -m quantgate.pipelines.local ARGUMENTS.json      (the guard starts this; kfp's log is logs/pipeline.log)
"""

import importlib.util
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import JsonValue

from quantgate.components.errors import PrerequisiteError
from quantgate.components.processes import guarded, lease
from quantgate.components.run import progress
from quantgate.components.run.artifacts import Server
from quantgate.components.run.results import RunResults
from quantgate.components.servers import local_server
from quantgate.components.storage.artifact import Artifact, write_text

POLL_S = 0.2
STOPPED_WITHIN_S = 20.0


class RunState(Artifact):
    """run.json: the state of a run."""

    state: Literal["running", "finished", "failed", "interrupted"]
    arguments: dict[str, JsonValue]
    started_at: float
    """Seconds since the epoch."""
    ended_at: float = 0.0


def run(arguments: dict[str, Any], watch: Callable[[list[progress.Event]], None]) -> bool:
    """Run the pipeline with its results in the folder that its settings name; returns whether it finished.

    `watch` is called a few times a second with the new events. The outcome of an earlier run in the folder is removed
    first; its weights and its MLflow store stay. Raises PrerequisiteError when a run in that folder is still running.
    On KeyboardInterrupt every process of the run is stopped and run.json says `interrupted`.
    """
    results = RunResults(results_of(arguments))
    with lease.hold(results.lease):
        results.clear()
        state = RunState(state="running", arguments=arguments, started_at=time.time())
        with recorded(results.state, state) as finished:
            write_text(results.arguments, json.dumps(arguments, indent=2) + "\n")
            guard = start_pipeline(results)
            try:
                follow(guard, results, watch)
            finally:
                stop_all(guard, results)
            finished.append(guarded.exit_status(guard) == 0)
    return finished[0]


def results_of(arguments: dict[str, Any]) -> str:
    """The folder of the run with these arguments."""
    return str(arguments["settings"]["results"])


@contextmanager
def recorded(file: Path, state: RunState) -> Iterator[list[bool]]:
    """Write run.json before and after the block; the caller appends whether the run finished."""
    state.write(file)
    finished: list[bool] = []
    outcome: Literal["finished", "failed", "interrupted"] = "failed"
    try:
        yield finished
        outcome = "finished" if finished and finished[0] else "failed"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        state.model_copy(update={"state": outcome, "ended_at": time.time()}).write(file)


def start_pipeline(results: RunResults) -> psutil.Process:
    """Start kfp under a guard."""
    log = results.log("pipeline")
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "quantgate.pipelines.local", str(results.arguments)]
    return guarded.start_guard(command, os.environ, lease=results.lease, log=log)


def follow(guard: psutil.Process, results: RunResults, watch: Callable[[list[progress.Event]], None]) -> None:
    """Call `watch` with the new events until the pipeline has ended."""
    offset = 0
    while True:
        ended = guarded.exit_status(guard) is not None
        events, offset = progress.read(results.progress, offset)
        watch(events)
        if ended:
            return
        time.sleep(POLL_S)


def stop_all(guard: psutil.Process, results: RunResults) -> None:
    """End the pipeline, then every server that is still running."""
    if guarded.exit_status(guard) is None:
        guard.terminate()
        guard.wait(STOPPED_WITHIN_S)
    for file in results.local_servers():
        local_server.undeploy(Server.read(file))


def main(arguments_file: Path) -> None:
    """Run kfp; exits with status 1 when a step fails."""
    from kfp import local

    from quantgate.pipelines.ship import ship

    arguments = json.loads(arguments_file.read_text(encoding="utf-8"))
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(RunResults(results_of(arguments)).steps),
        raise_on_error=True,
    )
    ship(**arguments)


if __name__ == "__main__":
    main(Path(sys.argv[1]))


NEEDED_BYTES = 2_000_000_000
NEEDED_MODULES = ("llmcompressor", "lm_eval", "scipy", "mlflow")
"""One of each extra that a run on this machine needs."""


def check_packages() -> None:
    """Raise PrerequisiteError when quantgate was installed without the extras that a run needs."""
    missing = [module for module in NEEDED_MODULES if importlib.util.find_spec(module) is None]
    if missing:
        raise PrerequisiteError(
            f"These packages are missing: {', '.join(missing)}. Install quantgate again with its extras [all], as "
            'in `pip install ".[all]"` or `pip install "quantgate-VERSION-py3-none-any.whl[all]"`.'
        )


REWRITTEN = ("python3", "{{$", '{"Concat": ', '{"IfPresent": ')
"""kfp's local runner replaces these in every text that it hands to a step, so the step would get another text."""


def check_texts(arguments: dict[str, Any], python: str = sys.executable) -> None:
    """Raise PrerequisiteError for an argument, or a path of Python, that kfp's local runner would change."""
    if shlex.quote(python) != python:
        raise PrerequisiteError(
            f"quantgate is installed in {Path(python).parent}, and kfp's local runner starts no Python in a path with "
            "a space or another special character. Install quantgate in a folder without one."
        )
    for where, text in texts_of(arguments):
        for part in REWRITTEN:
            if part in text:
                raise PrerequisiteError(
                    f"{where} contains {part!r}, which kfp's local runner would replace by another text. Rename the "
                    "file or folder, or write the text without it."
                )


def texts_of(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in the arguments, keys included, with the name of its argument."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield where or "a setting", str(key)
            yield from texts_of(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner, where)


def check_folder(folder: Path) -> None:
    """Raise PrerequisiteError when the folder has other files, is read-only or lacks space."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not RunResults(str(folder)).is_for_runs():
            raise PrerequisiteError(f"{folder} contains files that are not a run's. Choose another folder with --out.")
        RunResults(str(folder)).lease.touch()
    except OSError as error:
        raise PrerequisiteError(
            f"Cannot write to {folder}: {error.strerror}. Choose another folder with --out."
        ) from None
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise PrerequisiteError(
            f"The disk of {folder} has {free / 1e9:.1f} GB free; a run needs {NEEDED_BYTES / 1e9:.0f} GB or more. "
            "Make room, or choose another folder with --out."
        )
