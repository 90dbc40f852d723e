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

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet

if TYPE_CHECKING:
    from components.evaluate.endpoint import Endpoint
    from components.evaluate.suites import SuiteTask

ROUNDING = 1e-9
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


def from_sample(
    sample: dict[str, Any], row: "SuiteTask", output_type: str, model: "Endpoint", told: Mapping[str, Any]
) -> Record:
    """The record of one of lm-eval's logged samples; `model` tokenizes as it did, `told` are further fields."""
    kind = {"multiple_choice": of_choices, "generate_until": of_text, "loglikelihood_rolling": of_document}[output_type]
    common = {
        **told,
        "task": row.task,
        "metric": row.metric,
        "item_id": int(sample["doc_id"]),
        "item_hash": str(sample["doc_hash"]),
    }
    return kind(sample, row, model, common)


def of_choices(sample: dict[str, Any], row: "SuiteTask", model: "Endpoint", common: dict[str, Any]) -> Record:
    """Of a task whose choices' log-likelihoods are compared."""
    prompts = [model._encode_pair(*(str(each) for each in pair)) for pair in sample_pairs(sample)]
    lengths = [len(context) + len(continuation) for context, continuation in prompts]
    answers = [each[0] if isinstance(each[0], (tuple, list)) else each for each in sample["resps"]]
    logliks = [float(loglik) for loglik, _ in answers]
    return Record(
        **common,
        score=as_share(float(sample[row.metric])),
        target=int(sample["target"]) if str(sample["target"]).isdecimal() else -1,
        logliks=logliks,
        answer=taken(logliks, common["choices"], row.metric),
        greedy=[str(greedy) == "True" for _, greedy in answers],
        prompt_hash=hash_of([[len(context), *context, *continuation] for context, continuation in prompts]),
        tokens=sum(lengths),
        truncated=max(lengths) > model.max_length,
    )


def taken(logliks: Sequence[float], choices: Sequence[str], metric: str) -> str:
    """The choice that the metric takes for the answer; "" where it takes none, or the choices are not known."""
    if metric not in ("acc", "acc_norm") or len(choices) != len(logliks):
        return ""
    lengths = [len(each) if metric == "acc_norm" else 1 for each in choices]
    return choices[max(range(len(choices)), key=lambda each: logliks[each] / max(lengths[each], 1))]


def of_text(sample: dict[str, Any], row: "SuiteTask", model: "Endpoint", common: dict[str, Any]) -> Record:
    """Of a task whose answer is generated; a program has no score yet."""
    ((context, settings),) = sample_pairs(sample)
    found = model.generated(str(context), settings)
    (taken,) = sample["filtered_resps"]
    program = f"{taken[0] if isinstance(taken, list) else taken}\n{sample['target']}" if row.programs else ""
    return Record(
        **common,
        score=None if row.programs else as_share(float(sample[row.metric])),
        target=-1,
        logliks=[],
        greedy=[],
        answer=str(sample["resps"][0][0]),
        cut=found.cut,
        program=program,
        prompt_hash=hash_of([found.tokens]),
        tokens=len(found.tokens),
        truncated=found.truncated,
    )


def of_document(sample: dict[str, Any], row: "SuiteTask", model: "Endpoint", common: dict[str, Any]) -> Record:
    """Of a task that predicts whole documents; they are read in windows, so that none is cut."""
    loglik, units = sample[row.metric]
    tokens = model.tok_encode(str(sample["target"]))
    return Record(
        **common,
        score=float(loglik),
        units=float(units),
        target=-1,
        logliks=[],
        greedy=[],
        prompt_hash=hash_of([tokens]),
        tokens=len(tokens),
        truncated=False,
    )


def as_share(score: float) -> float:
    """The score, 0 or 1 where only rounding took it beyond, as a sum of normalized probabilities may be."""
    nearest = min(max(score, 0.0), 1.0)
    return nearest if abs(score - nearest) < ROUNDING else score


def hash_of(prompts: Sequence[Sequence[int]]) -> str:
    """sha256 over token ids."""
    digest = hashlib.sha256()
    for each in prompts:
        digest.update(array("q", each).tobytes())
    return digest.hexdigest()


def sample_pairs(sample: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Context and continuation, or generation settings, of each request of the item."""
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
    return pyarrow.Table.from_pylist([asdict(each) for each in records], schema=SCHEMA)


def read(file: Path) -> list[Record]:
    """The records that `write` left in `file`."""
    rows = pyarrow.parquet.read_table(file).to_pylist()
    return [Record(**{**row, "choices": tuple(row.get("choices") or ())}) for row in rows]
