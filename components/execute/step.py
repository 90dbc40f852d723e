"""The step execute: run the programs that a variant wrote, and score them; in a search, judge the variant."""

import tempfile
import time
from pathlib import Path

from quantgate.components.benchmarks import selection
from quantgate.components.errors import PrerequisiteError
from quantgate.components.run import progress
from quantgate.components.run.artifacts import Scores
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import AGAIN, FULL, RunResults


def execute(full: str, plan: str, scores: str) -> None:
    """Run the programs that a variant wrote, in a sandbox, and score them; the scores of other tasks stay unchanged.

    All its scores are there then. So a search judges the variant, to find out whether larger ones are needed.
    """
    answered, planned = Scores.read(full), EvaluationPlan.read(plan)
    if not answered.failure and not answered.scored_in and selection.suite_of(planned).programs:
        answered = with_programs(answered, planned)
    answered.write(scores)
    if planned.search and answered.variant != planned.baseline and not answered.failure:
        from quantgate.components.evidence import search

        with progress.step(planned.results, "search", answered.variant) as step:
            verdict = search.judge(answered.variant, planned)
            step.end(note=f"{verdict.verdict}: {verdict.sentence}")


def with_programs(answered: Scores, planned: EvaluationPlan) -> Scores:
    """The scores with those of the programs, also in the results.

    If the sandbox fails, the variant gets a failure with the reason instead of scores: a program that did not run has
    neither passed nor failed.
    """
    from quantgate.components.execute.scores import score_programs

    suite = selection.suite_of(planned)
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
        variant_results.scores(FULL).write(answered)  # as evaluate-full does, whatever the last stage was
        step.end(failure=answered.failure, note=answered.describe())
    return answered
