"""Per-item records: one row for every item that a variant answered, kept as Parquet.

variant, task, metric
cluster, item_id    what the item belongs to (MMLU's subject; empty where it stands alone), and its position there
item_hash           of the row's content
score               of that item, in the metric's unit; of a perplexity task the document's log-likelihood; null while a
                    program is not run
units               words of a perplexity task's document; null elsewhere
target              index of the right choice; -1 where there is none, or lm-eval does not tell it
logliks, greedy     natural log and greediness of each choice
question, choices   the item as a person reads it, without shots, its beginning
answer              the choice that it took, or the generated text; empty where several choices are right
cut                 whether the limit of tokens ended it
program, outcome    what is to be run, of a task of programs, and why it did not pass
prompt_hash         sha256 over the token ids of every prompt of the item
tokens              their number
truncated           whether a prompt was cut to fit the window
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

SCHEMA = pyarrow.schema(
    {
        "variant": pyarrow.string(),
        "task": pyarrow.string(),
        "cluster": pyarrow.string(),
        "item_id": pyarrow.int64(),
        "item_hash": pyarrow.string(),
        "metric": pyarrow.string(),
        "score": pyarrow.float64(),
        "units": pyarrow.float64(),
        "target": pyarrow.int64(),
        "logliks": pyarrow.list_(pyarrow.float64()),
        "greedy": pyarrow.list_(pyarrow.bool_()),
        "question": pyarrow.string(),
        "choices": pyarrow.list_(pyarrow.string()),
        "answer": pyarrow.string(),
        "cut": pyarrow.bool_(),
        "program": pyarrow.string(),
        "outcome": pyarrow.string(),
        "prompt_hash": pyarrow.string(),
        "tokens": pyarrow.int64(),
        "truncated": pyarrow.bool_(),
    }
)


@dataclass(frozen=True)
class Record:
    """What one variant answered to one item; the fields are the columns above."""

    variant: str
    task: str
    item_id: int
    item_hash: str
    metric: str
    score: float | None
    target: int
    logliks: list[float]
    greedy: list[bool]
    prompt_hash: str
    tokens: int
    truncated: bool
    cluster: str = ""
    units: float | None = None
    question: str = ""
    choices: tuple[str, ...] = ()
    answer: str = ""
    cut: bool = False
    program: str = ""
    outcome: str = ""


def write(records: list[Record], file: Path) -> None:
    """Write the records to `file` in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    pyarrow.parquet.write_table(table(records), partial)
    partial.replace(file)


def table(records: list[Record]) -> pyarrow.Table:
    """The records as a table, a column a field."""
    return pyarrow.Table.from_pylist([asdict(each) for each in records], schema=SCHEMA)


def read(file: Path) -> list[Record]:
    """The records that `write` left in `file`."""
    rows = pyarrow.parquet.read_table(file).to_pylist()
    return [Record(**{**row, "choices": tuple(row.get("choices") or ())}) for row in rows]
