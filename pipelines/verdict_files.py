"""The files with the verdicts for a CI service: JUnit XML, and Markdown for a pull request.

They exist from the start of the command, and say that there is no verdict until there is one. So a CI service never
shows the verdicts of an earlier run, however the command ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.verdicts import Decision
from quantgate.components.storage.artifact import write_text

UNFINISHED = "quantgate ended before it reached a verdict. The job's log may say why."


@dataclass(frozen=True)
class VerdictFiles:
    """Where the verdicts are written; None for a file that is not wanted."""

    junit: Path | None = None
    summary: Path | None = None

    def check_outside(self, folder: Path) -> None:
        """Raise PrerequisiteError for a file in the folder of a run, which has the run's files only."""
        for file in filter(None, (self.junit, self.summary)):
            if file.absolute().is_relative_to(folder):
                raise PrerequisiteError(f"{file} is in the run's folder {folder}. Choose a place outside of it.")

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Write that there is no verdict yet, and if the block raises PrerequisiteError its reason.

        Raises PrerequisiteError at once for a file that cannot be written.
        """
        self.write_failure(UNFINISHED)
        try:
            yield
        except PrerequisiteError as error:
            self.write_failure(str(error))
            raise

    def write(self, decision: Decision) -> None:
        """Write the verdicts."""
        if self.junit:
            from quantgate.components.report.junit import junit

            written(self.junit, junit(decision))
        if self.summary:
            from quantgate.components.report.pages import pull_request

            written(self.summary, pull_request(decision))

    def write_failure(self, reason: str) -> None:
        """Write that there is no verdict, and why."""
        if self.junit:
            from quantgate.components.report.junit import junit_without_verdict

            written(self.junit, junit_without_verdict(reason))
        if self.summary:
            from quantgate.components.report.pages import in_block

            written(self.summary, f"### No verdict\n\n{in_block(reason)}\n")


def written(file: Path, text: str) -> None:
    """Replace the file's text; raises PrerequisiteError if it cannot be written."""
    try:
        write_text(file, text)
    except OSError as error:
        raise PrerequisiteError(f"Cannot write {file}: {error.strerror}. Choose another file.") from error


def verdict_files(
    junit: Annotated[Path | None, typer.Option(help="Write the verdicts to this file as JUnit XML, for CI.")] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Write the verdicts to this file as short Markdown, for a pull request.")
    ] = None,
) -> VerdictFiles:
    """The files of these options, for `takes`."""
    return VerdictFiles(junit, summary)
