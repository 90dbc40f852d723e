"""Ask a served variant the items of one task, with lm-eval's own task definition, prompts and metrics."""

import json
import logging
import random
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

# the public way to a task's definition goes through a TaskManager that has read all of them
from lm_eval.tasks._yaml_loader import load_yaml

from components.evaluate.endpoint import Endpoint
from components.evaluate.records import Record, from_sample
from components.evaluate.rows import Rows
from components.evaluate.suites import SuiteTask

ORDER_SEED = 20260101
SPARE_ROWS = 100


def item_order(rows: int) -> list[int]:
    """The fixed random order in which a benchmark of that many rows is asked."""
    order = list(range(rows))
    random.Random(ORDER_SEED).shuffle(order)
    return order


def items_of(task: SuiteTask, rows: int, stage: str, share: float = 1.0) -> list[int]:
    """Positions, ascending, of the items that the stage has asked when that share of all is answered."""
    return sorted(item_order(rows)[: task.items(stage, share)])


@cache
def task_file(task: str) -> Path:
    """Where lm-eval defines the task, by most files' names and by what stands in them."""
    folder = Path(lm_eval.__file__).parent / "tasks"
    line = re.compile(rf"^\"?task\"?: \"?{re.escape(task)}\"?$", re.MULTILINE)
    for name in (f"{task}.yaml", "*.yaml"):
        for file in sorted(folder.glob(f"**/{name}")):
            if line.search(file.read_text(encoding="utf-8")):
                return file
    raise ValueError(f"lm-eval {lm_eval.__version__} has no task {task!r}")


def task_version(task: str) -> str:
    """lm-eval's version of the task, with its own version number."""
    metadata = load_yaml(task_file(task), resolve_func=False).get("metadata") or {}
    return f"{metadata.get('version', 'none')} of lm-eval {lm_eval.__version__}"


def task_settings(task: str) -> str:
    """How the task's texts are generated, as JSON; empty where nothing is."""
    found = load_yaml(task_file(task), resolve_func=False).get("generation_kwargs")
    return json.dumps(found, sort_keys=True, default=str) if found else ""


def ask(task: SuiteTask, items: list[int], rows: Rows, endpoint: Endpoint, variant: str) -> list[Record]:
    """Answer the items at these positions of the rows; one record an item, in ascending order."""
    definition = dict(load_yaml(task_file(task.task), resolve_func=True))
    definition.pop("tag", None)
    spare = item_order(len(rows.dataset()))[task.full :][:SPARE_ROWS]
    definition["custom_dataset"] = partial(splits_of, rows=rows, items=items, spare=spare)
    quiet("lm_eval", "datasets", "httpx")
    outcome = simple_evaluate(
        model=endpoint,
        tasks=[ConfigurableTask(config=definition)],
        num_fewshot=task.shots,
        task_manager=TaskManager(include_defaults=False),  # the default reads thousands of task files, for seconds
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = sorted(outcome["samples"][task.task], key=lambda sample: int(sample["doc_id"]))
    positioned = ({**sample, "doc_id": item} for item, sample in zip(items, samples, strict=True))
    return [from_sample(sample, variant, task.task, task.metric, endpoint) for sample in positioned]


def splits_of(rows: Rows, items: list[int], spare: list[int], **_metadata: Any) -> dict[str, datasets.Dataset]:
    """The chosen rows under each name by which a task may ask for what it scores; the spare ones are for its shots."""
    datasets.disable_caching()
    datasets.disable_progress_bars()
    dataset = rows.dataset()
    chosen = dataset.select(items)
    return {"validation": chosen, "test": chosen, "train": dataset.select(spare)}


def quiet(*names: str) -> None:
    """Let these loggers speak up only for warnings."""
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
