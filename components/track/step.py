"""The step track: record the run in MLflow."""

import tempfile
import time
from pathlib import Path

from components.errors import PrerequisiteError
from components.policies.policy import chosen
from components.run import progress
from components.run.artifacts import Decision
from components.run.results import hand_on_judged
from components.storage.location import open_store
from components.track import kept_flips
from components.tracking.uris import own_store


def track(decision: str, run_id: str, results: str, tracking_uri: str, html: str, markdown: str, tracked: str) -> str:
    """Record the run in MLflow, in the run's folder unless a tracking URI says where; returns where it is.

    A server that does not take it is no failure of the run: what it was to get stays in the results for `quantgate
    track`, and the step says so.
    """
    from components.track.mlflow_writer import track as track_run
    from components.track.spool import PLOTS, VERDICTS, spooled
    from components.tracking.earlier import judged_by
    from components.tracking.facts import FACTS, RunFiles, facts_here

    with progress.step(results, "track") as step, tempfile.TemporaryDirectory() as scratch:
        answer = Decision.read(decision)
        if answer.judged_in:
            hand_on_judged("tracked.json", results, tracked)
            step.end(skipped=True, note=f"it is {answer.judged_in}")
            return answer.judged_in
        pages = {"report.html": Path(html).read_text("utf-8"), "report.md": Path(markdown).read_text("utf-8")}
        kept = {name: open_store(results).get_text(name) for name in (VERDICTS, *PLOTS)}
        texts = pages | {name.rpartition("/")[2]: text for name, text in kept.items() if text is not None}
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
            found = track_run(answer, facts, RunFiles(files, flips=kept_flips.tables_of_flips(results)), uri)
        except PrerequisiteError as error:
            found = spooled(answer, uri, str(error))
        found.write(tracked)
        open_store(results).put_file(Path(tracked), "tracked.json")
        step.end(note=found.page or f"Not in MLflow: {found.spooled} To send it later: quantgate track {results}")
    return found.page or f"not in MLflow: {found.spooled}"
