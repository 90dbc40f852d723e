"""Score a served variant: run the suite's items through lm-eval; write scores and one record an item."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from components.benchmarks.selection import Questions
from components.benchmarks.suites import FULL
from components.benchmarks.task_score import NoScoreError, score_of
from components.errors import PrerequisiteError
from components.run.artifacts import Scores, Server
from components.run.progress import Step

if TYPE_CHECKING:
    from components.evaluate.ledger import Ledger
    from components.run.records import Record

StopRule = Callable[[Scores, "list[Record]"], bool]
"""Whether the evaluation may stop after a look: takes the look's scores and all records so far."""


def evaluate(
    server: Server,
    questions: Questions,
    stage: str,
    step: Step,
    records_file: Path,
    ledger: "Ledger | None" = None,
    may_stop: StopRule | None = None,
) -> Scores:
    """The scores of the stage's items on this server; writes one record an item to `records_file` (Parquet).

    With `may_stop` the full stage runs in blocks, in the items' fixed random order, until `may_stop` returns True;
    components/evidence/looks.py lists the looks at which it is called. A task of programs has no score yet: the step
    execute runs the programs.

    An answer that is in the ledger is not requested again. Every new answer goes into the ledger as it arrives. The
    ledger must be the one of the server's `identity`. When the server fails, ends or returns unreadable answers, the
    scores have a `failure` and no records: a failure never becomes a number.
    """
    suite = questions.suite
    unscored = Scores(variant=server.variant, suite=suite.name, stage=stage, failure=server.failure)
    if server.failure:
        return unscored
    from components.benchmarks.harness import prepare
    from components.evaluate.endpoint import Endpoint, UnscorableError
    from components.evaluate.run_task import ask
    from components.evaluate.speed import Speed
    from components.run import records
    from components.servers.client import ServerFailedError

    started = time.monotonic()
    prepared = [prepare(task, questions.source, questions.chat_template) for task in suite.tasks if task.items(stage)]
    shares = suite.looks if may_stop and stage == FULL else (1.0,)
    looks = list(enumerate(shares, 1))[-max(len(shares) - 1, 1) :]  # the tiny stage was the first look
    rows: list[records.Record] = []
    total = sum(task.items(stage) for task in suite.tasks)
    try:
        endpoint = Endpoint(server.url, server.served_name, server.model_path, server.max_model_len, ledger=ledger)
        if any(task.reads_scores for task in prepared):
            endpoint.kinds  # noqa: B018 - raises before the first request when the server offers no way to score
        answered: set[tuple[str, tuple[int, int]]] = set()
        speed = Speed(server.url)
        for look, share in looks:
            for task in prepared:
                name = task.row.task
                new = [item for item in task.chosen(stage, share) if (name, item) not in answered]
                answered.update((name, item) for item in new)
                endpoint.watch(progress_callback(step, name, len(rows), len(new), total))
                rows += ask(task, new, endpoint, server.variant, chat_template=questions.chat_template) if new else []
            scores = unscored.model_copy(
                update={
                    "tasks": tuple(
                        score_of(task.row, rows, task.version, task.settings)
                        for task in prepared
                        if not task.row.programs
                    ),
                    "records": str(records_file),
                    "engine": server.engine,
                    "identity": server.identity,
                    "tokens_per_s": speed.tokens_per_s() if endpoint.requests > endpoint.reused else 0.0,
                    "row_origins": tuple(task.origin for task in prepared),
                    "duration_s": time.monotonic() - started,
                    "requests": endpoint.requests,
                    "reused": endpoint.reused,
                    "look": look,
                    "looks": len(shares),
                    "planned_items": total,
                }
            )
            if may_stop and look < len(shares) and may_stop(scores, rows):
                break
    except ServerFailedError as error:
        failure = f"The server stopped answering during {stage}: {error} Its log: {server.log}"
        return unscored.model_copy(update={"failure": failure})
    except (UnscorableError, NoScoreError, PrerequisiteError) as error:
        return unscored.model_copy(update={"failure": f"{error} The server's log: {server.log}"})
    step.advance(total, total)
    order = {task.task: place for place, task in enumerate(suite.tasks)}
    records.write(sorted(rows, key=lambda row: (order[row.task], row.cluster, row.item_id)), records_file)
    return scores


def progress_callback(step: Step, task: str, done: int, items: int, total: int) -> Callable[[int, int], None]:
    """A callback that reports one task's progress, in items of the stage; takes answers so far and requests in all."""

    def report(answered: int, requests: int) -> None:
        step.advance(done + items * answered // requests, total, task)

    return report
