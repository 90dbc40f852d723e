"""The time that MLflow takes to record a run: 4 variants, 10 tasks, and all files of the track step.

    python -m benchmarks.track_speed [--items 1000] [--rounds 3]

Each variant has the records of its answers (Parquet), its data sets and a table of a few hundred flips; the run has the
report. The servers are MLflow servers on this machine: one on a SQLite file and a folder and, if PostgreSQL is
installed, one on PostgreSQL and SeaweedFS. A first recording goes through a proxy that counts its requests. The seconds
are medians of the rounds. The last column runs the step in a separate process, as a pipeline does, including the
import of MLflow.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from quantgate.components.gate import flipped_items
from quantgate.components.report.pages import write_report
from quantgate.components.run import records
from quantgate.components.run.artifacts import RowsOrigin
from quantgate.components.run.verdicts import Decision, LimitEvidence, TaskEvidence
from quantgate.components.track import step as track_step
from tests.support.mlflow_server import Proxy, postgres_binaries, running_mlflow, running_postgres
from tests.support.reported import make_decision
from tests.support.seaweed import running_server, weed_binary

TASKS = tuple(f"task_{number}" for number in range(10))
VARIANTS = ("bf16", "int8", "int4-g128", "int4-g64")
WORDS = ("which", "of", "these", "is", "what", "a", "person", "would", "say", "after", "that", "question")
FLIPPED = 0.03
"""The share of flipped answers: a few hundred of them."""
LIMIT_S = 5.0
STEP = "import sys; from quantgate.components.track.step import track; track(*sys.argv[1:])"


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000, help="items of each task")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
    table = Table("server", "requests", "first recording, s", "second recording, s", "in a separate process, s")
    with contextlib.ExitStack() as stack:
        results = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        size = make_results(results, options.items)
        for name, server in servers(stack, results):
            table.add_row(name, *measured(results, server, options.rounds))
    console = Console()
    console.print(table)
    console.print(f"4 variants, {len(TASKS)} tasks of {options.items:,} items, {size / 1e6:.1f} MB of files a run.")


def servers(stack: contextlib.ExitStack, folder: Path) -> list[tuple[str, str]]:
    """The name and the address of each server; the stack stops them."""
    address = stack.enter_context(running_mlflow(f"sqlite:///{folder}/server.db", f"{folder}/files"))
    servers = [("SQLite, folder", address)]
    binaries, weed = postgres_binaries(), weed_binary()
    if binaries and weed:
        database, bucket = stack.enter_context(running_postgres(binaries)), stack.enter_context(running_server(weed))
        mlflow = running_mlflow(database, f"s3://{bucket.bucket}/mlflow", bucket.environment())
        servers.append(("PostgreSQL, S3", stack.enter_context(mlflow)))
    return servers


def measured(results: Path, server: str, rounds: int) -> tuple[str, str, str, str]:
    """A row of the table: requests, and seconds."""
    with Proxy(server) as proxy, quiet():
        track_step.track(*arguments(results, uuid.uuid4().hex, proxy.address))
    first_s, again_s, process_s = [], [], []
    for _ in range(rounds):
        step = partial(track_step.track, *arguments(results, uuid.uuid4().hex, server))
        with quiet():
            first_s.append(seconds(step))
            again_s.append(seconds(step))
        command = [sys.executable, "-c", STEP, *arguments(results, uuid.uuid4().hex, server)]
        process_s.append(seconds(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)))
    recording_s = statistics.median(first_s)
    shown = f"{recording_s:.2f}" + ("" if recording_s < LIMIT_S else f", over {LIMIT_S:.0f}")
    return str(len(proxy.requests)), shown, f"{statistics.median(again_s):.2f}", f"{statistics.median(process_s):.2f}"


def make_results(results: Path, items: int) -> int:
    """Write the results of the steps before `track`; returns the bytes of the files that MLflow gets."""
    source = random.Random(0)
    baseline = [record for task in TASKS for record in random_records(source, task, items)]
    files = []
    for variant in VARIANTS:
        folder = results / "variants" / variant
        folder.mkdir(parents=True)
        answered = baseline if variant == VARIANTS[0] else [changed(source, record, variant) for record in baseline]
        records.write(answered, folder / "full.parquet")
        files.append(folder / "full.parquet")
        if variant != VARIANTS[0]:
            (folder / "flips.json").write_text(
                json.dumps(flipped_items.columns(flipped_items.flips(baseline, answered)))
            )
            files.append(folder / "flips.json")
    decision = random_decision(results, items)
    decision.write(results / "decision.json")
    return sum(file.stat().st_size for file in (*files, *write_report(decision, results, run="run", engine="vLLM")))


def random_records(source: random.Random, task: str, items: int) -> list[records.Record]:
    """The baseline's records of a task: four choices, a question of fifty words."""
    return [
        records.Record(
            variant=VARIANTS[0],
            task=task,
            item_id=item,
            item_hash=source.randbytes(32).hex(),
            metric="acc",
            score=float(source.random() < 0.6),
            target=0,
            logliks=[-source.expovariate(0.1) for _ in range(4)],
            greedy=[False] * 4,
            prompt_hash=source.randbytes(32).hex(),
            tokens=source.randrange(100, 2000),
            truncated=False,
            question=" ".join(source.choices(WORDS, k=50)),
            choices=tuple(" ".join(source.choices(WORDS, k=8)) for _ in range(4)),
            answer=" ".join(source.choices(WORDS, k=8)),
        )
        for item in range(items)
    ]


def changed(source: random.Random, record: records.Record, variant: str) -> records.Record:
    """The variant's record: other log-likelihoods, and sometimes another score."""
    score = 1 - (record.score or 0.0) if source.random() < FLIPPED else record.score
    logliks = [loglik + source.gauss(0, 0.1) for loglik in record.logliks]
    return dataclasses.replace(record, variant=variant, score=score, logliks=logliks)


def random_decision(results: Path, items: int) -> Decision:
    """The gate's decision with the evidence of every task."""
    decision = make_decision({name: dict.fromkeys(TASKS, 0.6) for name in VARIANTS}, failed="")
    limit = {"kind": "drop", "estimate": 0.0, "lower": -0.01, "upper": 0.01, "outcome": "passed"}
    limits = tuple(LimitEvidence(what=what, limit=0.05, **limit) for what in ("average", *TASKS))
    bounds = {"flip_rate": 0.03, "flip_rate_lower": 0.02, "flip_rate_upper": 0.04, "mcnemar_p": 0.5, "kl": 0.01}
    counts = {"items": items, "informative": True, "lost": 15, "gained": 15, "drop_lower": -0.01, "drop_upper": 0.01}
    tasks = tuple(TaskEvidence(task=task, **counts, **bounds) for task in TASKS)
    rows = tuple(RowsOrigin(task=task, where="a hub", sha256=f"{number:016x}") for number, task in enumerate(TASKS))
    return decision.model_copy(
        update={
            "verdicts": tuple(
                row if row.verdict == "reference" else row.model_copy(update={"limits": limits, "tasks": tasks})
                for row in decision.verdicts
            ),
            "scores": tuple(
                scores.model_copy(
                    update={"row_origins": rows, "records": str(results / "variants" / scores.variant / "full.parquet")}
                )
                for scores in decision.scores
            ),
        }
    )


def arguments(results: Path, run_id: str, server: str) -> tuple[str, str, str, str, str, str, str]:
    """The arguments of the step `track`."""
    decision, page, text, tracked = (
        str(results / name) for name in ("decision.json", "report.html", "report.md", "tracked.json")
    )
    return decision, run_id, str(results), server, page, text, tracked


def seconds(work: Callable[[], object]) -> float:
    """The seconds that the work takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard a step's standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


if __name__ == "__main__":
    main()
