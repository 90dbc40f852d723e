"""The gate's time and memory to decide on variants with tasks as large as MMLU.

    python benchmarks/gate_speed.py [--variants 3] [--tasks 10] [--items 14042]

The answers are in Parquet files like those of a run. "read" loads them as numbers; "decide" computes the decision
matrix with bounds, flips and divergence of every task. Scores are 0 or 1. With --fractional they are between,
like those of TruthfulQA's mc2, which takes longer. With --margins the policy counts margins as evidence.
"""

import argparse
import resource
import tempfile
import time
from multiprocessing import Process
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from rich.console import Console
from rich.table import Table

from quantgate.components.evidence.decision import decide
from quantgate.components.evidence.saved_answers import read_records
from quantgate.components.models.variants import BASELINE, VARIANTS
from quantgate.components.policies.policy import use_case_named
from quantgate.components.run.artifacts import Model, Scores, TaskScore, Weights

SEED = 20261121
CHOICES, SUBJECTS = 4, 57


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--items", type=int, default=14_042)
    parser.add_argument("--fractional", action="store_true")
    parser.add_argument("--margins", action="store_true")
    arguments = parser.parse_args()
    names = [BASELINE, *(name for name in VARIANTS if name != BASELINE)][: arguments.variants + 1]
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name in names:
            files[name] = Path(folder) / f"{name}.parquet"
            drawing = Process(
                target=write, args=(name, arguments, files[name])
            )  # a process, so that its memory is freed
            drawing.start()
            drawing.join()
        before = peak_mb()
        started = time.perf_counter()
        answers = {name: read_records(file) for name, file in files.items()}
        read_s, started = time.perf_counter() - started, time.perf_counter()
        weights = [Weights(variant=name, baseline_digest="d") for name in names]
        scores = [scores_of(name, answers[name]) for name in names]
        model = Model(source="drawn", digest="d", uri="", size_bytes=0)
        evidence = "margins" if arguments.margins else "answers"
        use_case = use_case_named("general-chat").model_copy(update={"evidence": evidence})
        decision = decide(model, "drawn", use_case, weights, scores, answers)
        decide_s = time.perf_counter() - started
    results = Table("variants", "tasks", "items", "read", "decide", "both", "peak before", "peak")
    counts = (str(len(names) - 1), str(arguments.tasks), f"{arguments.items:,}")
    times = (f"{seconds:.2f} s" for seconds in (read_s, decide_s, read_s + decide_s))
    results.add_row(*counts, *times, f"{before:.0f} MB", f"{peak_mb():.0f} MB")
    console = Console(width=110)
    console.print(results)
    for row in decision.verdicts:
        console.print(f"{row.variant}: {row.verdict}")


def write(variant: str, arguments: argparse.Namespace, file: Path) -> None:
    """Write one variant's records into the file."""
    pyarrow.parquet.write_table(table(variant, arguments), file)


def table(variant: str, arguments: argparse.Namespace) -> pyarrow.Table:
    """One variant's records: the baseline's log-likelihoods with noise, by which a tenth of the answers changes."""
    tables = []
    for task in range(arguments.tasks):
        source = np.random.default_rng([SEED, task])
        own = np.random.default_rng([SEED, task, *variant.encode()])
        redrawn = own.random(arguments.items) < 0.1 * (variant != BASELINE)
        scores = np.where(redrawn, own.random(arguments.items), source.random(arguments.items))
        clean, noise = source.normal(-40, 3, (arguments.items, CHOICES)), own.normal(0, 0.5, (arguments.items, CHOICES))
        best = clean.argmax(axis=1)
        right = np.where(source.random(arguments.items) < 0.65, best, (best + 1) % CHOICES)
        logliks = clean + noise * (variant != BASELINE)
        answers = (logliks.argmax(axis=1) == right).astype(float)
        offsets = np.arange(arguments.items + 1, dtype=np.int32) * CHOICES
        hashes = [f"{task:032d}{item:032d}" for item in range(arguments.items)]
        tables.append(
            pyarrow.table(
                {
                    "target": right,
                    "metric": ["acc"] * arguments.items,
                    "choices": [["a", "b", "c", "d"]] * arguments.items,
                    "variant": [variant] * arguments.items,
                    "task": [f"task_{task}"] * arguments.items,
                    "item_id": np.arange(arguments.items),
                    "item_hash": hashes,
                    "prompt_hash": hashes,
                    "score": scores if arguments.fractional else answers,
                    "cluster": [f"subject_{item % SUBJECTS}" for item in range(arguments.items)],
                    "truncated": np.zeros(arguments.items, dtype=bool),
                    "logliks": pyarrow.ListArray.from_arrays(offsets, logliks.ravel()),
                }
            )
        )
    return pyarrow.concat_tables(tables)


def scores_of(variant: str, answers: dict[str, Any]) -> Scores:
    """The scores of these answers."""
    tasks = tuple(
        TaskScore(
            task=task,
            metric="acc",
            score=float(answered.scores.mean()),
            stderr=0.0,
            items=answered.items,
            shots=0,
            chance=0.25,
            version="1",
        )
        for task, answered in answers.items()
    )
    return Scores(variant=variant, suite="drawn", stage="full", tasks=tasks, records="drawn")


def peak_mb() -> float:
    """This process's peak memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
