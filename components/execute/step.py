"""The step execute: run the programs that a variant wrote, and score them."""

import tempfile
import time
from pathlib import Path

from components.benchmarks import selection
from components.errors import PrerequisiteError
from components.run import progress
from components.run.artifacts import Scores
from components.run.plan import EvaluationPlan
from components.run.results import AGAIN, RunResults


def execute(full: str, plan: str, scores: str) -> None:
    """Run the programs that a variant wrote, in a sandbox, and score them; the scores of other tasks stay unchanged.

    If the sandbox fails, the variant gets a failure with the reason instead of scores: a program that did not run has
    neither passed nor failed.
    """
    answered, planned = Scores.read(full), EvaluationPlan.read(plan)
    suite = selection.suite_of(planned)
    if answered.failure or answered.scored_in or not suite.programs:
        answered.write(scores)
        return
    from components.execute.scores import score_programs

    with progress.step(planned.results, "execute", answered.variant) as step, tempfile.TemporaryDirectory() as scratch:
        variant_results = RunResults(planned.results).variant(answered.variant)
        for name in (answered.stage, *([AGAIN] if answered.again else [])):
            file = variant_results.records(name).fetched(Path(scratch), f"evaluate {answered.variant} again")
            try:
                executed = score_programs(answered, suite, file, step, chat_template=planned.chat_template)
            except PrerequisiteError as error:
                answered = answered.model_copy(update={"tasks": (), "failure": f"Its programs were not run: {error}"})
                break
            variant_results.records(name).put(file)
            answered = executed if name == answered.stage else answered
        answered = answered.model_copy(update={"ended_at": time.time()})
        answered.write(scores)
        variant_results.scores(answered.stage).put(Path(scores))
        step.end(failure=answered.failure, note=answered.describe())
