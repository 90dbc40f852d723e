"""The CPU time that evaluating one variant costs the client, by part, against a scripted server.

    python -m benchmarks.client_cost [--items N] [--out FOLDER]

The rows of the suite `openllm` are made: as many as the real ones, with about as many words, and each word is a token.
So nothing is downloaded, and the server, tests/support/fake_vllm.py, needs no model. The client prepares the prompts as
`resolve` does, then evaluates the tiny and the full stage as the two steps do, each question once.

CPU time is that of this process (user and system), so other work on the machine changes it little. Every 10 ms of it
the stack is read and counted for the innermost part that it names.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.made_openllm import MadeRows, save_tokenizer
from quantgate.components.benchmarks import harness, mirror
from quantgate.components.benchmarks.row_sources import Mirror
from quantgate.components.benchmarks.suites import suite_named
from quantgate.components.evaluate.evaluation import Earlier, Evaluation
from quantgate.components.evaluate.ledger import Ledger
from quantgate.components.run import records
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.progress import Step
from quantgate.components.servers.local_server import free_port
from quantgate.components.storage.cache import cache_dir
from tests.support.prompted import questions_on

SAMPLE_S = 0.01
WINDOW = 8192
PARTS = {
    "aiohttp/": "HTTP",
    "asyncio/": "HTTP",
    "json/": "JSON",
    "servers/scoring_requests.py": "planning, sums",
    "servers/scoring_ways.py": "requests, responses",
    "evaluate/ledger.py": "ledger",
    "datasets/": "rows",
    "lm_eval/": "lm-eval's metric",
    "evaluate/item_record.py": "records",
    "run/records.py": "records",
    "benchmarks/prompts.py": "prompts",
    "evaluate/evaluation.py": "prompts",
}
"""Parts by the end of a source file's path, or a folder in it."""
OTHER = "other"
SERVER = """
from tests.support import fake_vllm
fake_vllm.Handler.protocol_version = "HTTP/1.1"  # connections stay open, as vLLM's do
fake_vllm.Handler.disable_nagle_algorithm = True
fake_vllm.serve()
"""


class Samples:
    """Counts the parts in which this process spends its CPU time."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def take(self, _signal: int, frame: FrameType | None) -> None:
        """Count the innermost part of the stack."""
        while frame is not None:
            for place, part in PARTS.items():
                if place in frame.f_code.co_filename:
                    self.counts[part] += 1
                    return
            frame = frame.f_back
        self.counts[OTHER] += 1

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take samples while the block runs."""
        signal.signal(signal.SIGPROF, self.take)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Run and print the tables."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # as in the steps: waiting for an unreachable hub takes minutes
    imported_s = cpu_s()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=0, help="items of each task [all]")
    parser.add_argument("--out", type=Path, default=Path(tempfile.mkdtemp(prefix="quantgate-client-cost-")))
    arguments = parser.parse_args()
    save_tokenizer(arguments.out / "model")
    suite = suite_named("openllm", limit=arguments.items)
    splits = [split for row in suite.tasks for split in harness.splits_wanted(row)]
    mirror.make(splits, MadeRows(), str(arguments.out / "rows"), lambda *_progress: None)
    rows = Mirror(str(arguments.out / "rows"), cache_dir())
    before = cpu_s()
    questions = questions_on(suite, rows, arguments.out / "model", arguments.out / "prompts.parquet", WINDOW)
    stages = Table("stage", "items", "CPU s", "wall s", "requests", box=None)
    stages.add_row("imports", "", f"{imported_s:.1f}", "", "")
    stages.add_row("prepare, once a run", "", f"{cpu_s() - before:.1f}", "", "")
    samples = Samples()
    with served(arguments.out) as server, closing(Ledger(arguments.out / "ledger.sqlite", "made")) as ledger:
        tiny: list[records.Record] = []
        for stage in ("tiny", "full"):
            file, before, began = arguments.out / f"{stage}.parquet", cpu_s(), time.monotonic()
            step = Step(arguments.out / "progress.jsonl", stage, server.variant)
            with samples.taken():
                scores = Evaluation(server, questions, stage, step).run(file, Earlier(ledger, tiny))
            if scores.failure:
                sys.exit(scores.failure)
            tiny = records.read(file)
            stages.add_row(stage, str(len(tiny)), *numbers(cpu_s() - before, time.monotonic() - began, scores))
    console = Console()
    console.print(stages)
    console.print(parts_table(samples))
    console.print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB")


def numbers(used_s: float, took_s: float, scores: Scores) -> tuple[str, str, str]:
    """The last cells of a stage's row."""
    return f"{used_s:.1f}", f"{took_s:.0f}", f"{scores.requests:,}"


def parts_table(samples: Samples) -> Table:
    """The parts of the two stages' CPU time."""
    table = Table("part of both stages", "CPU s", box=None)
    for part, count in samples.counts.most_common():
        table.add_row(part, f"{count * SAMPLE_S:.1f}")
    return table


def cpu_s() -> float:
    """The CPU time of this process until now, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A scripted server in a process of its own."""
    port = free_port()
    options = ["--served-model-name", "made", "--max-model-len", str(WINDOW), "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-c", SERVER, *options])
    server = Server(variant="made", url=f"http://127.0.0.1:{port}/v1", served_name="made", log="of no file")
    try:
        wait_until_it_answers(server)
        yield server.model_copy(update={"model_path": str(folder / "model"), "max_model_len": WINDOW})
    finally:
        process.kill()
        process.wait()


def wait_until_it_answers(server: Server) -> None:
    """Return when the server answers; raises TimeoutError after a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.url}/models").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError("The scripted server does not answer.")


if __name__ == "__main__":
    main()
