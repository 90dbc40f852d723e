"""The steps as the pipeline runs them: read what the steps before wrote, do the work, write what comes next.

Each function here has the name of its step. Parameters are names, locations and paths of files; the work itself is in
the folder of the same name and knows nothing of files handed over or of kfp.
"""

import os
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from components import progress
from components.artifacts import Decision, Model, Scores, Server, Weights
from components.errors import PrerequisiteError
from components.evaluate import suites
from components.gate import policy
from components.models import cache_dir
from components.store import fetch, open_store
from components.variants import variant_named, with_baseline


def check(model: str, variants: list[str], suite: str, use_case: str) -> list[str]:
    """The variants to run, the baseline first; raises PrerequisiteError before anything is started."""
    from components.models import check_source

    chosen = with_baseline(variants)
    policy.check_use_case(use_case, [each.task for each in suites.suite_named(suite).tasks])
    check_source(model)
    return chosen


def check_places(store: str, tracking_uri: str) -> None:
    """Raises PrerequisiteError when the store cannot be opened or MLflow does not answer."""
    open_store(store).get_text("recipes/none.json")  # an S3 that refuses or does not answer says so here
    if tracking_uri:
        from components.track.connect import connected

        with connected(tracking_uri):
            return


def resolve(
    model: str, variants: list[str], suite: str, use_case: str, store: str, results: str, baseline: str
) -> list[str]:
    """Check the parameters, bring the model into the store, and name the variants to run."""
    from components import models
    from components.evaluate.rows import embedded
    from components.quantize import Calibration

    with progress.step(results, "resolve") as step:
        chosen = check(model, variants, suite, use_case)
        for benchmark in (Calibration().benchmark, *(each.task for each in suites.suite_named(suite).tasks)):
            embedded(benchmark)  # what cannot be had is said here, before anything expensive
        found = models.resolve(model, open_store(store), cache_dir())
        found.write(baseline)
        step.end(note=f"{found.digest[:12]}, {found.size_bytes / 1e6:.0f} MB")
    return chosen


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


def evaluate(
    server: str,
    suite: str,
    stage: str,
    use_ledger: bool,
    store: str,
    results: str,
    scores: str,
    records: str,
    before: str = "",
) -> None:
    """Score one stage of the suite; `before` are the scores of the stage before."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # all it needs is here, and a hub that cannot be reached costs minutes
    from components.evaluate import evaluate as evaluate_server
    from components.evaluate.ledger import ledger_file, shared

    serving = Server.read(server)
    earlier = Scores.read(before) if before else None
    with progress.step(results, stage, serving.variant) as step:
        if earlier and earlier.failure:
            found = earlier.model_copy(update={"stage": stage})
        else:
            known = use_ledger and not serving.failure
            with shared(ledger_file(), serving.identity, open_store(store)) if known else nullcontext() as ledger:
                found = evaluate_server(serving, suites.suite_named(suite), stage, step, Path(records), ledger)
        if not found.failure:
            uri = open_store(results).put_file(Path(records), f"variants/{serving.variant}/{stage}.parquet")
            found = found.model_copy(update={"records": uri})
        found.write(scores)
        open_store(results).put_file(Path(scores), f"variants/{serving.variant}/{stage}.json")
        skipped = bool(serving.failure or (earlier and earlier.failure))
        note = ", ".join(f"{k} {v:.3f}" for k, v in found.by_task().items())
        reused = f"; {found.reused} of {found.requests} answers were known" if found.reused else ""
        step.end(found.failure, skipped=skipped, note=note + reused)


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
    baseline: str, weights: list[str], scores: list[str], suite: str, use_case: str, results: str, decision: str
) -> None:
    """Decide on every variant."""
    from components.gate import decide

    with progress.step(results, "gate") as step:
        answer = decide(
            Model.read(baseline),
            suite,
            use_case,
            [Weights.read(each) for each in weights],
            [Scores.read(each) for each in scores],
        )
        answer.write(decision)
        open_store(results).put_file(Path(decision), "decision.json")
        step.end(note=", ".join(f"{row.variant}: {row.verdict}" for row in answer.verdicts))


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
