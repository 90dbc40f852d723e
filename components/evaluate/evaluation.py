"""Test what a server answers: the suites' items, asked through lm-eval, as scores and per-item records."""

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

Enough = Callable[[Scores, "list[Record]"], bool]
"""Whether the answers of a look at them, told with their scores, are enough."""


def evaluate(
    server: Server,
    questions: Questions,
    stage: str,
    step: Step,
    records_file: Path,
    ledger: "Ledger | None" = None,
    enough: Enough | None = None,
) -> Scores:
    """Ask the server the stage's items and score them; one record an item goes to `records_file` (Parquet).

    With `enough` the full stage is asked in blocks, in the items' fixed random order, until that says so;
    components/evidence/looks.py says when it is asked. Programs are written here and have no score yet: the step
    execute runs them.

    What the ledger has is not asked again, and every answer goes there as it arrives; it must be the one of the
    server's `identity`. A server that fails, dies or answers garbage gives scores with a `failure` and no records:
    never a number.
    """
    suite = questions.suite
    nothing = Scores(variant=server.variant, suite=suite.name, stage=stage, failure=server.failure)
    if server.failure:
        return nothing
    from components.benchmarks.harness import prepare
    from components.evaluate.endpoint import Endpoint, UnscorableError
    from components.evaluate.run_task import ask
    from components.evaluate.speed import Speed
    from components.run import records
    from components.servers.client import ServerFailedError

    started = time.monotonic()
    prepared = [prepare(task, questions.source, questions.chat_template) for task in suite.tasks if task.items(stage)]
    shares = suite.looks if enough and stage == FULL else (1.0,)
    looks = list(enumerate(shares, 1))[-max(len(shares) - 1, 1) :]  # the first was the tiny stage
    found: list[records.Record] = []
    total = sum(task.items(stage) for task in suite.tasks)
    try:
        endpoint = Endpoint(server.url, server.served_name, server.model_path, server.max_model_len, ledger=ledger)
        if any(each.reads_scores for each in prepared):
            endpoint.kinds  # noqa: B018 - says here, before anything is asked, that the server offers none
        answered: set[tuple[str, tuple[int, int]]] = set()
        speed = Speed(server.url)
        for look, share in looks:
            for each in prepared:
                task = each.row.task
                new = [item for item in each.chosen(stage, share) if (task, item) not in answered]
                answered.update((task, item) for item in new)
                endpoint.watch(teller(step, task, len(found), len(new), total))
                found += ask(each, new, endpoint, server.variant, chat_template=questions.chat_template) if new else []
            scores = nothing.model_copy(
                update={
                    "tasks": tuple(
                        score_of(each.row, found, each.version, each.settings)
                        for each in prepared
                        if not each.row.programs
                    ),
                    "records": str(records_file),
                    "engine": server.engine,
                    "identity": server.identity,
                    "tokens_per_s": speed.tokens_per_s() if endpoint.requests > endpoint.reused else 0.0,
                    "rows_source": "; ".join(each.source for each in prepared),
                    "duration_s": time.monotonic() - started,
                    "requests": endpoint.requests,
                    "reused": endpoint.reused,
                    "look": look,
                    "looks": len(shares),
                    "planned_items": total,
                }
            )
            if enough and look < len(shares) and enough(scores, found):
                break
    except ServerFailedError as error:
        what = f"The server stopped answering during {stage}: {error} Its log: {server.log}"
        return nothing.model_copy(update={"failure": what})
    except (UnscorableError, NoScoreError, PrerequisiteError) as error:
        return nothing.model_copy(update={"failure": f"{error} The server's log: {server.log}"})
    step.advance(total, total)
    order = {task.task: place for place, task in enumerate(suite.tasks)}
    records.write(sorted(found, key=lambda each: (order[each.task], each.cluster, each.item_id)), records_file)
    return scores


def teller(step: Step, task: str, done: int, items: int, total: int) -> Callable[[int, int], None]:
    """Turns the answers of one task's requests into the items of the stage that are done."""

    def tell(answered: int, asked: int) -> None:
        step.advance(done + items * answered // asked, total, task)

    return tell
