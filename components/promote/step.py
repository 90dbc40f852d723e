"""The step promote: register the variants, and let the candidate become champion."""

from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run import progress
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.tracking.uris import own_store


def promote(decision: str, tracked: str, results: str, tracking_uri: str, promoted: str, *, move: bool) -> None:
    """Register the variants in MLflow, and make the candidate champion if `move` is set and its verdict allows it.

    The run does not fail if the verdict does not allow it or the registry refuses: the step's note says why. A run that
    only found an earlier run's verdict changes nothing: the champion may have been rolled back since.
    """
    from quantgate.components.promote.promotion import promote as promote_model
    from quantgate.components.promote.registry import Registered, register
    from quantgate.components.tracking.facts import RunFacts
    from quantgate.components.tracking.tracked_run import TrackedRun

    with progress.step(results, "promote") as step:
        decided, recorded = Decision.read(decision), TrackedRun.read(tracked)
        uri = tracking_uri or own_store(results)
        Registered(model="", versions={}).write(promoted)
        if recorded.spooled or decided.judged_in:
            step.end(
                skipped=True, note="MLflow does not have the run" if recorded.spooled else "the run has no new verdict"
            )
            return
        facts = RunResults(results).facts.read(RunFacts)
        try:
            registered = register(decided, recorded, uri, judged_at=facts.decided_at if facts else 0.0)
        except PrerequisiteError as refusal:
            note = f"Not in the registry: {refusal}"
            step.end(note=note, to_do=f"{note}\nTo register it later: quantgate track {results}")
            return
        registered.write(promoted)
        RunResults(results).registered.put(Path(promoted))
        note = f"{registered.model}: candidate {registered.candidate or 'none'}"
        if move and registered.candidate:
            allowed = decided.limits.promotes
            try:
                promotion = promote_model(
                    uri, registered.model, registered.versions[registered.candidate], allowed=allowed
                )
                note += f", champion {promotion.variant}"
                RunResults(results).promotion.write(promotion)
            except PrerequisiteError as refusal:
                note += f"; {refusal}"
        step.end(note=note)
