"""One model's answers to one task's items, and the checks before two models' answers are paired.

An `Answers` holds a table with one row per item, sorted by `id`:

    id (with its cluster where there is one), item_hash (of its content), prompt_hash (of every token or character
    sent), score (0 to 1; of a perplexity task the log-likelihood), cluster, truncated, logliks (of the choices; may
    be empty), margin (of the right choice, see choice_margins; missing without choices), samples (how often it was
    asked), units (words or bytes of a perplexity task's document; missing elsewhere), and of generated answers cut
    (the share that the token limit cut), answer_tokens and answer_limit (missing where the records lack them)

An item that was asked several times is one row, with the mean of its samples. So its samples never count as
independent: the bounds are as wide as for one fractional score an item, and the samples of one seed are paired, because
the mean of the differences is the difference of the means.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow
import pyarrow.compute as pc
from numpy.typing import NDArray

OPTIONAL = ("sample", "units", "cut", "answer_tokens", "answer_limit", "margin")
"""Columns of records that not every task has."""
AVERAGED = ("score", "cut", "answer_tokens", "answer_limit")
"""The columns of which an item that was asked several times has the mean."""
SMALLEST = {"units": 0.0, "answer_tokens": 0.0, "answer_limit": 0.0}
"""The smallest possible values of the optional columns that limits read."""
ROUNDING = 1e-6
"""How far float arithmetic may lift the log-likelihood of a certain choice above 0."""
SHOWN = 3
"""How many items an error message lists."""


@dataclass(frozen=True)
class Answers:
    """One model's answers to one task's items, one row per item."""

    task: str
    table: pyarrow.Table
    sampled: bool = True
    """Whether the clusters are a sample of clusters; if they are the whole population, the items are independent."""

    @property
    def items(self) -> int:
        """The number of items."""
        return int(self.table.num_rows)

    @property
    def scores(self) -> NDArray[np.float64]:
        """The items' scores (n,)."""
        return np.asarray(self.table["score"].to_numpy(), dtype=np.float64)

    @property
    def clusters(self) -> NDArray[np.int64] | None:
        """A number for each item's cluster (n,), unique for an item without cluster.

        None if there are no clusters, or if they are not a sample.
        """
        if not self.sampled:
            return None
        encoded = self.table["cluster"].combine_chunks().dictionary_encode()
        if len(encoded.dictionary) < 2:
            return None
        names, numbers = encoded.dictionary.to_pylist(), np.asarray(encoded.indices.to_numpy())
        alone = numbers == names.index("") if "" in names else np.zeros(self.items, bool)
        return np.where(alone, len(names) + np.arange(self.items), numbers)

    def places_by_cluster(self) -> dict[str, NDArray[np.int64]]:
        """The places of each cluster's items in the table; items without cluster are left out."""
        encoded = self.table["cluster"].combine_chunks().dictionary_encode()
        numbers = np.asarray(encoded.indices.to_numpy())
        places = {
            str(name): np.flatnonzero(numbers == number) for number, name in enumerate(encoded.dictionary.to_pylist())
        }
        places.pop("", None)
        return places

    @property
    def units(self) -> NDArray[np.float64] | None:
        """The words or bytes of a perplexity task's documents (n,); None for a task with scores."""
        return self.numbers("units")

    def numbers(self, column: str) -> NDArray[np.float64] | None:
        """The numbers in an optional column (n,); None if this task does not have it, or not for every item."""
        if column not in self.table.column_names or self.table[column].null_count:
            return None
        return np.asarray(self.table[column].to_numpy(), dtype=np.float64)

    def logliks(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The choices' log-likelihoods of all items, concatenated, and the number of choices per item (n,)."""
        column = self.table["logliks"].combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float64), lengths

    def only(self, ids: pyarrow.ChunkedArray) -> "Answers":
        """The items with these ids."""
        if self.table["id"].equals(ids):
            return self
        return replace(self, table=self.table.filter(pc.is_in(self.table["id"], ids)))


def answers(task: str, table: pyarrow.Table) -> Answers:
    """The Answers of a table with the columns of per-item records (components/run/records.py), in any order.

    `item_id` is a number or a text; the columns `cluster` and `sample`, and those of generated answers, may be missing.
    """
    identity = pc.cast(table["item_id"], pyarrow.string())
    if "cluster" in table.column_names:
        cluster = pc.fill_null(table["cluster"], "")
        identity = pc.if_else(pc.equal(cluster, ""), identity, pc.binary_join_element_wise(cluster, identity, " item "))
    else:
        cluster = pyarrow.array([""] * table.num_rows, pyarrow.string())
    columns = {"id": identity, "cluster": cluster}
    columns |= {name: table[name] for name in ("item_hash", "prompt_hash", "score", "truncated", "logliks")}
    for name in OPTIONAL:
        if name in table.column_names and not pc.all(pc.is_null(table[name])).as_py():
            columns[name] = table[name]
    one_row_an_item = _mean_of_samples(pyarrow.table(columns))
    return Answers(task, one_row_an_item.take(pc.sort_indices(one_row_an_item["id"])).combine_chunks())


def _mean_of_samples(rows: pyarrow.Table) -> pyarrow.Table:
    """A row for each item, with the mean of its samples.

    A sample with another prompt or content stays a row of its own, and so do all rows if one is there twice: `fault`
    then reports the duplicate item.
    """
    once = rows.append_column("samples", pyarrow.array(np.ones(rows.num_rows, np.int64)))
    if "sample" not in rows.column_names or not pc.max(rows["sample"]).as_py():
        return once
    if rows.group_by(["id", "sample"]).aggregate([]).num_rows < rows.num_rows:
        return once
    keys = ["id", "cluster", "item_hash", "prompt_hash"]
    averaged = [name for name in AVERAGED if name in rows.column_names]
    strict = pc.ScalarAggregateOptions(skip_nulls=False)
    items = rows.group_by(keys).aggregate(
        [("truncated", "any"), ("sample", "count"), *((name, "mean", strict) for name in averaged)]
    )
    columns = {name: items[name] for name in keys} | {name: items[f"{name}_mean"] for name in averaged}
    columns["logliks"] = pyarrow.nulls(items.num_rows, pyarrow.list_(pyarrow.float64()))
    return pyarrow.table(columns | {"truncated": items["truncated_any"], "samples": items["sample_count"]})


def fault(answers: Answers) -> str:
    """Why these answers are invalid; empty if they are valid."""
    if not answers.items:
        return f"{answers.task} has no items"
    for column in ("id", "item_hash", "prompt_hash", "score", "truncated"):
        if answers.table[column].null_count:
            return f"{answers.task} has items without {column}"
    ids = answers.table["id"]
    if pc.count_distinct(ids).as_py() < answers.items:
        twice = pc.filter(ids[1:], pc.equal(ids[1:], ids[:-1]))
        return f"{answers.task} has duplicate items: {list_ids(twice)}"
    if len(counts := pc.unique(answers.table["samples"])) > 1:
        return f"{answers.task} has items with {' and '.join(map(str, sorted(counts.to_pylist())[:2]))} samples"
    invalid = ~np.isfinite(answers.scores)
    if answers.units is None:
        invalid |= (answers.scores < 0) | (answers.scores > 1)
    if invalid.any():
        return f"{answers.task} has scores outside 0 to 1: {list_ids(ids.filter(pyarrow.array(invalid)))}"
    return _number_fault(answers)


def _number_fault(answers: Answers) -> str:
    """Which number beside the score is impossible; empty if none is. Log-likelihoods are at most 0."""
    ids = answers.table["id"]
    values, lengths = answers.logliks()
    bad_values = ~(np.isfinite(values) & (values <= ROUNDING))
    bad_items = np.zeros(answers.items, bool)
    bad_items[np.repeat(np.arange(answers.items), lengths)[bad_values]] = True
    if answers.units is not None:
        bad_items |= answers.scores > ROUNDING
    if bad_items.any():
        listed = list_ids(ids.filter(pyarrow.array(bad_items)))
        return f"{answers.task} has log-likelihoods that are not finite or above 0: {listed}"
    for column, least in SMALLEST.items():
        if column not in answers.table.column_names:
            continue
        numbers = np.asarray(answers.table[column].drop_null().cast(pyarrow.float64()).to_numpy())
        if not (np.isfinite(numbers) & (numbers >= least)).all():
            return f"{answers.task} has items whose {column} is not finite or below {least}"
    return ""


def first_difference(baseline: Answers, variant: Answers, *, partly: bool = False) -> str:
    """The first reason why the answers cannot be paired, with its first items; empty if they can.

    `partly` allows missing items: the variant stopped early.
    """
    task, variant_ids, baseline_ids = variant.task, variant.table["id"], baseline.table["id"]
    additional, missing = (
        variant_ids.filter(pc.invert(pc.is_in(variant_ids, baseline_ids))),
        baseline_ids.filter(pc.invert(pc.is_in(baseline_ids, variant_ids))),
    )
    if len(additional):
        return f"on {task} it answered items that the baseline did not: {list_ids(additional)}"
    if len(missing) and not partly:
        return f"on {task} it did not answer items that the baseline did: {list_ids(missing)}"
    paired = baseline.only(variant_ids) if partly else baseline
    for column, difference in (
        ("item_hash", "its items have other content than the baseline's"),
        ("prompt_hash", "its prompts have other tokens than the baseline's"),
        ("samples", "its items were asked another number of times than the baseline's"),
    ):
        differing = variant_ids.filter(pc.not_equal(variant.table[column], paired.table[column]))
        if len(differing):
            return f"on {task} {difference}: {list_ids(differing)}"
    for owner, answers in (("its", variant), ("the baseline's", paired)):
        truncated = answers.table["id"].filter(answers.table["truncated"])
        if len(truncated):
            return f"on {task} {owner} prompts were truncated: {list_ids(truncated)}"
    return ""


def list_ids(ids: pyarrow.ChunkedArray) -> str:
    """`items 3, 17, 40 (12 in all)`."""
    shown = ", ".join(str(item) for item in ids[:SHOWN].to_pylist())
    return f"{shown} ({len(ids)} in all)" if len(ids) > SHOWN else shown
