"""A suite's prompts as token ids, prepared once a run: a row for every item, sorted so that neighbours share a prefix.

leaf, position      the task within a group (0 without a group), and the item's position in its split
item_hash           lm-eval's hash of the row
question, choices   the beginning of the item, for a reader, without shots
contexts            the token ids of the item's distinct contexts
requests            for each of lm-eval's requests: its context, and the token ids of the continuation to score
generation          for a text to generate: the other fields of the request, as JSON; empty otherwise; the messages of
                    a chat are one of them, and the context is their text in the chat template
start               where the answer of a model that may think begins, see protocol.py; empty for any other
tokens              the most tokens that one of the requests needs in the model's window, its answer included

The Parquet file has small groups of rows, so that a reader holds only some of the prompts in memory.
Its metadata names the tokenizer and, for each task, the groups of its rows.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute as pc
import pyarrow.parquet
from lm_eval.utils import get_rolling_token_windows, handle_non_serializable, hash_string, make_disjoint_window

from quantgate.components.benchmarks import protocol
from quantgate.components.benchmarks.encoder import Encoder, Ids, generation_request
from quantgate.components.benchmarks.harness import Leaf, Prepared
from quantgate.components.benchmarks.protocol import Chats
from quantgate.components.benchmarks.suites import YES, SuiteTask
from quantgate.components.benchmarks.templates import fitting
from quantgate.components.errors import PrerequisiteError

ITEMS_PER_GROUP = 256
TOKENS_PER_GROUP = 1 << 20
"""The most tokens in a group of rows with several items: as Python's numbers they take about 40 MB."""
TEXTS_SEED = 0
"""lm-eval's own runs seed Python's random numbers with this."""
SHOTS_SEED = 1234
"""The seed of the shots in lm-eval's own runs."""
ROLLING_WINDOW = 2048
"""The window in which a perplexity task's documents are scored, or the server's if smaller: lm-eval's default."""

Item = tuple[int, int]
"""The leaf's number and the item's position in it."""
OnProgress = Callable[[int, str], None]
"""Takes the number of items prepared so far, and the task's name."""

SCHEMA = pyarrow.schema(
    {
        "leaf": pyarrow.int32(),
        "position": pyarrow.int32(),
        "item_hash": pyarrow.string(),
        "question": pyarrow.string(),
        "choices": pyarrow.list_(pyarrow.string()),
        "contexts": pyarrow.list_(pyarrow.list_(pyarrow.int32())),
        "requests": pyarrow.list_(
            pyarrow.struct({"context": pyarrow.int32(), "continuation": pyarrow.list_(pyarrow.int32())})
        ),
        "generation": pyarrow.string(),
        "start": pyarrow.string(),
        "tokens": pyarrow.int32(),
    }
)


@dataclass(frozen=True)
class ItemPrompts:
    """One item's prompts; the fields are the columns above."""

    leaf: int
    position: int
    item_hash: str
    question: str
    choices: tuple[str, ...]
    contexts: tuple[Ids, ...]
    requests: tuple[tuple[int, Ids], ...]
    """Pairs: the number of the context, and the continuation."""
    generation: str
    start: str
    tokens: int

    @property
    def item(self) -> Item:
        """Leaf and position."""
        return self.leaf, self.position


@dataclass(frozen=True)
class Preparation:
    """How prompts are prepared: the model's tokenizer and window, and whether its chat template wraps them."""

    encoder: Encoder
    window: int
    """The most tokens of a prompt and its answer that the server can read."""
    chat_template: bool = False


@dataclass(frozen=True)
class PromptFile:
    """A file that `write` wrote."""

    path: Path

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The tokenizer's digest, and for each task the first group of its rows and their number."""
        metadata = pyarrow.parquet.read_metadata(self.path).metadata
        return {name: json.loads(metadata[name.encode()]) for name in ("groups", "tokenizer")}

    @property
    def tokenizer(self) -> str:
        """The digest of the tokenizer that gave the token ids."""
        return str(self.metadata["tokenizer"])

    def groups(self, task: str) -> range:
        """The numbers of the groups with the task's rows."""
        first, count = self.metadata["groups"][task]
        return range(first, first + count)

    @cached_property
    def needed(self) -> dict[str, dict[Item, int]]:
        """For each task, the tokens that each of its items needs in the window, its answer included."""
        columns = ["leaf", "position", "tokens"]
        needed = {}
        with pyarrow.parquet.ParquetFile(self.path) as file:
            for task in self.metadata["groups"]:
                rows = file.read_row_groups(list(self.groups(task)), columns=columns).to_pydict()
                needed[task] = {(leaf, position): tokens for leaf, position, tokens in zip(*rows.values(), strict=True)}
        return needed

    def blocks(self, task: str, items: Set[Item]) -> Iterator[list[ItemPrompts]]:
        """The prompts of the task's items, some hundred items at a time, in the order in which to send them."""
        wanted = pyarrow.array([place(*item) for item in items], pyarrow.int64())
        with pyarrow.parquet.ParquetFile(self.path) as file:
            for group in self.groups(task):
                rows = file.read_row_group(group)
                places = place(pc.cast(rows["leaf"], pyarrow.int64()), pc.cast(rows["position"], pyarrow.int64()))
                rows = rows.filter(pc.is_in(places, wanted))
                if len(rows):
                    yield [item_prompts(row) for row in rows.to_pylist()]


def place(leaf: Any, position: Any) -> Any:
    """One number for leaf and position, of integers or of columns."""
    if isinstance(leaf, int):
        return (leaf << 32) + position
    return pc.add(pc.shift_left(leaf, 32), position)


def item_prompts(row: dict[str, Any]) -> ItemPrompts:
    """The value of a row."""
    requests = tuple((request["context"], request["continuation"]) for request in row["requests"])
    return ItemPrompts(
        **row | {"choices": tuple(row["choices"]), "contexts": tuple(row["contexts"]), "requests": requests}
    )


def write(
    tasks: Mapping[str, tuple[Prepared, Set[Item]]], preparation: Preparation, file: Path, on_progress: OnProgress
) -> None:
    """Write the prompts of each task's items to `file`, in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    groups: dict[str, tuple[int, int]] = {}
    done = first = 0
    with pyarrow.parquet.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
        for name, (task, items) in tasks.items():
            tables = []
            for table in tables_of(task, items, preparation):
                tables.append(table)
                done += len(table)
                on_progress(done, name)
            rows = sorted_by_context(pyarrow.concat_tables([SCHEMA.empty_table(), *tables]))
            sizes = group_sizes(tokens_in(rows))
            groups[name] = first, len(sizes)
            first += len(sizes)
            start = 0
            for size in sizes:
                writer.write_table(rows.slice(start, size), row_group_size=size)
                start += size
        writer.add_key_value_metadata(
            {"groups": json.dumps(groups), "tokenizer": json.dumps(preparation.encoder.digest)}
        )
    partial.replace(file)


def tokens_in(rows: pyarrow.Table) -> list[int]:
    """The number of token ids in each row."""
    return [
        sum(map(len, contexts)) + sum(len(request["continuation"]) for request in requests)
        for contexts, requests in zip(rows["contexts"], rows["requests"], strict=True)
    ]


def group_sizes(tokens: Sequence[int]) -> list[int]:
    """The number of rows in each group, for rows of so many tokens: at most ITEMS_PER_GROUP and TOKENS_PER_GROUP."""
    sizes: list[int] = []
    in_group = 0
    for count in tokens:
        if not sizes or sizes[-1] == ITEMS_PER_GROUP or in_group + count > TOKENS_PER_GROUP:
            sizes.append(0)
            in_group = 0
        sizes[-1] += 1
        in_group += count
    return sizes


def sorted_by_context(rows: pyarrow.Table) -> pyarrow.Table:
    """The rows sorted by the token ids of their first context."""
    keys = [np.array(contexts[0].values, ">u4").tobytes() for contexts in rows["contexts"]]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return rows.take(pyarrow.array(order, pyarrow.int64()))


def tables_of(task: Prepared, items: Set[Item], preparation: Preparation) -> Iterator[pyarrow.Table]:
    """The rows of one task's items, some hundred at a time, in lm-eval's order."""
    random.seed(TEXTS_SEED)
    for number, leaf in enumerate(task.leaves):
        leaf.task.pick([position for leaf_number, position in items if leaf_number == number])
        if not leaf.task.items:
            continue
        as_chat = task.row.chat == YES and leaf.task.OUTPUT_TYPE == "generate_until"
        chats = Chats(preparation.encoder, task.row) if as_chat else None
        requests = lm_eval_requests(leaf, preparation, chats)
        for first in range(0, len(requests), ITEMS_PER_GROUP):
            chunk = requests[first : first + ITEMS_PER_GROUP]
            ids = encoded(chunk, preparation, as_chats=as_chat)
            rows = [
                row_of(leaf, item[0], pairs, *generation_of(task.row, item[0], chats))
                for item, pairs in zip(chunk, ids, strict=True)
            ]
            yield pyarrow.Table.from_pylist([{**row, "leaf": number} for row in rows], schema=SCHEMA)


def lm_eval_requests(leaf: Leaf, preparation: Preparation, chats: Chats | None = None) -> list[list[Any]]:
    """lm-eval's requests for the items that the task has picked, a list for each item.

    Raises PrerequisiteError for an item that does not fit the task's templates.
    """
    leaf.task.set_fewshot_seed(SHOTS_SEED)
    template = chats or (preparation.encoder.apply_chat_template if preparation.chat_template else None)
    with fitting(leaf.name):
        leaf.task.build_all_requests(
            apply_chat_template=template is not None,
            fewshot_as_multiturn=template is not None,
            chat_template=template,
        )
    return [list(group) for _, group in groupby(leaf.task.instances, key=lambda request: request.doc_id)]


def generation_of(row: SuiteTask, request: Any, chats: Chats | None) -> tuple[dict[str, Any], str]:
    """The fields of the request for a text to generate, and where its answer begins; both empty for other items."""
    if request.request_type != "generate_until":
        return {}, ""
    prompt, settings = request.args
    fields = protocol.request(generation_request(settings), row)
    return (fields | chats.fields(prompt), chats.start(prompt)) if chats else (fields, "")


Encoded = list[tuple[Ids, Ids]]
"""For each request of an item: its context and its continuation."""


def encoded(items: list[list[Any]], preparation: Preparation, *, as_chats: bool = False) -> list[Encoded]:
    """The token ids of the items' requests; a text to generate has no continuation, a document one for each window.

    A chat has no other special tokens than those in its template, as on vLLM.
    """
    encoder, kind = preparation.encoder, items[0][0].request_type
    if kind == "loglikelihood":
        pairs = iter(encoder.encode_pairs([request.args for item in items for request in item]))
        return [[next(pairs) for _ in item] for item in items]
    prompts = [item[0].args[0] for item in items]
    texts = encoder.batches(prompts) if as_chats else encoder.encode(prompts)
    if kind == "generate_until":
        return [[(text, [])] for text in texts]
    return [windows_of(text, encoder.prefix_token, min(ROLLING_WINDOW, preparation.window)) for text in texts]


def windows_of(document: Ids, prefix_token: int, window: int) -> Encoded:
    """lm-eval's windows over a document: together their continuations are the document, each token once.

    As in lm-eval's client, a window leaves room for the first token's context and for one generated token.
    """
    rolling = get_rolling_token_windows(
        token_list=document, prefix_token=prefix_token, max_seq_len=window - 2, context_len=1
    )
    return [make_disjoint_window(pair) for pair in rolling]


def row_of(
    leaf: Leaf, request: Any, ids: Encoded, generation: Mapping[str, Any] = MappingProxyType({}), start: str = ""
) -> dict[str, Any]:
    """The row of one item, without its leaf's number; `request` is lm-eval's first one for the item.

    `generation` and `start` are those of `generation_of`. Raises PrerequisiteError for an item that cannot be scored:
    without a prompt, no token predicts the first one of its answer; without tokens, an answer has no probability.
    """
    if not ids or not all(context for context, _ in ids):
        raise PrerequisiteError(
            f"Item {request.doc_id} of {leaf.name} has only white space before its answer, so the answer has no score."
            " Correct the row, or leave the task out."
        )
    if request.request_type != "generate_until" and (empty := [n for n, (_, answer) in enumerate(ids) if not answer]):
        raise PrerequisiteError(
            f"Item {request.doc_id} of {leaf.name}: the tokenizer has no tokens of its own for answer {empty[0] + 1} of"
            f" {len(ids)} after the prompt, so the answer has no score. Correct the row, or leave the task out."
        )
    question, choices = leaf.shown(request.doc)
    contexts = list({tuple(context): context for context, _ in ids}.values())
    longest = max(len(context) + len(continuation) for context, continuation in ids)
    return {
        "position": request.doc_id,
        "item_hash": hash_string(
            json.dumps(request.doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
        ),
        "question": question,
        "choices": choices,
        "contexts": contexts,
        "requests": [
            {"context": contexts.index(context), "continuation": continuation} for context, continuation in ids
        ],
        "generation": json.dumps(generation, sort_keys=True) if generation else "",
        "start": start,
        "tokens": longest + generation.get("max_tokens", 1),  # a scored prompt needs room for one generated token
    }
