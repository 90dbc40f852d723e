"""A stage of the evaluation: score the items that the plan selects, and save the scores in the run's results."""

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.benchmarks import selection, suites
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.reference import without_reference
from quantgate.components.run import progress
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import AGAIN, FULL, TINY, RunResults
from quantgate.components.storage.location import open_store

if TYPE_CHECKING:
    from quantgate.components.evaluate.evaluation import StopRule
    from quantgate.components.run.records import Record


def copy_earlier_scores(serving: Server, step: progress.Step, results: str, scores: str) -> None:
    """Copy the earlier run's full scores, which `scored_before` put into the results; both stages copy the same."""
    if not RunResults(results).scores(serving.variant, FULL).get(Path(scores)):
        raise PrerequisiteError(f"The scores of {serving.variant} are missing from {results}: run it again.")
    step.end(skipped=True, note=f"{Scores.read(scores).describe()}; scored before in {serving.scored_in}")


def with_reference(serving: Server, plan: EvaluationPlan) -> Server:
    """The server, with a failure when its variant cannot be judged for want of a baseline."""
    reason = serving.failure or without_reference(serving.variant, plan)
    return serving.model_copy(update={"failure": reason})


def score_stage(
    serving: Server,
    plan: EvaluationPlan,
    stage: str,
    step: progress.Step,
    records: Path,
    *,
    tiny: "Sequence[Record]" = (),
    may_stop: "StopRule | None" = None,
) -> Scores:
    """The stage's scores; writes one record an item to the file `records`. The items in `tiny` are not asked again.

    Without the baseline's scores the whole run is in vain: if its server does not start, the ledger may have them.
    """
    suite = selection.suite_of(plan).name
    unscored = Scores(variant=serving.variant, suite=suite, stage=stage, failure=serving.failure)
    book = serving.identity.describe() if serving.identity and plan.ledger else ""
    if serving.failure and not (book and serving.variant == plan.baseline):
        return unscored
    os.environ["HF_HUB_OFFLINE"] = "1"  # every file is on this machine; waiting for an unreachable hub takes minutes
    from quantgate.components.evaluate.evaluation import Earlier, Evaluation
    from quantgate.components.evaluate.ledger import ledger_file, shared
    from quantgate.components.servers import lifecycle, local_server
    from quantgate.components.servers.bench_process import memory_of
    from quantgate.components.servers.followed_server import FollowedServer, with_tokenizer

    serving = with_tokenizer(serving, plan.results)
    opened = shared(ledger_file(), book, open_store(plan.store)) if book else nullcontext()
    try:
        with lifecycle.kept_alive(serving, plan.results), opened as ledger:
            followed = FollowedServer(serving, plan.results)
            followed.check()  # its pod may have been replaced since the last step
            evaluation = Evaluation(followed.server, selection.questions_of(plan), stage, step, followed.check)
            scores = followed.with_replacements(evaluation.run(records, Earlier(ledger, tiny), may_stop))
            scores = scores.model_copy(update={"server_memory_bytes": memory_of(followed.server)})
    except PrerequisiteError as error:
        scores = unscored.model_copy(update={"failure": str(error)})
    if serving.failure:
        return unscored if scores.failure else scores
    cause = local_server.why_it_ended(serving) if scores.failure else ""
    return scores.model_copy(update={"failure": f"{cause} {scores.failure}"}) if cause else scores


def tiny_records(variant: str, results: str) -> "list[Record]":
    """The records of the variant's tiny stage."""
    from quantgate.components.run import records

    with tempfile.TemporaryDirectory() as scratch:
        what_to_do = "run it again"
        return records.read(RunResults(results).records(variant, TINY).fetched(Path(scratch), what_to_do))


def with_second_pass(baseline: Scores, serving: Server, plan: EvaluationPlan, step: progress.Step) -> Scores:
    """The baseline's scores with the records of a second pass, from which the gate computes the noise floor.

    When the second pass fails, its failed scores are returned: without the noise floor the gate could judge a limit
    that is below the noise.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "records.parquet"
        again = score_stage(serving, plan.model_copy(update={"ledger": False}), suites.FULL, step, file)
        if again.failure:
            return again
        return baseline.model_copy(update={"again": RunResults(plan.results).records(plan.baseline, AGAIN).put(file)})


def save_scores(measured: Scores, step: progress.Step, results: str, scores: str, *, skipped: bool = False) -> None:
    """Write the scores to the artifact `scores` and to the results, with new records, and end the step with a note."""
    of_variant = RunResults(results).variant(measured.variant)
    if measured.records and not skipped:
        uri = of_variant.records(measured.stage).put(Path(measured.records))
        measured = measured.model_copy(update={"records": uri})
    measured = measured.model_copy(update={"ended_at": time.time()})
    measured.write(scores)
    of_variant.scores(step.step).put(Path(scores))
    note = measured.describe()
    if measured.reused and not skipped:
        note += f"; {measured.reused} of {measured.requests} answers came from the ledger"
    if measured.why_slow and not skipped:
        note += f"; {measured.why_slow}"
    if measured.replaced:
        note += f"; pod of the server replaced: {measured.replaced}"
    if measured.look < measured.looks:
        items = sum(task.items for task in measured.tasks)
        note += f"; stopped early after {items} of {measured.planned_items} questions"
    step.end(measured.failure, skipped=skipped, note=note)
