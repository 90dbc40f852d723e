"""The step report: write the decision matrix for people and for scripts."""

import tempfile
from pathlib import Path

from components.run import progress
from components.run.artifacts import Decision
from components.storage.location import open_store


def report(decision: str, results: str, html: str, markdown: str) -> None:
    """Write the decision matrix for people and for scripts."""
    from components.report.matrix import verdicts_json
    from components.report.pages import plots, write_report

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
