"""Ask a served variant the items of one task, with lm-eval's own task definition, prompts and metrics."""

import contextlib
import hashlib
import io
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import datasets
from lm_eval import utils
from lm_eval.api.task import ConfigurableTask

from components.benchmarks import custom, ifeval, tasks
from components.benchmarks.splits import Rows, Source, Split
from components.benchmarks.suites import SuiteTask
from components.errors import PrerequisiteError

ORDER_SEED = 20260101
SHOWN = 2000
"""Characters of a question that are kept for people to read."""
utils.env.from_string = cache(utils.env.from_string)  # lm-eval compiles a template anew for each text that it makes


def item_order(rows: int) -> list[int]:
    """The fixed random order in which a benchmark of that many rows is asked."""
    order = list(range(rows))
    random.Random(ORDER_SEED).shuffle(order)
    return order


class Unasked(dict[str, Any]):
    """An item that is not asked: it only takes its turn when shots are drawn."""


class Picked(ConfigurableTask):  # type: ignore[misc]  # lm-eval is untyped
    """A task of lm-eval's of which only some items are asked, each with the shots that it has when all are asked.

    lm-eval draws the shots of one item after another from one random source; asked by itself an item would get others,
    and neither its answer in the ledger nor anyone's score would be comparable.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.pick(())
        self.building = False
        self.kept: dict[tuple[int, ...], Any] = {}
        super().__init__(config=config)

    def pick(self, items: Sequence[int]) -> None:
        """Ask these positions from now on."""
        self.items = tuple(sorted(items))
        self.asked = frozenset(items)

    @property
    def rows(self) -> datasets.Dataset:
        """What is scored, as the source has it."""
        return self.dataset[self.config.test_split]

    @property
    def eval_docs(self) -> Any:
        """The items as lm-eval prepares them: all of them where shots are drawn, else those that are asked."""
        wanted = () if self.config.num_fewshot else self.items or (0,)
        if wanted not in self.kept:
            chosen = self.rows.select(wanted) if wanted else self.rows
            prepared = self.config.process_docs(chosen) if self.config.process_docs else chosen
            if len(prepared) != len(chosen):
                raise ValueError(f"lm-eval keeps {len(prepared)} of {len(chosen)} rows of {self.config.task}")
            self.kept = {wanted: prepared}
        return self.kept[wanted]

    def fewshot_docs(self) -> Any:
        """What shots are drawn from; None where there are none, as lm-eval would prepare a list of all items."""
        if not self.config.num_fewshot:
            return None
        return self.eval_docs if self.config.fewshot_split == self.config.test_split else super().fewshot_docs()

    def doc_iterator(self, **_settings: Any) -> Iterator[tuple[int, Any]]:
        """The items to ask, by their positions; while their shots are drawn those before them, too."""
        if not self.config.num_fewshot:
            yield from zip(self.items, self.eval_docs, strict=True)
            return
        for at, doc in enumerate(islice(self.eval_docs, self.items[-1] + 1)):
            if at in self.asked:
                yield at, doc
            elif self.building:
                yield at, Unasked(doc)

    def build_all_requests(self, **settings: Any) -> None:
        """As lm-eval's, with the shots drawn for all items, and without its bar."""
        self.building = True
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                super().build_all_requests(**settings)
        finally:
            self.building = False

    def fewshot_context(self, doc: Any, num_fewshot: int, **settings: Any) -> Any:
        """As lm-eval's; for an item that is not asked the shots are only drawn."""
        if not isinstance(doc, Unasked):
            return super().fewshot_context(doc, num_fewshot, **settings)
        excluded = doc if self.fewshot_cfg.split == self.config.test_split else None
        return self.sampler.sample(n=num_fewshot, eval_doc=excluded)

    def construct_requests(self, doc: Any, ctx: Any, **settings: Any) -> Any:
        """As lm-eval's, none for an item that is not asked."""
        return [] if isinstance(doc, Unasked) else super().construct_requests(doc, ctx, **settings)


@dataclass(frozen=True)
class Leaf:
    """One task of a group, or a task by itself."""

    name: str
    cluster: str
    """What its items belong to together, as MMLU's subjects; empty where it stands alone."""
    task: Picked
    source: str

    @property
    def items(self) -> int:
        """How many there are."""
        return len(self.task.rows)

    def shown(self, doc: Any) -> tuple[str, tuple[str, ...]]:
        """An item as a person reads it: the question without shots, and its choices."""
        text = self.task.doc_to_text(doc)
        choices = tuple(self.task.doc_to_choice(doc)) if self.task.config.doc_to_choice is not None else ()
        if isinstance(text, int):  # the choices are what differs in the question, as WinoGrande's
            text = f"… {self.task.doc_to_target(doc)}"
        return str(text)[:SHOWN], tuple(str(each)[:SHOWN] for each in choices)


@dataclass(frozen=True)
class Prepared:
    """A suite's task with its rows, ready to be asked."""

    row: SuiteTask
    leaves: tuple[Leaf, ...]
    version: str
    settings: str
    """How prompts are wrapped and texts generated, as JSON."""
    source: str
    """Which rows, with their digest."""

    @property
    def reads_scores(self) -> bool:
        """Whether it asks for log-likelihoods; for texts where not."""
        return any(leaf.task.OUTPUT_TYPE != "generate_until" for leaf in self.leaves)

    def chosen(self, stage: str, share: float = 1.0) -> list[tuple[int, int]]:
        """Leaf and position, ascending, of the items that the stage has asked when that share of all is answered."""
        places = [(number, item) for number, leaf in enumerate(self.leaves) for item in range(leaf.items)]
        return sorted(places[each] for each in item_order(len(places))[: self.row.items(stage, share)])


def splits_wanted(row: SuiteTask) -> list[Split]:
    """The files that the task asks for: what it scores, and where its shots come from."""
    if row.custom:
        return []
    wanted = []
    for found in map(tasks.raw_definition, tasks.leaf_files(row.task)):
        wanted += [
            named(found, scored_split(found)),
            *([named(found, pool)] if (pool := shots_split(row, found)) else []),
        ]
    if row.task == ifeval.TASK:
        wanted.append(ifeval.PUNKT)
    return list(dict.fromkeys(wanted))


def scored_split(found: dict[str, Any]) -> str:
    """The split that a task scores."""
    return str(found.get("test_split") or found["validation_split"])


def shots_split(row: SuiteTask, found: dict[str, Any]) -> str:
    """The split from which a task draws its shots; "" where it draws none, or brings its own."""
    if not row.shots or (found.get("fewshot_config") or {}).get("samples"):
        return ""
    return str(found.get("fewshot_split") or found.get("training_split") or scored_split(found))


def named(found: dict[str, Any], split: str) -> Split:
    """A split of a task's data set."""
    return Split(str(found["dataset_path"]), str(found.get("dataset_name") or ""), split)


def prepare(row: SuiteTask, source: Source, chat_template: bool = False) -> Prepared:
    """The task with its rows; raises PrerequisiteError when the source has not all that it scores."""
    datasets.disable_caching()
    datasets.disable_progress_bars()
    quiet(logging.WARNING, "datasets", "httpx")
    quiet(logging.ERROR, "lm_eval")  # it warns of each task whose definition leaves something to its defaults
    if row.task == ifeval.TASK:
        ifeval.make_ready(source)
    if row.custom:
        leaves = [custom_leaf(row.custom)]
        version, config = f"sha256 {row.custom.digest[:12]}", leaves[0].task.config.to_dict()
    else:
        files = tasks.leaf_files(row.task)
        leaves = [leaf(row, tasks.definition(file), source, grouped=len(files) > 1) for file in files]
        version, config = tasks.task_version(row.task), tasks.raw_definition(files[0])
    items = sum(each.items for each in leaves)
    if items < row.full:
        raise PrerequisiteError(f"{source.told} has {items} items of {row.task}; {row.full} are asked.")
    told = sorted({each.source for each in leaves})
    if len(told) > 1:
        digest = hashlib.sha256("\n".join(told).encode()).hexdigest()
        told = [f"{len(told)} files of {config['dataset_path']}, sha256 {digest[:16]}"]
    return Prepared(row, tuple(leaves), version, tasks.settings_text(config, chat_template), f"{row.task}: {told[0]}")


def leaf(row: SuiteTask, found: dict[str, Any], source: Source, *, grouped: bool) -> Leaf:
    """One task with its rows. Where the source lacks the split of its shots, they come from what is scored."""
    name, scored = str(found["task"]), scored_split(found)
    rows = source.split(named(found, scored))
    if rows is None:
        raise PrerequisiteError(f"{source.told} has no {named(found, scored).file}, which {row.task} scores.")
    told = f"{named(found, scored).stem} from {rows.of}, sha256 {rows.sha256[:16]}"
    splits = {scored: rows.dataset}
    config = {
        **found,
        "num_fewshot": row.shots,
        "test_split": scored,
        "validation_split": None,
        "training_split": None,
        "fewshot_split": None,
    }
    if pool := shots_split(row, found):
        shots: Rows | None = source.split(named(found, pool)) if pool != scored else rows
        if shots is None or shots.sha256 == rows.sha256:
            config["fewshot_split"] = scored  # the item itself is never among its shots: lm-eval sees that it is there
            told += ", shots from the same" if pool != scored else ""
        else:
            config["fewshot_split"], splits[pool] = pool, shots.dataset
            told += f", shots from {pool}, sha256 {shots.sha256[:16]}"
    config["custom_dataset"] = lambda **_metadata: splits
    return Leaf(name, name.removeprefix(f"{row.task}_") if grouped else "", Picked(config), told)


def custom_leaf(found: custom.CustomSet) -> Leaf:
    """A set of one's own as a task."""
    splits = {"test": custom.rows(found)}
    config = {**custom.task_config(found), "custom_dataset": lambda **_metadata: splits}
    return Leaf(found.name, "", Picked(config), f"own set {found.name}, sha256 {found.digest[:16]}")


def quiet(level: int, *names: str) -> None:
    """Let these loggers speak up only from that level on."""
    for name in names:
        logging.getLogger(name).setLevel(level)
