"""Score the programs that a variant wrote: each program runs once and passes or fails.

An item's pass@1 is the share of its programs that pass: with c of n right, 1 - C(n - c, 1) / C(n, 1) = c / n, the
unbiased estimate of M. Chen et al., Evaluating Large Language Models Trained on Code (arXiv 2107.03374).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from components.benchmarks.suites import Suite
from components.benchmarks.task_score import score_of
from components.errors import PrerequisiteError
from components.run import records
from components.run.artifacts import Scores, TaskScore, is_flow_task
from components.run.progress import Step
from components.sandbox.containment import Outcome, Program
from components.sandbox.programs import run_programs


def score_programs(answered: Scores, suite: Suite, file: Path, step: Step, *, chat_template: bool = False) -> Scores:
    """Run the programs in the records of `file`; returns the scores with theirs, and writes the outcomes to `file`."""
    rows = records.read(file)
    with_program = [number for number, row in enumerate(rows) if row.program or row.tests]
    if not all(rows[number].tests for number in with_program):
        raise PrerequisiteError(
            f"The records of {answered.variant} lack the tests of their programs: an earlier version wrote them."
            f" Evaluate {answered.variant} again."
        )
    programs = [Program(rows[number].program, rows[number].tests) for number in with_program]
    finished: set[int] = set()

    def on_done(number: int, _outcome: Outcome) -> None:
        finished.add(number)
        step.advance(len(finished), len(with_program))

    outcomes = run_programs(programs, on_done, purpose=answered.variant)
    for number, outcome in zip(with_program, outcomes, strict=True):
        rows[number] = replace(rows[number], score=float(outcome.passed), outcome=outcome.reason)
    records.write(rows, file)
    return answered.model_copy(update={"tasks": tuple(scores_in_order(answered, suite, rows, chat_template))})


def scores_in_order(
    answered: Scores, suite: Suite, rows: list[records.Record], chat_template: bool
) -> Iterator[TaskScore]:
    """The scores of all tasks in the suite's order."""
    from components.benchmarks import protocol, tasks

    score_by_task = {score.task: score for score in answered.tasks}
    for task in suite.tasks:
        if task.programs:
            definition = tasks.raw_definition(tasks.task_file(task.task))
            settings = protocol.stated(tasks.prompt_settings(task, definition, chat_template), task)
            yield score_of(task, rows, tasks.task_version(task.task), settings)
        elif task.task in score_by_task:
            yield score_by_task[task.task]
    yield from (score for score in answered.tasks if is_flow_task(score.task))
