"""Prepare a suite's task for lm-eval: its own task definition, prompts and metrics, with our rows and item order."""

import contextlib
import hashlib
import io
import logging
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import datasets
from jinja2 import TemplateError
from lm_eval.api.task import ConfigurableTask

from quantgate.components.benchmarks import custom, ifeval, protocol, ruler, tasks
from quantgate.components.benchmarks.seeding import seeded
from quantgate.components.benchmarks.splits import Rows, Source, Split
from quantgate.components.benchmarks.suites import TINY, SuiteTask
from quantgate.components.benchmarks.templates import use_sandbox
from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.artifacts import RowsOrigin
from quantgate.components.run.prompt_settings import PromptSettings

ORDER_SEED = 20260101
SHOWN = 2000
"""The most characters of a question that a record keeps for readers."""
ROW_BY_ROW = ("hellaswag", "tinyHellaswag")
"""Tasks whose items lm-eval prepares one by one: a few items of them are prepared without the others."""


use_sandbox()


def item_order(rows: int) -> list[int]:
    """The fixed random order of a benchmark's items, for a benchmark of that many rows."""
    order = list(range(rows))
    random.Random(ORDER_SEED).shuffle(order)
    return order


class Unasked(dict[str, Any]):
    """An item that is not in the selection; lm-eval only draws its shots."""


class Picked(ConfigurableTask):  # type: ignore[misc]  # lm-eval is untyped
    """An lm-eval task restricted to some items; each item has the same shots as in a run of all items.

    lm-eval draws the shots of all items in sequence from one random source. Without the draws for the items before it,
    an item would get other shots: its answer in the ledger and its score would not be comparable.
    """

    def __init__(self, config: dict[str, Any], *, draws_shots: bool = True) -> None:
        self.pick(())
        self.building = False
        self.draws_shots = draws_shots
        self.prepared_docs: dict[tuple[int, ...], Any] = {}
        super().__init__(config=config)

    def pick(self, items: Sequence[int]) -> None:
        """Select the items at these positions."""
        self.items = tuple(sorted(items))
        self.selected = frozenset(items)

    @property
    def rows(self) -> datasets.Dataset:
        """The rows of the scored split, unprepared."""
        return self.dataset[self.config.test_split]

    @property
    def eval_docs(self) -> Any:
        """The items as lm-eval prepares them: all items when shots are drawn, otherwise the selected ones."""
        selection = () if self.prepares_all else self.items or (0,)
        if selection not in self.prepared_docs:
            rows = self.rows.select(selection) if selection else self.rows
            with seeded():
                prepared = self.config.process_docs(rows) if self.config.process_docs else rows
            self.prepared_docs = {selection: prepared}
        return self.prepared_docs[selection]

    def doc(self, position: int) -> Any:
        """A selected item as lm-eval prepares it."""
        return self.eval_docs[position if self.prepares_all else bisect_left(self.items, position)]

    @property
    def prepares_all(self) -> bool:
        """Whether all items are prepared at once.

        lm-eval may leave rows out, as those below MATH's hardest level, or draw from one random source for all of them,
        as for the order of GPQA's choices.
        """
        return bool(self.config.num_fewshot or (self.config.process_docs and self.config.task not in ROW_BY_ROW))

    @property
    def item_count(self) -> int:
        """The number of items that lm-eval scores."""
        return len(self.eval_docs if self.prepares_all else self.rows)

    def fewshot_docs(self) -> Any:
        """The items from which shots are drawn; None where none are, since lm-eval would prepare all items for them."""
        if not self.config.num_fewshot or not self.draws_shots:
            return None
        if self.config.fewshot_split == self.config.test_split:
            return self.eval_docs
        with seeded():
            return super().fewshot_docs()

    def doc_iterator(self, **_settings: Any) -> Iterator[tuple[int, Any]]:
        """The selected items with their positions; while requests are built, also the items before them."""
        if not self.prepares_all:
            yield from zip(self.items, self.eval_docs, strict=True)
            return
        if not self.config.num_fewshot:
            yield from ((position, self.eval_docs[position]) for position in self.items)
            return
        for position, doc in enumerate(islice(self.eval_docs, self.items[-1] + 1)):
            if position in self.selected:
                yield position, doc
            elif self.building:
                yield position, Unasked(doc)

    def build_all_requests(self, **settings: Any) -> None:
        """As lm-eval's, but shots are drawn for all items, and there is no progress bar."""
        self.building = True
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                super().build_all_requests(**settings)
        finally:
            self.building = False

    def fewshot_context(self, doc: Any, num_fewshot: int, **settings: Any) -> Any:
        """As lm-eval's; for an item that is not selected, only its shots are drawn."""
        if not isinstance(doc, Unasked):
            return super().fewshot_context(doc, num_fewshot, **settings)
        excluded = doc if self.fewshot_cfg.split == self.config.test_split else None
        return self.sampler.sample(n=num_fewshot, eval_doc=excluded)

    def construct_requests(self, doc: Any, ctx: Any, **settings: Any) -> Any:
        """As lm-eval's; no request for an item that is not selected."""
        return [] if isinstance(doc, Unasked) else super().construct_requests(doc, ctx, **settings)


@dataclass(frozen=True)
class Leaf:
    """One task of a group, or a task without a group."""

    name: str
    cluster: str
    """The cluster of its items, such as one of MMLU's subjects; empty without a group."""
    task: Picked
    origin: RowsOrigin

    @property
    def items(self) -> int:
        """The number of items."""
        return self.task.item_count

    def shown(self, doc: Any) -> tuple[str, tuple[str, ...]]:
        """An item for readers: the question without shots, and its choices."""
        text = self.task.doc_to_text(doc)
        choices = tuple(self.task.doc_to_choice(doc)) if self.task.config.doc_to_choice is not None else ()
        if isinstance(text, int):  # the choices are alternative contexts of one continuation, as in WinoGrande
            text = f"… {self.task.doc_to_target(doc)}"
        return str(text)[:SHOWN], tuple(str(choice)[:SHOWN] for choice in choices)


@dataclass(frozen=True)
class Prepared:
    """A suite's task with its rows, ready to run."""

    row: SuiteTask
    leaves: tuple[Leaf, ...]
    version: str
    settings: PromptSettings
    origin: RowsOrigin

    @property
    def reads_scores(self) -> bool:
        """Whether the task needs log-likelihoods; otherwise it needs generated texts."""
        return any(leaf.task.OUTPUT_TYPE != "generate_until" for leaf in self.leaves)

    def chosen(self, stage: str, share: float = 1.0) -> list[tuple[int, int]]:
        """The items of the stage, or of this share of the full stage: leaf and position of each, ascending.

        A share of the full stage is a random sample, in which an anchor is as likely as any other item: the interim
        looks draw conclusions from it about all items.
        """
        items = [(number, position) for number, leaf in enumerate(self.leaves) for position in range(leaf.items)]
        if stage == TINY and self.row.anchors:
            return sorted(items[index] for index in set(self.row.anchors))
        return sorted(items[index] for index in item_order(len(items))[: self.row.items(stage, share)])


def splits_wanted(row: SuiteTask) -> list[Split]:
    """The splits that the task needs: the one that it scores, and the one from which its shots are drawn."""
    if row.custom:
        return []
    splits = []
    for config in tasks.raw_definitions(row.task, row.own) if not ruler.length_of(row.task) else ():
        splits += [
            split_named(config, scored_split(config)),
            *([split_named(config, pool)] if (pool := shots_split(row, config)) else []),
        ]
    if ifeval.needs_punkt(row.task) or ruler.length_of(row.task):  # RULER's generators load it
        splits.append(ifeval.PUNKT)
    return list(dict.fromkeys(splits))


def scored_split(config: dict[str, Any]) -> str:
    """The name of the split that a task scores."""
    return str(config.get("test_split") or config["validation_split"])


def shots_split(row: SuiteTask, config: dict[str, Any]) -> str:
    """The name of the split from which a task draws its shots; "" for no shots, or shots in the definition itself."""
    if not row.shots or (config.get("fewshot_config") or {}).get("samples"):
        return ""
    return str(config.get("fewshot_split") or config.get("training_split") or scored_split(config))


def split_named(config: dict[str, Any], split: str) -> Split:
    """The split of that name of a task's data set."""
    return Split(str(config["dataset_path"]), str(config.get("dataset_name") or ""), split)


def prepare(row: SuiteTask, source: Source, chat_template: bool = False, *, draws_shots: bool = True) -> Prepared:
    """The task with its rows; raises PrerequisiteError when the source lacks some of the items.

    Without `draws_shots` it scores items whose prompts are known already, and builds none: that spares preparing the
    tens of thousands of rows from which HellaSwag's and WinoGrande's shots are drawn.
    """
    datasets.disable_caching()
    datasets.disable_progress_bars()
    quiet(logging.WARNING, "datasets", "httpx")
    quiet(logging.ERROR, "lm_eval")  # lm-eval warns of every task definition that relies on defaults
    if ifeval.needs_punkt(row.task):
        ifeval.make_ready(source)
    if row.custom:
        leaves = [custom_leaf(row.custom)]
        version, config = f"sha256 {row.custom.digest[:12]}", leaves[0].task.config.to_dict()
    else:
        definitions = tasks.definitions(row.task, row.own)
        grouped = len(definitions) > 1
        leaves = [
            leaf_of(row, definition, source, grouped=grouped, draws_shots=draws_shots) for definition in definitions
        ]
        version, config = tasks.task_version(row.task, row.own), tasks.raw_definitions(row.task, row.own)[0]
    items = sum(leaf.items for leaf in leaves)
    row = row.counted(items)
    if items < row.full:
        raise PrerequisiteError(f"{source.description} has {items} items of {row.task}; {row.full} are needed.")
    if row.anchors and items != row.full:
        raise PrerequisiteError(
            f"{source.description} has {items} items of {row.task}; tinyBenchmarks chose its items from {row.full}."
            " Use the published rows, or test a random sample with --limit."
        )
    origins = sorted({leaf.origin.rows for leaf in leaves})
    origin = leaves[0].origin.model_copy(update={"task": row.task})
    if len(origins) > 1:
        digest = hashlib.sha256("\n".join(origins).encode()).hexdigest()
        where = f"{len(origins)} files of {config['dataset_path']}"
        origin = RowsOrigin(task=row.task, where=where, sha256=digest[:16])
    settings = tasks.prompt_settings(row, config, chat_template)
    if leaves[0].task.OUTPUT_TYPE == "generate_until":
        settings = protocol.stated(settings, row)
    return Prepared(row, tuple(leaves), version, settings, origin)


def leaf_of(row: SuiteTask, definition: dict[str, Any], source: Source, *, grouped: bool, draws_shots: bool) -> Leaf:
    """One task with its rows; shots come from the scored split when the source lacks the split of the shots."""
    name, scored = str(definition["task"]), scored_split(definition)
    split = split_named(definition, scored)
    rows = source.split(split)
    if rows is None:
        raise PrerequisiteError(f"{source.description} has no {split.file}, which {row.task} scores.")
    from_shots = ""
    splits = {scored: rows.dataset}
    config = {
        **definition,
        "num_fewshot": row.shots,
        "test_split": scored,
        "validation_split": None,
        "training_split": None,
        "fewshot_split": None,
    }
    if pool := shots_split(row, definition):
        shots: Rows | None = source.split(split_named(definition, pool)) if pool != scored else rows
        if shots is None or shots.sha256 == rows.sha256:
            config["fewshot_split"] = scored  # lm-eval then leaves the item itself out of its shots
            from_shots = "shots from the same" if pool != scored else ""
        else:
            config["fewshot_split"], splits[pool] = pool, shots.dataset
            from_shots = f"shots from {pool}, sha256 {shots.sha256[:16]}"
    config["custom_dataset"] = lambda **_metadata: splits
    where = f"{split.stem} from {rows.of}"
    origin = RowsOrigin(task=name, where=where, sha256=rows.sha256[:16], shots=from_shots)
    try:
        task = Picked(config, draws_shots=draws_shots)
    except TemplateError as error:
        raise PrerequisiteError(
            f"A template of {name} does not fit its rows: {error}. Correct its definition."
        ) from error
    return Leaf(name, name.removeprefix(f"{row.task}_") if grouped else "", task, origin)


def custom_leaf(test_set: custom.CustomSet) -> Leaf:
    """A custom task with its rows."""
    splits = {"test": custom.rows(test_set)}
    config = {**custom.task_config(test_set), "custom_dataset": lambda **_metadata: splits}
    origin = RowsOrigin(task=test_set.name, where=f"own set {test_set.name}", sha256=test_set.digest[:16])
    return Leaf(test_set.name, "", Picked(config), origin)


def quiet(level: int, *names: str) -> None:
    """Set these loggers to that level."""
    for name in names:
        logging.getLogger(name).setLevel(level)
