"""Start a command under a guard, see guard.py."""

import os
import re
import sys
from pathlib import Path

import psutil

PASSED_ON = re.compile(
    r"(PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TMPDIR|TEMP|TMP|PYTHONPATH|PYTHONUNBUFFERED|HF_HOME|HF_HUB_CACHE|"
    r"(LC|LD|XDG|VLLM|CUDA|NVIDIA|NCCL|GLOO|OMP|KMP|MKL|OPENBLAS|MALLOC|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|FLASHINFER|"
    r"ROCR|HIP|HSA|ONEAPI|ZE)_.*)"
)
"""The variables that a guarded command gets from this process: no credentials of S3, MLflow, a hub or a cluster."""


def environment(settings: dict[str, str]) -> dict[str, str]:
    """The environment of a guarded command: what it needs from this process, and the settings."""
    return {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)} | settings


def start_guard(command: list[str], settings: dict[str, str], lease: Path, log: Path) -> psutil.Process:
    """Start the command under a guard, which has its own session and output and may outlive this process."""
    guard = [sys.executable, "-m", "components.processes.guard", "--lease", str(lease), "--log", str(log)]
    guard += ["--", *command]
    to_devnull = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in (0, 1, 2)]
    pid = os.posix_spawn(sys.executable, guard, environment(settings), file_actions=to_devnull, setsid=True)
    return psutil.Process(pid)


def exit_status(guard: psutil.Process) -> int | None:
    """The exit status of a guard that this process started; None while it runs."""
    try:
        return guard.wait(0)
    except psutil.TimeoutExpired:
        return None
