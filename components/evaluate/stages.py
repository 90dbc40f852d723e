"""A stage of the evaluation: ask what the plan says, and keep the scores."""

import os
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from components.benchmarks import selection, suites
from components.errors import PrerequisiteError, ServerGoneError
from components.models.variants import BASELINE
from components.run import progress
from components.run.artifacts import Scores, Server, Weights
from components.run.plan import EvaluationPlan
from components.run.results import AGAIN, FULL, RunResults
from components.storage.cache import cache_dir
from components.storage.location import fetch, open_store

if TYPE_CHECKING:
    from components.evaluate.evaluation import Enough


def hand_on(serving: Server, step: progress.Step, results: str, scores: str) -> None:
    """Hand on the scores that `scored_before` left in the results: all of them, whatever the stage."""
    if not RunResults(results).scores(serving.variant, FULL).get(Path(scores)):
        raise PrerequisiteError(f"The scores of {serving.variant} are missing from {results}: run it again.")
    step.end(skipped=True, note=f"{Scores.read(scores).describe()}; scored before in {serving.scored_in}")


def answered(
    serving: Server,
    plan: EvaluationPlan,
    stage: str,
    step: progress.Step,
    records: Path,
    enough: "Enough | None" = None,
) -> Scores:
    """The scores of what the server answers; its per-item records go to the file."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # all it needs is here, and a hub that cannot be reached costs minutes
    from components.evaluate.evaluation import evaluate
    from components.evaluate.ledger import ledger_file, shared
    from components.servers import lifecycle, local_vllm

    serving = with_tokenizer(serving, plan.results)
    known = plan.ledger and not serving.failure
    kept = shared(ledger_file(), serving.identity, open_store(plan.store)) if known else nullcontext()
    try:
        with lifecycle.kept_alive(serving, plan.results), kept as ledger:
            found = evaluate(serving, selection.questions_of(plan), stage, step, records, ledger, enough)
    except ServerGoneError as gone:
        found = Scores(variant=serving.variant, suite=plan.suite, stage=stage, failure=str(gone))
    ended = local_vllm.why_it_ended(serving) if found.failure and not serving.failure else ""
    return found.model_copy(update={"failure": f"{ended} {found.failure}"}) if ended else found


def with_tokenizer(serving: Server, results: str) -> Server:
    """The server with its tokenizer on this machine: the step that started it may have run on another."""
    if not serving.url or Path(serving.model_path).exists():
        return serving
    weights = RunResults(results).weights(serving.variant).read(Weights)
    if weights is None:
        return serving
    folder = fetch(weights.uri, cache_dir(), weights=False)
    return serving.model_copy(update={"model_path": str(folder)})


def asked_again(found: Scores, serving: Server, plan: EvaluationPlan, step: progress.Step) -> Scores:
    """The baseline's scores with the answers of a second pass, from which the gate takes the noise floor.

    When that pass fails, the failure takes their place: limits would be judged that the floor may forbid.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "records.parquet"
        again = answered(serving, plan.model_copy(update={"ledger": False}), suites.FULL, step, file)
        if again.failure:
            return again
        return found.model_copy(update={"again": RunResults(plan.results).records(BASELINE, AGAIN).put(file)})


def keep(found: Scores, step: progress.Step, results: str, scores: str, *, skipped: bool = False) -> None:
    """Hand the scores on, with their records where there are new ones, and tell them."""
    kept = RunResults(results).variant(found.variant)
    if found.records and not skipped:
        uri = kept.records(found.stage).put(Path(found.records))
        found = found.model_copy(update={"records": uri})
    found.write(scores)
    kept.scores(step.step).put(Path(scores))
    note = found.describe()
    if found.reused and not skipped:
        note += f"; {found.reused} of {found.requests} answers were known"
    if found.look < found.looks:
        note += f"; {sum(each.items for each in found.tasks)} of {found.planned_items} questions settle it"
    step.end(found.failure, skipped=skipped, note=note)
