"""The step report: write the decision matrix for people and for scripts."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from quantgate.components.run import progress
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision


def report(decision: str, results: str, html: str, markdown: str) -> None:
    """Write the decision matrix for people and for scripts."""
    from quantgate.components.report.matrix import verdicts_json
    from quantgate.components.report.model_card import card_files
    from quantgate.components.report.pages import plots, write_report
    from quantgate.components.rollout.gitops_files import written_plan
    from quantgate.components.servers.cluster_settings import from_environment

    settings = from_environment()
    with progress.step(results, "report") as step, tempfile.TemporaryDirectory() as scratch:
        answer = Decision.read(decision)
        page, text = write_report(answer, Path(scratch), run=Path(results).name, engine=answer.engine)
        files = RunResults(results)
        step.end(note=files.report.put(page))
        step.judge([(verdict.variant, verdict.verdict, verdict.sentence) for verdict in answer.verdicts[1:]])
        files.report_markdown.put(text)
        files.verdicts.put_text(verdicts_json(answer))
        for row in answer.verdicts[1:]:
            for name, content in written_plan(answer, row.variant, settings).items():
                files.rollout(row.variant, name).put_text(content)
            if row.scores and row.verdict != "failed":
                for name, content in card_files(answer, row.variant, datetime.now(UTC)).items():
                    files.card(row.variant, name).put_text(content)
        for name, drawing in plots(answer).items():
            files.plot(name).put_text(drawing)
        Path(html).write_bytes(page.read_bytes())
        Path(markdown).write_bytes(text.read_bytes())
