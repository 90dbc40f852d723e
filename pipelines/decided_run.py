"""What the commands that act on a verdict have in common: the checked decision of a run, and files to write."""

from collections.abc import Mapping
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.promote.registry import RANKED, rank
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.storage.artifact import write_text
from quantgate.pipelines.terminal_output import print_text


def checked_decision(results: RunResults, tracking_uri: str = "") -> Decision:
    """The decision in the results; raises PrerequisiteError unless it is the one that the gate wrote.

    Records that cannot be read from here are named on stderr: they are not compared.
    """
    from quantgate.components.run.evidence_check import checked_results

    checked = checked_results(results)
    mismatches, unread = list(checked.mismatches), checked.unread
    if tracking_uri:
        from quantgate.components.tracking.verification import recorded_mismatches

        mismatches += recorded_mismatches(results, checked.decision, tracking_uri)
    if mismatches:
        raise PrerequisiteError(f"The decision in {results.location} is not to be relied on: {'; '.join(mismatches)}.")
    for records in unread:
        print_text(f"Not compared, because they cannot be read from here: {records}", to_stderr=True)
    return checked.decision


def best_variant(decision: Decision) -> str:
    """The variant that the registry would make the candidate; raises PrerequisiteError if none can be."""
    ranked = [row for row in decision.verdicts if row.verdict in RANKED]
    if not ranked:
        verdicts = ", ".join(f"{row.variant}: {row.verdict}" for row in decision.verdicts[1:]) or "it has no variants"
        raise PrerequisiteError(f"No variant of the run may serve ({verdicts}). Name one to see why.")
    return min(ranked, key=rank).variant


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files and list them; raises PrerequisiteError for a folder that cannot be written."""
    for name, text in files.items():
        try:
            write_text(folder / name, text)
        except OSError as error:
            raise PrerequisiteError(
                f"Cannot write {folder / name}: {error.strerror}. Choose another folder with --out."
            ) from error
        print_text(f"Wrote {folder / name}")
