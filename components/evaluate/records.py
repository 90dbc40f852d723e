"""Per-item records: one row for every item that a variant answered, kept as Parquet.

Columns: variant, task, item_id (the row's position in the benchmark), item_hash (of the row's content), metric, score
(of that item, the unit of the task's metric), target (index of the right choice; -1 where lm-eval does not tell it, as
the choices stand in the prompt), logliks (natural log, per choice), greedy (per choice), prompt_hash (sha256 over the
token ids of every prompt of the item), tokens (their number) and truncated (whether a prompt was cut).
"""

import hashlib
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet


@dataclass(frozen=True)
class Record:
    """What one variant answered to one item."""

    variant: str
    task: str
    item_id: int
    item_hash: str
    metric: str
    score: float
    target: int
    logliks: list[float]
    greedy: list[bool]
    prompt_hash: str
    tokens: int
    truncated: bool


def from_sample(sample: dict[str, Any], variant: str, task: str, metric: str, model: Any) -> Record:
    """The record of one of lm-eval's logged samples of a multiple-choice task; `model` tokenizes as it did."""
    prompts = [model._encode_pair(*(str(each) for each in pair)) for pair in sample_pairs(sample)]
    digest = hashlib.sha256()
    for context, continuation in prompts:
        digest.update(array("q", [len(context), *context, *continuation]).tobytes())
    lengths = [len(context) + len(continuation) for context, continuation in prompts]
    answers = [each[0] if isinstance(each[0], (tuple, list)) else each for each in sample["resps"]]
    return Record(
        variant=variant,
        task=task,
        item_id=int(sample["doc_id"]),
        item_hash=str(sample["doc_hash"]),
        metric=metric,
        score=float(sample[metric]),
        target=int(sample["target"]) if str(sample["target"]).isdecimal() else -1,
        logliks=[float(loglik) for loglik, _ in answers],
        greedy=[str(greedy) == "True" for _, greedy in answers],
        prompt_hash=digest.hexdigest(),
        tokens=sum(lengths),
        truncated=max(lengths) > model.max_length,
    )


def sample_pairs(sample: dict[str, Any]) -> list[tuple[str, str]]:
    """Context and continuation of each request of the item."""
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        return [(each["arg_0"], each["arg_1"]) for each in arguments.values()]
    return [(each[0], each[1]) for each in arguments]


def write(records: list[Record], file: Path) -> None:
    """Write the records to `file` in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    pyarrow.parquet.write_table(table(records), partial)
    partial.replace(file)


def table(records: list[Record]) -> pyarrow.Table:
    """The records as a table, a column a field."""
    return pyarrow.Table.from_pylist([asdict(each) for each in records])


def read(file: Path) -> list[Record]:
    """The records that `write` left in `file`."""
    return [Record(**row) for row in pyarrow.parquet.read_table(file).to_pylist()]
