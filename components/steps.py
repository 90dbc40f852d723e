"""The steps as the pipeline runs them: read what the steps before wrote, do the work, write what comes next.

Each function here has the name of its step. Parameters are names, locations and paths of files; the work itself is in
the folder of the same name and knows nothing of files handed over or of kfp.
"""

import os
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from components import progress
from components.artifacts import Decision, Model, Scores, Server, Weights
from components.errors import PrerequisiteError
from components.evaluate import suites
from components.gate.policy import UseCase, check_use_case, chosen
from components.models import cache_dir
from components.store import fetch, open_store
from components.variants import BASELINE, variant_named, with_baseline

if TYPE_CHECKING:
    from components.evaluate import Enough
    from components.gate.answers import Answers
    from components.gate.candidate import Candidate


def check(model: str, variants: list[str], suite: str, use_case: str, policy: str) -> list[str]:
    """The variants to run, the baseline first; raises PrerequisiteError before anything is started."""
    from components.models import check_source

    named = with_baseline(variants)
    check_use_case(chosen(use_case, policy), [each.task for each in suites.suite_named(suite).tasks])
    check_source(model)
    return named


def check_places(store: str, tracking_uri: str) -> None:
    """Raises PrerequisiteError when the store cannot be opened or MLflow does not answer."""
    open_store(store).get_text("recipes/none.json")  # an S3 that refuses or does not answer says so here
    if tracking_uri:
        from components.track.connect import connected

        with connected(tracking_uri):
            return


def resolve(
    model: str, variants: list[str], suite: str, use_case: str, policy: str, store: str, results: str, baseline: str
) -> list[str]:
    """Check the parameters, bring the model into the store, and name the variants to run."""
    from components import models
    from components.evaluate.rows import embedded
    from components.quantize import Calibration

    with progress.step(results, "resolve") as step:
        named = check(model, variants, suite, use_case, policy)
        for benchmark in (Calibration().benchmark, *(each.task for each in suites.suite_named(suite).tasks)):
            embedded(benchmark)  # what cannot be had is said here, before anything expensive
        found = models.resolve(model, open_store(store), cache_dir())
        found.write(baseline)
        step.end(note=f"{found.digest[:12]}, {found.size_bytes / 1e6:.0f} MB")
    return named


def quantize(variant: str, baseline: str, store: str, results: str, samples: int, tokens: int, weights: str) -> None:
    """Make the variant's weights."""
    from components.quantize import Calibration
    from components.quantize import quantize as quantize_model

    with progress.step(results, "quantize", variant) as step, work_folder(results) as folder:
        calibration = Calibration(samples=samples, tokens=tokens)
        made = quantize_model(
            variant_named(variant), Model.read(baseline), open_store(store), Path(folder), step, calibration
        )
        made.write(weights)
        open_store(results).put_file(Path(weights), f"variants/{variant}/weights.json")
        step.end(made.failure, note="reused from an earlier run" if made.reused else made.layout)


def deploy(weights: str, results: str, server: str) -> None:
    """Serve the variant's weights."""
    from components.serving import local

    made = Weights.read(weights)
    with progress.step(results, "deploy", made.variant) as step:
        started = Server(variant=made.variant, failure=made.failure)
        if not made.failure:
            try:
                started = local.deploy(made.variant, fetch(made.uri, cache_dir()), local_folder(results), made.digest)
            except PrerequisiteError as error:
                started = Server(variant=made.variant, failure=str(error))
        started.write(server)
        open_store(results).put_file(Path(server), server_name(made.variant))
        step.end(started.failure, skipped=bool(made.failure), note=f"{started.url} after {started.startup_s:.0f} s")


@dataclass(frozen=True)
class Asking:
    """What is asked, and where answers and results are kept."""

    suite: str
    use_ledger: bool
    store: str
    results: str


@dataclass(frozen=True)
class Staging:
    """How much is asked: whether a variant may be stopped early, and whether the baseline is asked twice."""

    policy: UseCase
    variants: int
    """How many share the error promise."""
    stop_early: bool
    noise_floor: bool


def staging(use_case: str, policy: str, variants: list[str], stop_early: bool, noise_floor: bool) -> Staging:
    """The Staging of a run of these variants; raises PrerequisiteError for a use case or a policy that is none."""
    others = [each for each in with_baseline(variants) if each != BASELINE]
    return Staging(chosen(use_case, policy), len(others), stop_early, noise_floor)


def evaluate_tiny(server: str, asking: Asking, scores: str, records: str) -> None:
    """Score the tiny stage of the suite."""
    serving = Server.read(server)
    with progress.step(asking.results, suites.TINY, serving.variant) as step:
        found = answered(serving, asking, suites.TINY, step, Path(records))
        keep(found, step, asking.results, scores, skipped=bool(serving.failure))


def evaluate_full(server: str, tiny: str, asking: Asking, staging: Staging, scores: str, records: str) -> None:
    """Score all of the suite, for a variant until more answers could not change its verdict."""
    serving, before = Server.read(server), Scores.read(tiny)
    with progress.step(asking.results, suites.FULL, serving.variant) as step:
        enough = stopping(before, staging, asking.results)
        stopped = before.model_copy(update={"stage": suites.FULL}) if before.failure else None
        if enough and not stopped:
            stopped = stopped_after_tiny(before, asking, enough)
        if stopped:
            keep(stopped, step, asking.results, scores, skipped=True)
            return
        found = answered(serving, asking, suites.FULL, step, Path(records), enough)
        if staging.noise_floor and serving.variant == BASELINE and not found.failure:
            found = asked_again(found, serving, asking, step)
        keep(found, step, asking.results, scores)


def answered(
    serving: Server, asking: Asking, stage: str, step: progress.Step, records: Path, enough: "Enough | None" = None
) -> Scores:
    """The scores of what the server answers; its per-item records go to the file."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # all it needs is here, and a hub that cannot be reached costs minutes
    from components.evaluate import evaluate
    from components.evaluate.ledger import ledger_file, shared
    from components.serving import local

    known = asking.use_ledger and not serving.failure
    with shared(ledger_file(), serving.identity, open_store(asking.store)) if known else nullcontext() as ledger:
        found = evaluate(serving, suites.suite_named(asking.suite), stage, step, records, ledger, enough)
    ended = local.why_it_ended(serving) if found.failure and not serving.failure else ""
    return found.model_copy(update={"failure": f"{ended} {found.failure}"}) if ended else found


def asked_again(found: Scores, serving: Server, asking: Asking, step: progress.Step) -> Scores:
    """The baseline's scores with the answers of a second pass, from which the gate takes the noise floor.

    When that pass fails, the failure takes their place: limits would be judged that the floor may forbid.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "again.parquet"
        again = answered(serving, replace(asking, use_ledger=False), suites.FULL, step, file)
        if again.failure:
            return again
        return found.model_copy(
            update={"again": open_store(asking.results).put_file(file, f"variants/{BASELINE}/again.parquet")}
        )


def keep(found: Scores, step: progress.Step, results: str, scores: str, *, skipped: bool = False) -> None:
    """Hand the scores on, with their records where there are new ones, and tell them."""
    kept = open_store(results)
    if found.records and not skipped:
        uri = kept.put_file(Path(found.records), f"variants/{found.variant}/{found.stage}.parquet")
        found = found.model_copy(update={"records": uri})
    found.write(scores)
    kept.put_file(Path(scores), f"variants/{found.variant}/{step.step}.json")
    note = ", ".join(f"{k} {v:.3f}" for k, v in found.by_task().items())
    if found.reused and not skipped:
        note += f"; {found.reused} of {found.requests} answers were known"
    if found.look < found.looks:
        note += f"; {sum(each.items for each in found.tasks)} of {found.planned_items} questions settle it"
    step.end(found.failure, skipped=skipped, note=note)


def stopping(tiny: Scores, staging: Staging, results: str) -> "Enough | None":
    """Whether a variant's answers are enough, told with the baseline's; None where that is not to be asked.

    The baseline is always asked everything, and a variant too whose baseline has not been (on a cluster that serves
    them side by side).
    """
    from components.evaluate import records
    from components.gate import saved
    from components.gate.stopping import Stopping

    if not staging.stop_early or tiny.failure or tiny.variant == BASELINE:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        baseline = kept_candidate(BASELINE, results, Path(scratch))
    weights = kept_weights(tiny.variant, results)
    if baseline is None or weights is None or baseline.weights.digest != weights.baseline_digest:
        return None
    rule = Stopping(staging.policy, baseline, weights, staging.variants)
    return lambda scores, found: rule.enough(scores, saved.by_task(records.table(found)))


def stopped_after_tiny(tiny: Scores, asking: Asking, enough: "Enough") -> Scores | None:
    """The tiny stage's scores as the last of a variant that they reject; None where it goes on."""
    from components.evaluate import records

    suite = suites.suite_named(asking.suite)
    planned = sum(task.items(suites.FULL) for task in suite.tasks)
    looked = tiny.model_copy(update={"look": 1, "looks": len(suite.looks), "planned_items": planned})
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tiny.parquet"
        found = open_store(asking.results).get_file(f"variants/{tiny.variant}/{suites.TINY}.parquet", file)
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


def undeploy(variant: str, results: str) -> None:
    """Stop the variant's server, if `deploy` got so far as to start one."""
    from components.serving import local

    with progress.step(results, "undeploy", variant):
        if (kept := open_store(results).get_text(server_name(variant))) is not None:
            local.undeploy(Server.model_validate_json(kept))


def server_name(variant: str) -> str:
    """Where the results keep the variant's server."""
    return f"variants/{variant}/server.json"


def gate(
    baseline: str,
    weights: list[str],
    scores: list[str],
    suite: str,
    use_case: str,
    policy: str,
    results: str,
    decision: str,
) -> None:
    """Decide on every variant."""
    from components.gate.decision import decide

    with progress.step(results, "gate") as step:
        reached = [Scores.read(each) for each in scores]
        answers, again = kept_answers(reached, results)
        limits, made = chosen(use_case, policy), [Weights.read(each) for each in weights]
        answer = decide(Model.read(baseline), suite, limits, made, reached, answers, again)
        answer = answer.model_copy(update={"policy_text": policy})
        answer.write(decision)
        open_store(results).put_file(Path(decision), "decision.json")
        step.end(note=", ".join(f"{row.variant}: {row.verdict}" for row in answer.verdicts))


def kept_answers(
    reached: list[Scores], results: str
) -> "tuple[dict[str, dict[str, Answers]], dict[str, Answers] | None]":
    """Each variant's answers item by item, and those of the baseline's second pass."""
    from components.gate import saved

    store = open_store(results)
    with tempfile.TemporaryDirectory() as scratch:

        def kept(variant: str, stage: str) -> "dict[str, Answers]":
            name = f"variants/{variant}/{stage}.parquet"
            if not store.get_file(name, Path(scratch) / "records.parquet"):
                raise PrerequisiteError(f"{name} is missing from {results}: evaluate {variant} again.")
            return saved.read_records(Path(scratch) / "records.parquet")

        answers = {each.variant: kept(each.variant, each.stage) for each in reached if each.records}
        again = next((kept(each.variant, "again") for each in reached if each.again), None)
    return answers, again


def report(decision: str, results: str, html: str, markdown: str) -> None:
    """Write the decision matrix for people and for scripts."""
    from components.report import verdicts_json, write_report

    with progress.step(results, "report") as step, tempfile.TemporaryDirectory() as scratch:
        answer = Decision.read(decision)
        page, text = write_report(answer, Path(scratch), run=Path(results).name, engine=answer.engine)
        store = open_store(results)
        step.end(note=store.put_file(page, "report.html"))
        store.put_file(text, "report.md")
        store.put_text(verdicts_json(answer), "verdicts.json")
        Path(html).write_bytes(page.read_bytes())
        Path(markdown).write_bytes(text.read_bytes())


def track(decision: str, run_id: str, results: str, tracking_uri: str, html: str, markdown: str, tracked: str) -> None:
    """Record the run in MLflow: in the run's folder unless a tracking URI says where."""
    from components.report import verdicts_json
    from components.track import RunFiles, facts_here, local_tracking_uri
    from components.track import track as track_run

    with progress.step(results, "track") as step, tempfile.TemporaryDirectory() as scratch:
        answer = Decision.read(decision)
        files = [Path(scratch) / name for name in ("report.html", "report.md", "verdicts.json")]
        files[0].write_bytes(Path(html).read_bytes())
        files[1].write_bytes(Path(markdown).read_bytes())
        files[2].write_text(verdicts_json(answer), encoding="utf-8")
        uri = tracking_uri or local_tracking_uri(local_folder(results) / "mlflow")
        name = f"{answer.suite} {run_id[:8]}"
        facts = facts_here(run_id, name).model_copy(update={"settings": {"engine": answer.engine or "none"}})
        found = track_run(answer, facts, RunFiles(report=tuple(files)), uri)
        found.write(tracked)
        open_store(results).put_file(Path(tracked), "tracked.json")
        step.end(note=found.page)


def local_folder(results: str) -> Path:
    """The results' folder on this machine; raises PrerequisiteError when they are not on it."""
    if "://" in results:
        raise PrerequisiteError(
            f"This step works beside its results and they are at {results}. Give a local folder for `results`, and "
            "a tracking URI where MLflow is elsewhere."
        )
    return Path(results)


def work_folder(results: str) -> AbstractContextManager[str]:
    """A folder for logs and scratch: the results' own where they are local, else one that goes with the step."""
    return tempfile.TemporaryDirectory() if "://" in results else nullcontext(results)
