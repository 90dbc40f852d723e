"""The step conclude: fail the run if it has a verdict that the plan names for that."""

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run import progress
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.verdicts import Decision, Verdict


def conclude(decision: str, plan: str) -> None:
    """Raise PrerequisiteError with the verdicts that fail the run; the step is the last, so all is recorded.

    A run that only found an earlier run's verdict does not fail: that run did.
    """
    planned = EvaluationPlan.read(plan)
    if not planned.failing_verdicts:
        return
    with progress.step(planned.results, "conclude") as step:
        decided = Decision.read(decision)
        if decided.judged_in:
            step.end(skipped=True, note="the run has no new verdict")
            return
        if planned.search and any(row.verdict in decided.limits.promotes for row in decided.verdicts):
            step.end(note="the search found a variant; those that it rejected before are expected")
            return
        if failing := [row for row in decided.verdicts if row.verdict in planned.failing_verdicts]:
            raise PrerequisiteError(
                f"{'; '.join(map(describe, failing))} The run is complete and recorded, and its results are at "
                f"{planned.results}. It fails because `fail_run_on` is {planned.fail_run_on!r}."
            )
        step.end(note=f"no variant is {' or '.join(planned.failing_verdicts)}")


def describe(row: Verdict) -> str:
    """A variant's verdict with the first line of its reason, and what to do."""
    return f"{row.variant} is {row.verdict}: {row.sentence.splitlines()[0]} {row.next_step}".rstrip()
