"""The steps as the pipeline runs them: read what the steps before wrote, do the work, write what comes next.

Each function here has the name of its step. Parameters are names, locations and paths of files; the work itself is in
the folder of the same name and knows nothing of files handed over or of kfp.
"""

import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from components import progress, questions, stages
from components.artifacts import Decision, EvaluationPlan, Model, Scores, Server, Weights
from components.errors import PrerequisiteError
from components.evaluate import suites
from components.gate.policy import check_use_case, chosen
from components.models import cache_dir
from components.store import fetch, open_store
from components.variants import BASELINE, variant_named, with_baseline


def check(model: str, asked: EvaluationPlan) -> EvaluationPlan:
    """What is asked, the baseline with it; raises PrerequisiteError before anything is started."""
    from components.models import check_source

    variants = with_baseline(list(asked.variants))
    tasks = [each.task for each in questions.suite_of(asked).tasks]
    check_use_case(chosen(asked.use_case, asked.policy), tasks)
    check_source(model)
    return questions.check_questions(asked.model_copy(update={"variants": tuple(variants)}))


def check_places(store: str, tracking_uri: str) -> None:
    """Raises PrerequisiteError when the store cannot be opened or MLflow does not answer."""
    open_store(store).get_text("recipes/none.json")  # an S3 that refuses or does not answer says so here
    if tracking_uri:
        from components.track.connect import check_no_password, connected

        check_no_password(tracking_uri)
        with connected(tracking_uri, "answer"):
            return


def resolve(model: str, asked: EvaluationPlan, tracking_uri: str, baseline: str, plan: str) -> list[str]:
    """Check the parameters, bring the model and the rows to where the run finds them, and name the variants to run.

    Of a base model that is judged already, where such a one is to be skipped, only the baseline is named: its steps
    return early, and the gate hands on the earlier decision.
    """
    from components import models
    from components.evaluate.rows import embedded
    from components.quantize import Calibration

    with progress.step(asked.results, "resolve") as step:
        checked = check(model, asked)
        embedded(Calibration().benchmark)  # what cannot be had is said here, before anything expensive
        found = models.resolve(model, open_store(asked.store), cache_dir())
        planned = questions.rows_at_hand(checked, step)
        if planned.chat_template:
            questions.check_chat_template(str(fetch(found.uri, cache_dir(), weights=False)))
        if planned.skip_judged and (uri := tracking_uri or own_store(planned.results)):
            planned = stages.judged_before(found, planned, uri)
        found.write(baseline)
        planned.write(plan)
        open_store(asked.results).put_file(Path(plan), "plan.json")
        judged = f"; judged before in {planned.judged_in}" if planned.judged_in else ""
        step.end(note=f"{found.digest[:12]}, {found.size_bytes / 1e6:.0f} MB{judged}")
    return [BASELINE] if planned.judged_in else list(planned.variants)


def quantize(variant: str, baseline: str, plan: str, weights: str) -> None:
    """Make the variant's weights."""
    from components.quantize import Calibration
    from components.quantize import quantize as quantize_model

    model, planned = Model.read(baseline), EvaluationPlan.read(plan)
    results, known = planned.results, planned.judged_in
    with progress.step(results, "quantize", variant) as step, work_folder(results) as folder:
        calibration = Calibration(samples=planned.calibration_samples, tokens=planned.calibration_tokens)
        made = Weights(variant=variant, baseline_digest=model.digest, failure=f"Judged before in {known}.")
        if not known:
            store = open_store(planned.store)
            made = quantize_model(variant_named(variant), model, store, Path(folder), step, calibration)
        made.write(weights)
        open_store(results).put_file(Path(weights), f"variants/{variant}/weights.json")
        note = "reused from an earlier run" if made.reused else made.layout
        step.end(made.failure, skipped=bool(known), note=note)


def deploy(weights: str, plan: str, tracking_uri: str, server: str) -> None:
    """Serve the variant's weights; not the baseline's where MLflow holds its answers to just these questions."""
    from components.serving import verbs

    made, planned = Weights.read(weights), EvaluationPlan.read(plan)
    results = planned.results
    with progress.step(results, "deploy", made.variant) as step:
        started = Server(variant=made.variant, failure=made.failure)
        if not made.failure:
            try:
                folder = fetch(made.uri, cache_dir(), weights=verbs.reads_weights())
                held = stages.scored_before(made, planned, verbs.identity_here(folder, made.digest), tracking_uri)
                started = held or verbs.deploy(made, folder, results)
            except PrerequisiteError as error:
                started = Server(variant=made.variant, failure=str(error))
        started.write(server)
        open_store(results).put_file(Path(server), verbs.server_name(made.variant))
        note = f"scored before in {started.scored_in}" if started.scored_in else in_words(started)
        step.end(started.failure, skipped=bool(made.failure or started.scored_in), note=note)


def in_words(started: Server) -> str:
    """Where a server answers, for a step's note."""
    return f"{started.url} after {started.startup_s:.0f} s"


def evaluate_tiny(server: str, plan: str, scores: str, records: str) -> None:
    """Score the tiny stage of the suite."""
    serving, planned = Server.read(server), EvaluationPlan.read(plan)
    with progress.step(planned.results, suites.TINY, serving.variant) as step:
        if serving.scored_in:
            stages.hand_on(serving, step, planned.results, scores)
            return
        found = stages.answered(serving, planned, suites.TINY, step, Path(records))
        stages.keep(found, step, planned.results, scores, skipped=bool(serving.failure))


def evaluate_full(server: str, tiny: str, plan: str, scores: str, records: str) -> None:
    """Score all of the suite, for a variant until more answers could not change its verdict."""
    serving, before, planned = Server.read(server), Scores.read(tiny), EvaluationPlan.read(plan)
    with progress.step(planned.results, suites.FULL, serving.variant) as step:
        if serving.scored_in:
            stages.hand_on(serving, step, planned.results, scores)
            return
        enough = stages.stopping(before, planned)
        stopped = before.model_copy(update={"stage": suites.FULL}) if before.failure else None
        if enough and not stopped:
            stopped = stages.stopped_after_tiny(before, planned, enough)
        if stopped:
            stages.keep(stopped, step, planned.results, scores, skipped=True)
            return
        found = stages.answered(serving, planned, suites.FULL, step, Path(records), enough)
        found = stages.estimated(found, planned, Path(records))
        if planned.noise_floor and serving.variant == BASELINE and not found.failure:
            found = stages.asked_again(found, serving, planned, step)
        stages.keep(found, step, planned.results, scores)


def execute(full: str, plan: str, scores: str) -> None:
    """Run the programs that a variant wrote, in a sandbox, and score them; what else was asked stays as it is.

    Where the sandbox fails, the variant has no scores and the reason why: a program that was not run failed nothing.
    """
    answered, planned = Scores.read(full), EvaluationPlan.read(plan)
    suite = questions.suite_of(planned)
    if answered.failure or answered.scored_in or not suite.programs:
        answered.write(scores)
        return
    from components.execute.scores import scored

    with progress.step(planned.results, "execute", answered.variant) as step, tempfile.TemporaryDirectory() as scratch:
        store = open_store(planned.results)
        for name in (answered.stage, *(["again"] if answered.again else [])):
            file = stages.kept_records(answered.variant, name, planned.results, Path(scratch))
            try:
                ran = scored(answered, suite, file, step, chat_template=planned.chat_template)
            except PrerequisiteError as error:
                answered = answered.model_copy(update={"tasks": (), "failure": f"Its programs were not run: {error}"})
                break
            store.put_file(file, f"variants/{answered.variant}/{name}.parquet")
            answered = ran if name == answered.stage else answered
        answered.write(scores)
        store.put_file(Path(scores), f"variants/{answered.variant}/{answered.stage}.json")
        step.end(failure=answered.failure, note=stages.in_words(answered))


def undeploy(variant: str, results: str) -> None:
    """Stop the variant's server, if `deploy` got so far as to start one."""
    from components.serving import verbs

    with progress.step(results, "undeploy", variant):
        verbs.undeploy(variant, results)


def gate(baseline: str, plan: str, weights: list[str], scores: list[str], decision: str) -> dict[str, float]:
    """Decide on every variant; returns the numbers for the run's page, by what they are of."""
    from components.gate.decision import decide
    from components.gate.moved import examples

    planned = EvaluationPlan.read(plan)
    with progress.step(planned.results, "gate") as step:
        if planned.judged_in:
            stages.hand_on_judged("decision.json", planned.results, decision)
            step.end(skipped=True, note=f"judged before in {planned.judged_in}")
            return numbers(Decision.read(decision))
        reached = [Scores.read(each) for each in scores]
        answers, again = stages.kept_answers(reached, planned.results)
        limits, made = chosen(planned.use_case, planned.policy), [Weights.read(each) for each in weights]
        suite = questions.suite_of(planned).name
        answer = decide(Model.read(baseline), suite, limits, made, reached, answers, again)
        told = stages.kept_flips(reached, planned.results)
        shown = tuple(flip for row in answer.verdicts for flip in examples(told.get(row.variant, ())))
        answer = answer.model_copy(update={"policy_text": planned.policy, "plan": planned, "examples": shown})
        answer.write(decision)
        open_store(planned.results).put_file(Path(decision), "decision.json")
        step.end(note=", ".join(f"{row.variant}: {row.verdict}" for row in answer.verdicts))
    return numbers(answer)


def numbers(decision: Decision) -> dict[str, float]:
    """Each variant's drop, size and scores, named as the list of a run's metrics reads well."""
    found: dict[str, float] = {}
    for row in decision.verdicts:
        if row.average_drop is not None:
            found[f"{row.variant} average drop"] = row.average_drop
        if row.size_bytes:
            found[f"{row.variant} size, MB"] = row.size_bytes / 1e6
        found |= {f"{row.variant} {task}": score for task, score in row.scores.items()}
    return found


def report(decision: str, results: str, html: str, markdown: str) -> None:
    """Write the decision matrix for people and for scripts."""
    from components.report import plots, verdicts_json, write_report

    with progress.step(results, "report") as step, tempfile.TemporaryDirectory() as scratch:
        answer = Decision.read(decision)
        page, text = write_report(answer, Path(scratch), run=Path(results).name, engine=answer.engine)
        store = open_store(results)
        step.end(note=store.put_file(page, "report.html"))
        store.put_file(text, "report.md")
        store.put_text(verdicts_json(answer), "verdicts.json")
        for name, drawing in plots(answer).items():
            store.put_text(drawing, f"plots/{name}")
        Path(html).write_bytes(page.read_bytes())
        Path(markdown).write_bytes(text.read_bytes())


def track(decision: str, run_id: str, results: str, tracking_uri: str, html: str, markdown: str, tracked: str) -> str:
    """Record the run in MLflow, in the run's folder unless a tracking URI says where; returns where it is.

    A server that does not take it is no failure of the run: what it was to get stays in the results for `quantgate
    track`, and the step says so.
    """
    from components.report import plots, verdicts_json
    from components.track import RunFiles, facts_here
    from components.track import track as track_run
    from components.track.earlier import judged_by
    from components.track.spool import FACTS, spooled

    with progress.step(results, "track") as step, tempfile.TemporaryDirectory() as scratch:
        answer = Decision.read(decision)
        if answer.judged_in:
            stages.hand_on_judged("tracked.json", results, tracked)
            step.end(skipped=True, note=f"it is {answer.judged_in}")
            return answer.judged_in
        pages = {"report.html": Path(html).read_text("utf-8"), "report.md": Path(markdown).read_text("utf-8")}
        texts = {**pages, "verdicts.json": verdicts_json(answer), **plots(answer)}
        for name, text in texts.items():
            (Path(scratch) / name).write_text(text, encoding="utf-8")
        files = tuple(Path(scratch) / name for name in texts)
        uri = tracking_uri or own_store(results)
        name = f"{answer.suite} {run_id[:8]}"
        by = judged_by(answer.plan, chosen(answer.use_case, answer.policy_text)) if answer.plan else ""
        told = {"settings": {"engine": answer.engine or "none"}, "judged_by": by, "started_at": time.time()}
        facts = facts_here(run_id, name).model_copy(update=told)
        open_store(results).put_text(facts.model_dump_json(indent=2) + "\n", FACTS)
        try:
            found = track_run(answer, facts, RunFiles(files, flips=stages.tables_of_flips(results)), uri)
        except PrerequisiteError as error:
            found = spooled(answer, uri, str(error))
        found.write(tracked)
        open_store(results).put_file(Path(tracked), "tracked.json")
        step.end(note=found.page or f"Not in MLflow: {found.spooled} To send it later: quantgate track {results}")
    return found.page or f"not in MLflow: {found.spooled}"


def own_store(results: str) -> str:
    """The tracking URI of an MLflow store in the results' folder; empty where they are in a bucket."""
    from components.track import local_tracking_uri

    return "" if "://" in results else local_tracking_uri(Path(results) / "mlflow")


def promote(decision: str, tracked: str, results: str, tracking_uri: str, promoted: str, *, move: bool) -> None:
    """Register the variants in MLflow, and let the candidate become champion where that is wished and allowed.

    A candidate that its verdict does not let through is no failure of the run: the step says why it stays one. Nor is a
    registry that refuses. A run that only found an earlier one's verdict moves nothing: what serves may have been
    rolled back since.
    """
    from components.promote import Registered, register
    from components.promote import promote as promote_model
    from components.track import RunFacts, TrackedRun
    from components.track.spool import FACTS

    with progress.step(results, "promote") as step:
        answer, recorded = Decision.read(decision), TrackedRun.read(tracked)
        uri = tracking_uri or own_store(results)
        Registered(model="", versions={}).write(promoted)
        if recorded.spooled or answer.judged_in:
            step.end(
                skipped=True, note="MLflow does not have the run" if recorded.spooled else "nothing was judged anew"
            )
            return
        facts = RunFacts.model_validate_json(open_store(results).get_text(FACTS) or "{}")
        try:
            registered = register(answer, recorded, uri, judged_at=facts.started_at)
        except PrerequisiteError as refusal:
            step.end(note=f"Not in the registry: {refusal} To do it later: quantgate track {results}")
            return
        registered.write(promoted)
        open_store(results).put_file(Path(promoted), "registered.json")
        note = f"{registered.model}: candidate {registered.candidate or 'none'}"
        if move and registered.candidate:
            allowed = chosen(answer.use_case, answer.policy_text).promotes
            try:
                done = promote_model(uri, registered.model, registered.versions[registered.candidate], allowed=allowed)
                note += f", champion {done.variant}"
                open_store(results).put_text(done.model_dump_json(indent=2) + "\n", "promotion.json")
            except PrerequisiteError as refusal:
                note += f"; {refusal}"
        step.end(note=note)


def work_folder(results: str) -> AbstractContextManager[str]:
    """A folder for logs and scratch: the results' own where they are local, else one that goes with the step."""
    return tempfile.TemporaryDirectory() if "://" in results else nullcontext(results)
