"""`quantgate run` on a very small model, as a program of its own, with a fake in place of vLLM."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.fake_vllm import serving_python


def quantgate(out: Path, tiny_model: Path, *options: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(out, tiny_model, *options),
        capture_output=True,
        text=True,
        env=environment(out) | settings,
        check=False,
    )


def command(out: Path, tiny_model: Path, *options: str) -> list[str]:
    run = [sys.executable, "-m", "quantgate.pipelines.cli", "run", "--out", str(out), "--model", f"file:{tiny_model}"]
    return [*run, *options]


def environment(out: Path) -> dict[str, str]:
    """An environment with the fake in place of vLLM, and a ledger beside the run."""
    python = serving_python(out.with_suffix(".python"))
    own = {"QUANTGATE_SERVING_PYTHON": str(python), "QUANTGATE_LEDGER": str(out.with_suffix(".sqlite"))}
    return os.environ | own


def verdicts(out: Path) -> dict[str, dict[str, Any]]:
    return {row["variant"]: row for row in json.loads((out / "verdicts.json").read_text())}
