"""The step track: record the run in MLflow."""

import tempfile
import time
from pathlib import Path

from components.errors import PrerequisiteError
from components.run import progress
from components.run.artifacts import Decision
from components.run.results import ResultFile, RunResults
from components.track import kept_flips
from components.tracking.uris import own_store


def track(decision: str, run_id: str, results: str, tracking_uri: str, html: str, markdown: str, tracked: str) -> str:
    """Record the run in MLflow, in the run's folder unless a tracking URI says where; returns where it is.

    A server that does not take it is no failure of the run: what it was to get stays in the results for `quantgate
    track`, and the step says so.
    """
    from components.track.mlflow_writer import track as track_run
    from components.track.spool import spooled
    from components.tracking.earlier import judged_by
    from components.tracking.facts import RunFiles, facts_here

    with progress.step(results, "track") as step, tempfile.TemporaryDirectory() as scratch:
        answer, kept = Decision.read(decision), RunResults(results)
        if answer.judged_in:
            if not kept.earlier_tracked.get(Path(tracked)):
                raise PrerequisiteError(f"Where MLflow keeps the earlier run is missing from {results}: run it again.")
            kept.tracked.put(Path(tracked))
            step.end(skipped=True, note=f"it is {answer.judged_in}")
            return answer.judged_in
        pages = {kept.report: html, kept.report_markdown: markdown}
        files = tuple(file for each in kept.report_files if (file := fetched(each, Path(scratch), pages.get(each))))
        uri = tracking_uri or own_store(results)
        name = f"{answer.suite} {run_id[:8]}"
        by = judged_by(answer.plan) if answer.plan else ""
        told = {"settings": {"engine": answer.engine or "none"}, "judged_by": by, "started_at": time.time()}
        facts = facts_here(run_id, name).model_copy(update=told)
        kept.facts.write(facts)
        try:
            found = track_run(answer, facts, RunFiles(files, flips=kept_flips.tables_of_flips(kept)), uri)
        except PrerequisiteError as error:
            found = spooled(answer, uri, str(error))
        found.write(tracked)
        kept.tracked.put(Path(tracked))
        step.end(note=found.page or f"Not in MLflow: {found.spooled} To send it later: quantgate track {results}")
    return found.page or f"not in MLflow: {found.spooled}"


def fetched(file: ResultFile, folder: Path, artifact: str | None) -> Path | None:
    """The file in the folder, from the step's artifact where it is one; None where the run has none."""
    copy = folder / Path(file.name).name
    if artifact:
        copy.write_bytes(Path(artifact).read_bytes())
        return copy
    return copy if file.get(copy) else None
