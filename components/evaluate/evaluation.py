"""Score a served variant: send the suite's prepared prompts; write scores and one record an item."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.benchmarks import protocol
from quantgate.components.benchmarks.encoder import Encoder
from quantgate.components.benchmarks.harness import Prepared, prepare
from quantgate.components.benchmarks.prompts import Item, ItemPrompts
from quantgate.components.benchmarks.selection import Questions
from quantgate.components.benchmarks.suites import FULL
from quantgate.components.benchmarks.task_score import NoScoreError, score_of
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.item_record import Answers, Recorder
from quantgate.components.evaluate.speed import Speed
from quantgate.components.evaluate.tested_model import LedgerModel, TestedModel
from quantgate.components.models.tokenizer_files import tokenizer_digest
from quantgate.components.run import records
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.progress import Step
from quantgate.components.servers.client import Job, ServerFailedError, Text, client_of
from quantgate.components.servers.scoring_requests import Loglik, Question

if TYPE_CHECKING:
    from quantgate.components.evaluate.ledger import Ledger

StopRule = Callable[[Scores, list[records.Record]], bool]
"""Whether the evaluation may stop after a look: takes the look's scores and all records so far."""


@dataclass(frozen=True)
class Earlier:
    """What an evaluation builds upon: the answer ledger, if there is one, and the records of the tiny stage."""

    ledger: "Ledger | None" = None
    """The ledger of the server's `identity`. Each new answer goes into it as it arrives."""
    tiny: Sequence[records.Record] = ()


@dataclass
class ItemAnswers:
    """The answers to one item's requests, until all of them have arrived."""

    item: ItemPrompts
    answers: list[Loglik | None]


@dataclass
class Evaluation:
    """One stage of a variant's evaluation."""

    server: Server
    questions: Questions
    stage: str
    step: Step
    when_lost: Callable[[str], None] | None = None
    """Waits for a server that stopped answering; raises PrerequisiteError when it does not come back."""
    by_item: dict[str, dict[Item, list[records.Record]]] = field(default_factory=dict)
    """The records so far, by task and item: one for each sample of an item."""
    tasks: dict[str, Prepared] = field(default_factory=dict)
    total: int = 0
    """The number of items of the stage."""
    done: int = 0

    def run(self, records_file: Path, earlier: Earlier = Earlier(), may_stop: StopRule | None = None) -> Scores:
        """The scores of the stage's items on this server; writes one record an item to `records_file` (Parquet).

        With `may_stop` the full stage runs in blocks, in the items' fixed random order, until `may_stop` returns True;
        components/evidence/looks.py lists the looks at which it is called. A task of programs has no score yet: the
        step execute runs the programs.

        When the server fails, ends or returns unreadable answers, the scores have a `failure` and no records: a failure
        never becomes a number. Without a server the ledger alone must have all answers.
        """
        unscored = Scores(variant=self.server.variant, suite=self.questions.suite.name, stage=self.stage)
        if self.server.failure and not earlier.ledger:
            return unscored.model_copy(update={"failure": self.server.failure})
        try:
            self.check_tokenizer()
            scores, rows = self.ask(unscored, earlier, may_stop)
        except ServerFailedError as error:
            failure = f"The server stopped answering during {self.stage}: {error} Its log: {self.server.log}"
            return unscored.model_copy(update={"failure": failure})
        except (NoScoreError, PrerequisiteError) as error:
            return unscored.model_copy(update={"failure": f"{error} The server's log: {self.server.log}"})
        self.step.advance(self.total, self.total)
        order = {name: place for place, name in enumerate(self.tasks)}
        records.write(
            sorted(rows, key=lambda row: (order[row.task], row.cluster, row.item_id, row.sample)), records_file
        )
        return scores.model_copy(update={"records": str(records_file)})

    @cached_property
    def encoder(self) -> Encoder:
        """The variant's tokenizer."""
        return Encoder.load(self.server.model_path)

    def check_tokenizer(self) -> None:
        """Raise PrerequisiteError unless the variant has the tokenizer that prepared the prompts."""
        prepared_with = self.questions.tokenizer
        if prepared_with and tokenizer_digest(Path(self.server.model_path)) == prepared_with:
            return
        if self.encoder.digest != self.questions.prompts.tokenizer:
            raise PrerequisiteError(
                f"The tokenizer of {self.server.variant} is not the baseline's: its answers are not comparable."
            )

    def ask(self, unscored: Scores, earlier: Earlier, may_stop: StopRule | None) -> tuple[Scores, list[records.Record]]:
        """The scores and records of the last look, or of the look at which `may_stop` returns True.

        A task has no score in a stage or a look in which none of its items fits the window.
        """
        started, suite = time.monotonic(), self.questions.suite
        book, served = earlier.ledger, not self.server.failure
        model = TestedModel(client_of(self.server, self.when_lost), book) if served or not book else LedgerModel(book)
        tasks = {
            row.task: prepare(row, self.questions.source, self.questions.chat_template, draws_shots=False)
            for row in suite.tasks
            if row.items(self.stage)
        }
        reads_scores = any(task.reads_scores for task in tasks.values())
        if reads_scores:
            model.kinds  # noqa: B018 - raises before the first request when the server offers no way to score
        self.begin(tasks, {name: self.questions.chosen(task, self.stage) for name, task in tasks.items()})
        self.keep(earlier.tiny)
        speed = Speed(self.server)
        shares = suite.looks if may_stop and self.stage == FULL else (1.0,)
        looks = list(enumerate(shares, 1))[-max(len(shares) - 1, 1) :]  # the tiny stage was the first look
        for look, share in looks:
            items = self.items(share)
            model.run(self.jobs(model, items))
            rows = self.rows(items)
            scores = unscored.model_copy(
                update={
                    "tasks": tuple(
                        score_of(task.row, rows, task.version, task.settings)
                        for task in self.tasks.values()
                        if items[task.row.task] and not task.row.programs
                    ),
                    "engine": self.server.engine,
                    "identity": self.server.identity,
                    "why_slow": model.server.why_slow if served and reads_scores else "",
                    "tokens_per_s": speed.tokens_per_s() if model.requests > model.reused else 0.0,
                    "row_origins": tuple(task.origin for task in self.tasks.values()),
                    "duration_s": time.monotonic() - started,
                    "requests": model.requests,
                    "reused": model.reused,
                    "look": look,
                    "looks": len(shares),
                    "planned_items": self.total,
                }
            )
            if may_stop and look < len(shares) and may_stop(scores, rows):
                break
        return scores, rows

    def begin(self, tasks: dict[str, Prepared], items: Mapping[str, Set[Item]]) -> None:
        """Prepare the rows of these items of the tasks."""
        self.tasks, self.by_item = tasks, {name: {} for name in tasks}
        self.total = sum(map(len, items.values()))
        for name, task in tasks.items():
            for number, leaf in enumerate(task.leaves):
                leaf.task.pick([position for leaf_number, position in items[name] if leaf_number == number])

    def keep(self, earlier: Sequence[records.Record]) -> None:
        """Take over the tiny stage's records: their items are not asked again."""
        leaves = {
            (name, leaf.cluster): number
            for name, task in self.tasks.items()
            for number, leaf in enumerate(task.leaves)
            if len(task.leaves) > 1
        }
        for record in earlier:
            leaf = leaves.get((record.task, record.cluster), 0)
            self.by_item[record.task].setdefault((leaf, record.item_id), []).append(record)
        self.done = sum(map(len, self.by_item.values()))

    def items(self, share: float) -> dict[str, set[Item]]:
        """By task, the items of the stage, or of a share of the full stage, that fit the window."""
        return {name: self.questions.chosen(task, self.stage, share) for name, task in self.tasks.items()}

    def rows(self, items: Mapping[str, Set[Item]]) -> list[records.Record]:
        """The records of these items."""
        return [row for name in self.tasks for item in items[name] for row in self.by_item[name].get(item, ())]

    def jobs(self, model: TestedModel, items: Mapping[str, Set[Item]]) -> Iterator[Job]:
        """The jobs that ask these items and record their answers, made as they are needed."""
        for name, task in self.tasks.items():
            unanswered = items[name] - self.by_item[name].keys()
            recorder = Recorder(task, self.server.variant, lambda: self.encoder)
            for block in self.questions.prompts.blocks(name, unanswered):
                make_jobs = self.generating_jobs if block[0].generation else self.scoring_jobs
                yield from make_jobs(model, recorder, block)

    def scoring_jobs(self, model: TestedModel, recorder: Recorder, block: list[ItemPrompts]) -> Iterator[Job]:
        """The jobs of items whose continuations are scored; a question that several items share is asked once."""
        waiting: dict[Question, list[tuple[ItemAnswers, int]]] = {}
        for item in block:
            answers = ItemAnswers(item, [None] * len(item.requests))
            for number, (context, continuation) in enumerate(item.requests):
                tokens = item.contexts[context]
                question = Question((*tokens, *continuation), len(tokens))
                waiting.setdefault(question, []).append((answers, number))

        def on_answer(question: Question, answer: Loglik) -> None:
            for answers, number in waiting[question]:
                answers.answers[number] = answer
                if None not in answers.answers:
                    self.record(recorder, answers.item, answers.answers)  # type: ignore[arg-type]

        return model.scoring_jobs(list(waiting), on_answer)

    def generating_jobs(self, model: TestedModel, recorder: Recorder, block: list[ItemPrompts]) -> Iterator[Job]:
        """The jobs of items whose answers are generated, several samples of each where the task says so."""
        samples = recorder.task.row.samples

        def on_text(number: int, text: Text) -> None:
            self.record(recorder, block[number // samples], text, number % samples)

        requests = []
        for item in block:
            fields = protocol.sent(json.loads(item.generation), item.start)
            requests += [(item.contexts[0], protocol.seeded(fields, sample)) for sample in range(samples)]
        return model.generating_jobs(requests, on_text)

    def record(self, recorder: Recorder, item: ItemPrompts, answers: Answers, sample: int = 0) -> None:
        """Keep the record of an item's answers, and report the progress when the item is complete."""
        row = recorder.task.row
        name, answered = row.task, self.by_item[row.task].setdefault(item.item, [])
        answered.append(recorder.record(item, answers, sample))
        if isinstance(answers, Text) and len(answered) < row.samples:
            return
        self.done += 1
        self.step.advance(self.done, self.total, name)
