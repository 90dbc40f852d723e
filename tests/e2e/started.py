"""Start `quantgate run` as a person would, and list its remaining processes."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

SAMPLES, TOKENS = 4, 64


def start(out: Path, *options: str) -> "subprocess.Popen[bytes]":
    """`quantgate run` as a person would start it, output in OUT.txt; a few questions, as some CPUs answer slowly."""
    command = [
        sys.executable,
        "-m",
        "quantgate.pipelines.cli",
        "run",
        "--out",
        str(out),
        "--suite",
        "quick",
        "--no-check-power",
        "--calibration-samples",
        str(SAMPLES),
        "--calibration-tokens",
        str(TOKENS),
        *options,
    ]
    environment = os.environ | {"QUANTGATE_LEDGER": str(ledger_of(out))}
    with out.with_suffix(".txt").open("w") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )


def processes_of(out: Path) -> list[str]:
    """The command lines of all living processes that belong to the run in that folder, its vLLM workers included."""
    running: dict[int, str] = {}
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if str(out) in line and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                family = [process, *process.children(recursive=True)]
                running |= {process.pid: " ".join(process.cmdline())[:120] for process in family}
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return list(running.values())


def ledger_of(out: Path) -> Path:
    """The ledger that all runs of these tests share."""
    return out.parents[1] / "ledger.sqlite"
