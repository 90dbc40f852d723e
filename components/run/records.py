"""Per-item records: one row for every answer of a variant to an item, kept as Parquet.

variant, task, metric
cluster, item_id    the item's group (e.g. MMLU's subject; empty for an independent item), and its position there
item_hash           hash of the row's content
sample              number of the answer, from 0, when a generated item is asked several times
score               the item's score, in the metric's unit; for a perplexity task the document's log-likelihood; null
                    until its program is run
units               words of a perplexity task's document; null for other tasks
target              index of the right choice; -1 without one, or when lm-eval does not name it
logliks, greedy     natural log-likelihood of each choice, and whether greedy decoding gives it
question, choices   the beginning of the item, for a reader, without shots
answer              the variant's choice, or the generated text without thinking; empty when several choices are right
cut                 whether the token limit cut the answer
answer_tokens       tokens that the model generated, thinking included; null when unknown or nothing was generated
thinking_tokens     those of them that are thinking, which is stripped before scoring; null like answer_tokens
answer_limit        the most tokens that the answer could have; null when unknown or nothing was generated
program, tests      for a task of programs: what the model wrote, and the benchmark's tests of it
outcome             why the program did not pass
prompt_hash         sha256 over the token ids of all prompts of the item
tokens              number of these token ids
truncated           whether a prompt was cut to fit the context window
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from quantgate.components.errors import PrerequisiteError

SCHEMA = pyarrow.schema(
    {
        "variant": pyarrow.string(),
        "task": pyarrow.string(),
        "cluster": pyarrow.string(),
        "item_id": pyarrow.int64(),
        "item_hash": pyarrow.string(),
        "sample": pyarrow.int64(),
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
        "answer_tokens": pyarrow.int64(),
        "thinking_tokens": pyarrow.int64(),
        "answer_limit": pyarrow.int64(),
        "program": pyarrow.string(),
        "tests": pyarrow.string(),
        "outcome": pyarrow.string(),
        "prompt_hash": pyarrow.string(),
        "tokens": pyarrow.int64(),
        "truncated": pyarrow.bool_(),
    }
)


@dataclass(frozen=True)
class Record:
    """One answer of one variant to one item; the fields are the columns above."""

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
    sample: int = 0
    units: float | None = None
    question: str = ""
    choices: tuple[str, ...] = ()
    answer: str = ""
    cut: bool = False
    answer_tokens: int | None = None
    thinking_tokens: int | None = None
    answer_limit: int | None = None
    program: str = ""
    tests: str = ""
    outcome: str = ""


def write(records: list[Record], file: Path) -> None:
    """Write the records to `file` in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    pyarrow.parquet.write_table(table(records), partial)
    partial.replace(file)


def table(records: list[Record]) -> pyarrow.Table:
    """The records as a table with one column per field."""
    columns = {field.name: [getattr(record, field.name) for record in records] for field in SCHEMA}
    return pyarrow.Table.from_pydict(columns, schema=SCHEMA)


def read(file: Path) -> list[Record]:
    """The records that `write` wrote to `file`; a column that an earlier version did not write has its default.

    Raises PrerequisiteError when the file is damaged, or a column has another type.
    """
    try:
        table = pyarrow.parquet.read_table(file)
        columns = {name: typed(table, name, SCHEMA.field(name).type) for name in table.column_names}
        return [
            Record(**{**row, "choices": tuple(row.get("choices") or ())}) for row in pyarrow.table(columns).to_pylist()
        ]
    except (pyarrow.ArrowException, KeyError, TypeError) as error:
        raise PrerequisiteError(f"{file} is not a readable file of per-item records: {error}") from error


def typed(table: pyarrow.Table, name: str, kind: pyarrow.DataType) -> pyarrow.ChunkedArray:
    """The column in this type; raises ArrowInvalid for text in place of numbers, which a cast would parse."""
    inner, wanted = (part.value_type if pyarrow.types.is_list(part) else part for part in (table[name].type, kind))
    text = pyarrow.types.is_string(inner) or pyarrow.types.is_large_string(inner)
    if text and not pyarrow.types.is_string(wanted):
        raise pyarrow.ArrowInvalid(f"column {name} holds text in place of numbers")
    return table[name].cast(kind)
