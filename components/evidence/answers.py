"""What one model answered to one task's items, as the gate compares it, and whether two of them may be paired at all.

An `Answers` holds a table with a row an item, sorted by `id`:

    id (with its cluster where there is one), item_hash (of its content), prompt_hash (of every token or character
    sent), score (0 to 1; of a perplexity task the log-likelihood), cluster, truncated, logliks (of the choices; may
    be empty), units (words or bytes of a perplexity task's document; missing elsewhere)
"""

from dataclasses import dataclass

import numpy as np
import pyarrow
import pyarrow.compute as pc
from numpy.typing import NDArray

SHOWN = 3
"""How many offending items are named."""


@dataclass(frozen=True)
class Answers:
    """One task's items, a row each."""

    task: str
    table: pyarrow.Table

    @property
    def items(self) -> int:
        """How many there are."""
        return int(self.table.num_rows)

    @property
    def scores(self) -> NDArray[np.float64]:
        """The items' scores (n,)."""
        return np.asarray(self.table["score"].to_numpy(), dtype=np.float64)

    @property
    def clusters(self) -> NDArray[np.int64] | None:
        """A number for each item's cluster (n,), one of its own for an item without; None where none has one."""
        encoded = self.table["cluster"].combine_chunks().dictionary_encode()
        if len(encoded.dictionary) < 2:
            return None
        names, numbers = encoded.dictionary.to_pylist(), np.asarray(encoded.indices.to_numpy())
        alone = numbers == names.index("") if "" in names else np.zeros(self.items, bool)
        return np.where(alone, len(names) + np.arange(self.items), numbers)

    @property
    def units(self) -> NDArray[np.float64] | None:
        """The words or bytes of a perplexity task's documents (n,); None for a task with scores."""
        return np.asarray(self.table["units"].to_numpy()) if "units" in self.table.column_names else None

    def logliks(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The choices' log-likelihoods one after the other, and how many each item has (n,)."""
        column = self.table["logliks"].combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float64), lengths

    def only(self, ids: pyarrow.ChunkedArray) -> "Answers":
        """The items with these ids."""
        if self.table["id"].equals(ids):
            return self
        return Answers(self.task, self.table.filter(pc.is_in(self.table["id"], ids)))


def answers(task: str, table: pyarrow.Table) -> Answers:
    """The Answers of a table with the columns of per-item records (components/run/records.py), in any order.

    `item_id` is a number or a text; a `cluster` column may be missing.
    """
    identity = pc.cast(table["item_id"], pyarrow.string())
    if "cluster" in table.column_names:
        cluster = pc.fill_null(table["cluster"], "")
        identity = pc.if_else(pc.equal(cluster, ""), identity, pc.binary_join_element_wise(cluster, identity, " item "))
    else:
        cluster = pyarrow.array([""] * table.num_rows, pyarrow.string())
    columns = {"id": identity, "cluster": cluster}
    columns |= {name: table[name] for name in ("item_hash", "prompt_hash", "score", "truncated", "logliks")}
    if "units" in table.column_names and not pc.all(pc.is_null(table["units"])).as_py():
        columns["units"] = table["units"]
    found = pyarrow.table(columns)
    return Answers(task, found.take(pc.sort_indices(found["id"])).combine_chunks())


def fault(found: Answers) -> str:
    """Why these are no answers that anything can be computed from; empty when they are."""
    if not found.items:
        return f"{found.task} has no items"
    for column in ("id", "item_hash", "prompt_hash", "score", "truncated"):
        if found.table[column].null_count:
            return f"{found.task} has items without {column}"
    ids = found.table["id"]
    if pc.count_distinct(ids).as_py() < found.items:
        twice = pc.filter(ids[1:], pc.equal(ids[1:], ids[:-1]))
        return f"{found.task} has duplicate items: {_named(twice)}"
    bad = ~np.isfinite(found.scores)
    if found.units is None:
        bad |= (found.scores < 0) | (found.scores > 1)
    if bad.any():
        return f"{found.task} has scores outside 0 to 1: {_named(ids.filter(pyarrow.array(bad)))}"
    return ""


def first_difference(baseline: Answers, variant: Answers, *, partly: bool = False) -> str:
    """The first thing that keeps the answers from being paired, with its first items; empty when nothing does.

    `partly` allows a variant that was not asked everything, as it was stopped early.
    """
    task, ours, theirs = variant.task, variant.table["id"], baseline.table["id"]
    extra, missing = ours.filter(pc.invert(pc.is_in(ours, theirs))), theirs.filter(pc.invert(pc.is_in(theirs, ours)))
    if len(extra):
        return f"on {task} it answered items that the baseline did not: {_named(extra)}"
    if len(missing) and not partly:
        return f"on {task} it did not answer items that the baseline did: {_named(missing)}"
    paired = baseline.only(ours) if partly else baseline
    for column, what in (
        ("item_hash", "its items have other content than the baseline's"),
        ("prompt_hash", "its prompts have other tokens than the baseline's"),
    ):
        differing = ours.filter(pc.not_equal(variant.table[column], paired.table[column]))
        if len(differing):
            return f"on {task} {what}: {_named(differing)}"
    for whose, each in (("its", variant), ("the baseline's", paired)):
        cut = each.table["id"].filter(each.table["truncated"])
        if len(cut):
            return f"on {task} {whose} prompts were truncated: {_named(cut)}"
    return ""


def _named(ids: pyarrow.ChunkedArray) -> str:
    """`items 3, 17, 40 (12 in all)`."""
    shown = ", ".join(str(each) for each in ids[:SHOWN].to_pylist())
    return f"{shown} ({len(ids)} in all)" if len(ids) > SHOWN else shown
