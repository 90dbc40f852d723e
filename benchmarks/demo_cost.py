"""The cost of a run: its time by kind of work, and its peak memory.

    python benchmarks/demo_cost.py [OPTIONS OF quantgate run]

It runs `quantgate run` into a new folder and samples the memory of all the run's processes (PSS: shared pages count
once). Quantizing is llm-compressor's time, starting is vLLM's time until it is ready, answering is lm-eval's time.
The rest is the pipeline's own: kfp, imports, copying, deciding, reporting and MLflow.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from quantgate.components.run.artifacts import Scores
from quantgate.components.run.progress import RUNNING, read
from quantgate.components.run.verdicts import Decision

SAMPLE_S = 1.0


def main() -> None:
    """Run in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="quantgate-benchmark-") as scratch:
        measure(Path(scratch) / "run")


def measure(out: Path) -> None:
    """Run and print the table."""
    began = time.monotonic()
    command = [sys.executable, "-m", "quantgate.pipelines.cli", "run", "--out", str(out), *sys.argv[1:]]
    environment = os.environ | {"QUANTGATE_LEDGER": str(out.with_name("ledger.sqlite"))}  # an empty answer ledger
    process = subprocess.Popen(command, env=environment)
    peak = [0]
    sampler = threading.Thread(target=sample, args=(process, out, peak), daemon=True)
    sampler.start()
    if process.wait() != 0:
        sys.exit("The run failed.")
    took_s = time.monotonic() - began
    console = Console()
    console.print(costs(out, took_s))
    console.print(f"Peak memory of all processes: {peak[0] / 1e9:.2f} GB (PSS, sampled every {SAMPLE_S:.0f} s)")


def sample(process: "subprocess.Popen[bytes]", out: Path, peak: list[int]) -> None:
    """Store in `peak` the largest sum of the proportional set sizes of the run's processes, in bytes."""
    while process.poll() is None:
        total = 0
        for member in family(process.pid, out):
            try:
                total += member.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peak[0] = max(peak[0], total)
        time.sleep(SAMPLE_S)


def family(pid: int, out: Path) -> set[psutil.Process]:
    """The command line, its children, and the guards (sessions of their own) with their children."""
    members: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if process.pid == pid or str(out) in " ".join(process.cmdline()):
                members |= {process, *process.children(recursive=True)}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return members


def costs(out: Path, took_s: float) -> Table:
    """Seconds and share of the run for each kind of work."""
    decision = Decision.read(out / "decision.json")
    events, _ = read(out / "progress.jsonl")
    start_times: dict[tuple[str, str], float] = {}
    starting = 0.0
    for event in events:
        began = start_times.setdefault((event.variant, event.step), event.time)
        if event.step == "deploy" and event.state != RUNNING:
            starting += event.time - began
    quantizing = sum(weights.duration_s for weights in decision.weights if not weights.reused)
    answering = 0.0
    for weights in decision.weights:
        for stage in ("tiny", "full"):
            answering += Scores.read(out / "variants" / weights.variant / f"{stage}.json").duration_s
    kinds = {"quantizing": quantizing, "starting vLLM": starting, "answering": answering}
    table = Table("work", "seconds", "share")
    for name, seconds in {**kinds, "the pipeline's own": took_s - sum(kinds.values()), "the run": took_s}.items():
        table.add_row(name, f"{seconds:.0f}", f"{seconds / took_s:.1%}")
    return table


if __name__ == "__main__":
    main()
