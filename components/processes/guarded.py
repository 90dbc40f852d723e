"""Start a command under a guard, see guard.py."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil


def start_guard(command: list[str], environment: Mapping[str, str], lease: Path, log: Path) -> psutil.Process:
    """Start the command under a guard, which has its own session and output and may outlive this process."""
    guard = [sys.executable, "-m", "quantgate.components.processes.guard", "--lease", str(lease), "--log", str(log)]
    guard += ["--", *command]
    to_devnull = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in (0, 1, 2)]
    pid = os.posix_spawn(sys.executable, guard, environment, file_actions=to_devnull, setsid=True)
    return psutil.Process(pid)


def exit_status(guard: psutil.Process) -> int | None:
    """The exit status of a guard that this process started; None while it runs."""
    try:
        return guard.wait(0)
    except psutil.TimeoutExpired:
        return None
