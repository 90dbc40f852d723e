"""Read a variant's scores and answers from a run's results."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence import choice_margins
from quantgate.components.evidence.answers import Answers, answers
from quantgate.components.evidence.candidate import Candidate, candidate
from quantgate.components.run.artifacts import Scores, Weights
from quantgate.components.run.records import typed
from quantgate.components.run.results import AGAIN, FULL, TINY, RunResults, VariantResults

RECORDS = {
    "task": pyarrow.string(),
    "item_id": pyarrow.int64(),
    "item_hash": pyarrow.string(),
    "prompt_hash": pyarrow.string(),
    "score": pyarrow.float64(),
    "cluster": pyarrow.string(),
    "truncated": pyarrow.bool_(),
    "logliks": pyarrow.list_(pyarrow.float64()),
    "units": pyarrow.float64(),
    "sample": pyarrow.int64(),
    "cut": pyarrow.bool_(),
    "answer_tokens": pyarrow.int64(),
    "answer_limit": pyarrow.int64(),
    "metric": pyarrow.string(),
    "target": pyarrow.int64(),
    "choices": pyarrow.list_(pyarrow.string()),
}
"""The columns of per-item records that the gate reads."""


def read_ours(folder: Path) -> Candidate:
    """A variant's folder of a run."""
    here = VariantResults(str(folder))
    stage = FULL if here.scores(FULL).path.exists() else TINY
    try:
        scores = Scores.read(here.scores(stage).path)
        weights = here.weights.read(Weights) or Weights(variant=scores.variant, baseline_digest="")
    except (ValidationError, UnicodeDecodeError, OSError) as error:
        raise PrerequisiteError(f"{folder} contains results that this version cannot read: {error}") from error
    if scores.failure:
        return candidate(weights, scores, scores.suite)
    records = here.records(scores.stage).path
    if not records.exists():
        raise PrerequisiteError(
            f"{records} is missing: the gate compares item by item. Copy it beside {here.scores(stage).name}."
        )
    again = here.records(AGAIN).path
    return candidate(
        weights,
        scores,
        scores.suite,
        answers=read_records(records),
        again=read_records(again) if scores.again and again.exists() else {},
    )


def saved_candidate(variant: str, results: str, scratch: Path) -> Candidate | None:
    """A variant of a run, with its answers copied to the folder `scratch`; None before its last stage has ended."""
    saved, local = RunResults(results).variant(variant), VariantResults(str(scratch))
    if not saved.weights.get(local.weights.path) or not saved.scores(FULL).get(local.scores(FULL).path):
        return None
    scores = Scores.read(local.scores(FULL).path)
    if not scores.failure and not saved.records(scores.stage).get(local.records(scores.stage).path):
        return None
    saved.records(AGAIN).get(local.records(AGAIN).path)  # only a run with a noise floor has this file
    return read_ours(scratch)


def read_records(file: Path) -> dict[str, Answers]:
    """Each task's answers in a Parquet file of per-item records; raises PrerequisiteError when it is damaged."""
    try:
        table = pyarrow.parquet.read_table(file)
        columns = {name: typed(table, name, kind) for name, kind in RECORDS.items() if name in table.column_names}
        return by_task(pyarrow.table(columns))
    except (pyarrow.ArrowException, KeyError, OSError) as error:
        raise PrerequisiteError(f"{file} is not a readable file of per-item records: {error}") from error


def by_task(records: pyarrow.Table) -> dict[str, Answers]:
    """Each task's answers in a table of per-item records."""
    if set(choice_margins.COLUMNS) <= set(records.column_names):
        records = records.append_column("margin", choice_margins.margins(records)).drop_columns(["choices"])
    tasks = records["task"].combine_chunks().dictionary_encode()
    codes = tasks.indices.to_numpy()
    return {
        str(task): answers(str(task), records.take(pyarrow.array(np.flatnonzero(codes == code))))
        for code, task in enumerate(tasks.dictionary.to_pylist())
    }
