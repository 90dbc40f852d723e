"""Score the programs that a variant wrote: each is run once, and passes or does not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from components.benchmarks.suites import Suite
from components.benchmarks.task_score import score_of
from components.run import records
from components.run.artifacts import Scores, TaskScore
from components.run.progress import Step
from components.sandbox.containment import Outcome
from components.sandbox.programs import run_programs


def scored(answered: Scores, suite: Suite, file: Path, step: Step, *, chat_template: bool = False) -> Scores:
    """The scores with those of the programs among the records in `file`, where how each ended is written to."""
    found = records.read(file)
    waiting = [number for number, each in enumerate(found) if each.program]
    ended: set[int] = set()

    def on_done(number: int, _outcome: Outcome) -> None:
        ended.add(number)
        step.advance(len(ended), len(waiting))

    outcomes = run_programs([found[each].program for each in waiting], on_done, purpose=answered.variant)
    for number, outcome in zip(waiting, outcomes, strict=True):
        found[number] = replace(found[number], score=float(outcome.passed), outcome=outcome.reason)
    records.write(found, file)
    return answered.model_copy(update={"tasks": tuple(in_order(answered, suite, found, chat_template))})


def in_order(answered: Scores, suite: Suite, found: list[records.Record], chat_template: bool) -> Iterator[TaskScore]:
    """The scores of all tasks in the suite's order."""
    from components.benchmarks import tasks

    known = {each.task: each for each in answered.tasks}
    for row in suite.tasks:
        if row.programs:
            settings = tasks.settings_text(tasks.raw_definition(tasks.task_file(row.task)), chat_template)
            yield score_of(row, found, tasks.task_version(row.task), settings)
        elif row.task in known:
            yield known[row.task]
