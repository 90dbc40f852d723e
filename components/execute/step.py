"""The step execute: run the programs that a variant wrote, and score them."""

import tempfile
from pathlib import Path

from components.benchmarks import selection
from components.errors import PrerequisiteError
from components.run import progress
from components.run.artifacts import Scores
from components.run.plan import EvaluationPlan
from components.run.results import kept_records
from components.storage.location import open_store


def execute(full: str, plan: str, scores: str) -> None:
    """Run the programs that a variant wrote, in a sandbox, and score them; what else was asked stays as it is.

    Where the sandbox fails, the variant has no scores and the reason why: a program that was not run failed nothing.
    """
    answered, planned = Scores.read(full), EvaluationPlan.read(plan)
    suite = selection.suite_of(planned)
    if answered.failure or answered.scored_in or not suite.programs:
        answered.write(scores)
        return
    from components.execute.scores import scored

    with progress.step(planned.results, "execute", answered.variant) as step, tempfile.TemporaryDirectory() as scratch:
        store = open_store(planned.results)
        for name in (answered.stage, *(["again"] if answered.again else [])):
            file = kept_records(answered.variant, name, planned.results, Path(scratch))
            try:
                ran = scored(answered, suite, file, step, chat_template=planned.chat_template)
            except PrerequisiteError as error:
                answered = answered.model_copy(update={"tasks": (), "failure": f"Its programs were not run: {error}"})
                break
            store.put_file(file, f"variants/{answered.variant}/{name}.parquet")
            answered = ran if name == answered.stage else answered
        answered.write(scores)
        store.put_file(Path(scores), f"variants/{answered.variant}/{answered.stage}.json")
        step.end(failure=answered.failure, note=answered.in_words())
