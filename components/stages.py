"""The two stages of an evaluation: ask what the plan says, keep what came of it, and stop where nothing can change."""

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import progress, questions
from components.artifacts import EvaluationPlan, Model, Scores, Server, Weights
from components.errors import PrerequisiteError, ServerGoneError
from components.evaluate import suites
from components.gate.policy import chosen
from components.models import cache_dir
from components.store import fetch, open_store
from components.variants import BASELINE, VARIANTS

if TYPE_CHECKING:
    from components.artifacts import Flip
    from components.evaluate import Enough
    from components.evaluate.records import Record
    from components.gate.answers import Answers
    from components.gate.candidate import Candidate


def judged_before(model: Model, plan: EvaluationPlan, tracking_uri: str) -> EvaluationPlan:
    """The plan with the MLflow run that judged this model by it, whose decision stays in the results.

    The plan as it is where there is no such run, or MLflow does not answer: the model is judged then.
    """
    from components.track.earlier import judged

    try:
        found = judged(model, plan, chosen(plan.use_case, plan.policy), tracking_uri)
    except PrerequisiteError:
        return plan
    if not found:
        return plan
    decision, tracked = found
    store, told = open_store(plan.results), {"judged_in": tracked.link}
    store.put_text(decision.model_copy(update=told).model_dump_json(indent=2) + "\n", "judged/decision.json")
    store.put_text(tracked.model_dump_json(indent=2) + "\n", "judged/tracked.json")
    return plan.model_copy(update=told)


def hand_on_judged(name: str, results: str, to: str) -> None:
    """Hand on what `judged_before` left in the results: decision.json, or tracked.json."""
    store = open_store(results)
    if not store.get_file(f"judged/{name}", Path(to)):
        raise PrerequisiteError(f"The earlier {name} is missing from {results}: run it again.")
    store.put_file(Path(to), name)


def scored_before(made: Weights, plan: EvaluationPlan, identity: str, tracking_uri: str) -> Server | None:
    """A server that need not be started: MLflow has the baseline's scores, which are in the results now. Else None."""
    if made.variant != BASELINE or not plan.ledger or not tracking_uri:
        return None
    from components.track.earlier import scored

    with tempfile.TemporaryDirectory() as scratch:
        try:
            held = scored(made, plan, identity, tracking_uri, Path(scratch))
        except PrerequisiteError:  # it is asked then
            return None
        if not held:
            return None
        store = open_store(plan.results)
        places = {
            name: store.put_file(Path(scratch) / f"{name}.parquet", f"variants/{BASELINE}/{name}.parquet")
            for name in ("full", *(("again",) if plan.noise_floor else ()))
        }
        told = held.model_copy(update={"records": places["full"], "again": places.get("again", "")})
        store.put_text(told.model_dump_json(indent=2) + "\n", f"variants/{BASELINE}/full.json")
    return Server(variant=BASELINE, engine=held.engine, identity=identity, scored_in=held.scored_in)


def hand_on(serving: Server, step: progress.Step, results: str, scores: str) -> None:
    """Hand on the scores that `scored_before` left in the results: all of them, whatever the stage."""
    if not open_store(results).get_file(f"variants/{serving.variant}/full.json", Path(scores)):
        raise PrerequisiteError(f"The scores of {serving.variant} are missing from {results}: run it again.")
    step.end(skipped=True, note=f"{in_words(Scores.read(scores))}; scored before in {serving.scored_in}")


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
    from components.evaluate import evaluate
    from components.evaluate.ledger import ledger_file, shared
    from components.serving import local, verbs

    serving = with_tokenizer(serving, plan.results)
    known = plan.ledger and not serving.failure
    kept = shared(ledger_file(), serving.identity, open_store(plan.store)) if known else nullcontext()
    try:
        with verbs.kept_alive(serving, plan.results), kept as ledger:
            found = evaluate(serving, questions.questions_of(plan), stage, step, records, ledger, enough)
    except ServerGoneError as gone:
        found = Scores(variant=serving.variant, suite=plan.suite, stage=stage, failure=str(gone))
    ended = local.why_it_ended(serving) if found.failure and not serving.failure else ""
    return found.model_copy(update={"failure": f"{ended} {found.failure}"}) if ended else found


def with_tokenizer(serving: Server, results: str) -> Server:
    """The server with its tokenizer on this machine: the step that started it may have run on another."""
    weights = kept_weights(serving.variant, results) if serving.url and not Path(serving.model_path).exists() else None
    if weights is None:
        return serving
    folder = fetch(weights.uri, cache_dir(), weights=False)
    return serving.model_copy(update={"model_path": str(folder)})


def estimated(found: Scores, plan: EvaluationPlan, records_file: Path) -> Scores:
    """The scores with the IRT estimates of tinyBenchmarks' tasks, where the plan has their published parameters."""
    if not plan.irt_parameters or found.failure:
        return found
    import numpy as np

    from components.evaluate import irt, records

    with tempfile.TemporaryDirectory() as scratch:
        parameters = irt.read_parameters(questions.local_file(plan.irt_parameters, Path(scratch)))
    rows = sorted(records.read(records_file), key=lambda each: each.item_id)
    tasks = []
    for each in found.tasks:
        scores = [row.score for row in rows if row.task == each.task and row.score is not None]
        if each.task in parameters and len(scores) == irt.ANCHORS:
            with suppress(ArithmeticError):  # no ability explains the answers: there is no estimate then
                values = irt.estimate(np.array(scores), parameters[each.task])
                told = {"irt": values.irt, "p_irt": values.p_irt, "gp_irt": values.gp_irt}
                each = each.model_copy(update={"estimates": told})
        tasks.append(each)
    return found.model_copy(update={"tasks": tuple(tasks)})


def asked_again(found: Scores, serving: Server, plan: EvaluationPlan, step: progress.Step) -> Scores:
    """The baseline's scores with the answers of a second pass, from which the gate takes the noise floor.

    When that pass fails, the failure takes their place: limits would be judged that the floor may forbid.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "again.parquet"
        again = answered(serving, plan.model_copy(update={"ledger": False}), suites.FULL, step, file)
        if again.failure:
            return again
        return found.model_copy(
            update={"again": open_store(plan.results).put_file(file, f"variants/{BASELINE}/again.parquet")}
        )


def keep(found: Scores, step: progress.Step, results: str, scores: str, *, skipped: bool = False) -> None:
    """Hand the scores on, with their records where there are new ones, and tell them."""
    kept = open_store(results)
    if found.records and not skipped:
        uri = kept.put_file(Path(found.records), f"variants/{found.variant}/{found.stage}.parquet")
        found = found.model_copy(update={"records": uri})
    found.write(scores)
    kept.put_file(Path(scores), f"variants/{found.variant}/{step.step}.json")
    note = in_words(found)
    if found.reused and not skipped:
        note += f"; {found.reused} of {found.requests} answers were known"
    if found.look < found.looks:
        note += f"; {sum(each.items for each in found.tasks)} of {found.planned_items} questions settle it"
    step.end(found.failure, skipped=skipped, note=note)


def in_words(scores: Scores) -> str:
    """Each task's score, for a step's note."""
    return ", ".join(f"{task} {score:.3f}" for task, score in scores.by_task().items())


def stopping(tiny: Scores, plan: EvaluationPlan) -> "Enough | None":
    """Whether a variant's answers are enough, told with the baseline's; None where that is not to be asked.

    The baseline is always asked everything, and a variant too whose baseline has not been (on a cluster that serves
    them side by side).
    """
    from components.evaluate import records
    from components.gate import saved
    from components.gate.stopping import Stopping

    if not plan.stop_early or tiny.failure or tiny.variant == BASELINE:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        baseline = kept_candidate(BASELINE, plan.results, Path(scratch))
    weights = kept_weights(tiny.variant, plan.results)
    if baseline is None or weights is None or baseline.weights.digest != weights.baseline_digest:
        return None
    rule = Stopping(chosen(plan.use_case, plan.policy), baseline, weights, len(plan.variants) - 1)
    return lambda scores, found: rule.enough(scores, saved.by_task(records.table(found)))


def stopped_after_tiny(tiny: Scores, plan: EvaluationPlan, enough: "Enough") -> Scores | None:
    """The tiny stage's scores as the last of a variant that they reject; None where it goes on."""
    from components.evaluate import records

    suite = questions.suite_of(plan)
    planned = sum(task.items(suites.FULL) for task in suite.tasks)
    looked = tiny.model_copy(update={"look": 1, "looks": len(suite.looks), "planned_items": planned})
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tiny.parquet"
        found = open_store(plan.results).get_file(f"variants/{tiny.variant}/{suites.TINY}.parquet", file)
        return looked if found and looked.looks > 1 and enough(looked, records.read(file)) else None


def kept_weights(variant: str, results: str) -> Weights | None:
    """The variant's weights as the results keep them."""
    text = open_store(results).get_text(f"variants/{variant}/weights.json")
    return Weights.model_validate_json(text) if text else None


def kept_candidate(variant: str, results: str, scratch: Path) -> "Candidate | None":
    """A variant with all its answers as the results keep them; None before its full stage has ended."""
    from components.gate import saved

    store = open_store(results)
    for name in ("weights.json", "full.json", "full.parquet"):
        if not store.get_file(f"variants/{variant}/{name}", scratch / name):
            return None
    store.get_file(f"variants/{variant}/again.parquet", scratch / "again.parquet")  # where a second pass was asked for
    return saved.read_ours(scratch)


def kept_records(variant: str, stage: str, results: str, scratch: Path) -> Path:
    """The file of a stage's records, in `scratch`; raises PrerequisiteError when the results have none."""
    name, file = f"variants/{variant}/{stage}.parquet", scratch / f"{stage}.parquet"
    if not open_store(results).get_file(name, file):
        raise PrerequisiteError(f"{name} is missing from {results}: evaluate {variant} again.")
    return file


def kept_flips(reached: Sequence[Scores], results: str) -> "dict[str, list[Flip]]":
    """Of each variant the questions that it answers otherwise than the baseline; all of them stay in the results."""
    from components.evaluate import records
    from components.gate import moved

    store, found = open_store(results), {}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "records.parquet"

        def read(scores: Scores) -> "list[Record]":
            known = scores.records and store.get_file(f"variants/{scores.variant}/{scores.stage}.parquet", file)
            return records.read(file) if known else []

        baseline = next((read(each) for each in reached if each.variant == BASELINE), [])
        for each in reached:
            if each.variant != BASELINE and each.records:
                found[each.variant] = moved.flips(baseline, read(each))
                table = json.dumps(moved.columns(found[each.variant]), ensure_ascii=False)
                store.put_text(table + "\n", f"variants/{each.variant}/flips.json")
    return found


def tables_of_flips(results: str) -> dict[str, dict[str, list[Any]]]:
    """What `kept_flips` left in the results, by variant."""
    store = open_store(results)
    texts = {name: store.get_text(f"variants/{name}/flips.json") for name in VARIANTS}
    return {name: json.loads(text) for name, text in texts.items() if text}


def kept_answers(
    reached: list[Scores], results: str
) -> "tuple[dict[str, dict[str, Answers]], dict[str, Answers] | None]":
    """Each variant's answers item by item, and those of the baseline's second pass."""
    from components.gate import saved

    with tempfile.TemporaryDirectory() as scratch:

        def kept(variant: str, stage: str) -> "dict[str, Answers]":
            return saved.read_records(kept_records(variant, stage, results, Path(scratch)))

        answers = {each.variant: kept(each.variant, each.stage) for each in reached if each.records}
        again = next((kept(each.variant, "again") for each in reached if each.again), None)
    return answers, again
