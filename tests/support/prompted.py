"""Prompts that are prepared and asked without a run."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from quantgate.components.benchmarks.embedded import Embedded
from quantgate.components.benchmarks.encoder import Encoder
from quantgate.components.benchmarks.harness import Prepared, prepare
from quantgate.components.benchmarks.prompts import Item, Preparation, PromptFile, write
from quantgate.components.benchmarks.selection import Questions
from quantgate.components.benchmarks.splits import Source
from quantgate.components.benchmarks.suites import STAGES, Suite
from quantgate.components.evaluate.evaluation import Evaluation
from quantgate.components.evaluate.tested_model import TestedModel
from quantgate.components.run.artifacts import Server
from quantgate.components.run.progress import Step
from quantgate.components.run.records import Record
from quantgate.components.servers.client import client_of


def questions_on(suite: Suite, source: Source, tokenizer: Path, file: Path, window: int = 2048) -> Questions:
    """The suite's questions, with prompts that the tokenizer has prepared in `file`."""
    tasks = [prepare(row, source) for row in suite.tasks]
    items = {task.row.task: (task, {item for stage in STAGES for item in task.chosen(stage)}) for task in tasks}
    write(items, Preparation(Encoder.load(tokenizer), window), file, lambda _done, _task: None)
    return Questions(suite, source, PromptFile(file), window)


def ask_items(server: Server, task: Prepared, items: Iterable[Item], way: str = "") -> list[Record]:
    """The records of these items of a task on a real server, by their leaf and position."""
    chosen = {task.row.task: set(items)}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "prompts.parquet"
        preparation = Preparation(Encoder.load(server.model_path), server.max_model_len)
        write({task.row.task: (task, chosen[task.row.task])}, preparation, file, lambda _done, _task: None)
        questions = Questions(Suite("one task", "", (task.row,)), Embedded(), PromptFile(file), server.max_model_len)
        evaluation = Evaluation(server, questions, "full", Step(None, "full", server.variant))
        evaluation.begin({task.row.task: task}, chosen)
        model = TestedModel(client_of(server), way=way)
        model.run(evaluation.jobs(model, chosen))
    return [row for item in sorted(chosen[task.row.task]) for row in evaluation.by_item[task.row.task][item]]
