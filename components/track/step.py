"""The step track: record the run in MLflow."""

import tempfile
import time
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run import progress
from quantgate.components.run.results import ResultFile, RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.track import flip_tables
from quantgate.components.tracking.tags import ascii_name
from quantgate.components.tracking.uris import own_store


def track(decision: str, run_id: str, results: str, tracking_uri: str, html: str, markdown: str, tracked: str) -> str:
    """Record the run in MLflow, by default in the run's folder; returns the run's page or why MLflow does not have it.

    The run does not fail if MLflow does not record it: the results keep everything that `quantgate track` needs to send
    it later, and the step's note says so.
    """
    from quantgate.components.track.mlflow_writer import track as track_run
    from quantgate.components.track.spool import spooled_run
    from quantgate.components.tracking.earlier import verdict_key
    from quantgate.components.tracking.facts import RunFiles, facts_here
    from quantgate.components.tracking.tracked_run import TrackedRun

    with progress.step(results, "track") as step, tempfile.TemporaryDirectory() as scratch:
        decided, run_results = Decision.read(decision), RunResults(results)
        if decided.judged_in:
            if not run_results.earlier_tracked.get(Path(tracked)):
                raise PrerequisiteError(
                    f"The location of the earlier run in MLflow is missing from {results}. Run the pipeline again."
                )
            run_results.tracked.put(Path(tracked))
            step.end(skipped=True, note=f"Recorded already: {decided.judged_in}")
            return TrackedRun.read(tracked).link
        pages = {run_results.report: html, run_results.report_markdown: markdown}
        files = tuple(
            path for file in run_results.report_files if (path := copied(file, Path(scratch), pages.get(file)))
        )
        uri = tracking_uri or own_store(results)
        name = ascii_name(f"{decided.suite} {run_id[:8]}")
        key = verdict_key(decided.plan) if decided.plan else ""
        changes = {"settings": {"engine": decided.engine or "none"}, "judged_by": key, "judged_at": time.time()}
        if decided.plan and decided.plan.started_at:
            changes["started_at"] = decided.plan.started_at
        facts = facts_here(run_id, name).model_copy(update=changes)
        run_results.facts.write(facts)
        try:
            flips = flip_tables.read_flip_tables(run_results, (row.variant for row in decided.verdicts))
            recorded = track_run(decided, facts, RunFiles(files, flips=flips), uri)
        except PrerequisiteError as error:
            recorded = spooled_run(decided, uri, str(error))
        recorded.write(tracked)
        run_results.tracked.put(Path(tracked))
        not_taken = f"Not in MLflow: {recorded.spooled}"
        to_do = f"{not_taken}\nTo send it later: quantgate track {results}" if recorded.spooled else ""
        step.end(note=recorded.page or not_taken, to_do=to_do)
    return recorded.page or f"not in MLflow: {recorded.spooled}"


def copied(file: ResultFile, folder: Path, artifact: str | None) -> Path | None:
    """A copy of the file in the folder, from the step's artifact if there is one; None if the run has no such file."""
    copy = folder / Path(file.name).name
    if artifact:
        copy.write_bytes(Path(artifact).read_bytes())
        return copy
    return copy if file.get(copy) else None
