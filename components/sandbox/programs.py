"""Run programs that a language model wrote, as pass@1 of HumanEval and MBPP needs it, and never in the open."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from components.errors import PrerequisiteError
from components.sandbox.contained_run import run_contained
from components.sandbox.containment import Containment, Limits, Outcome, chosen_containment

__all__ = ["Containment", "Limits", "Outcome", "check_sandbox", "run_programs"]

TRIVIAL = "assert 1 + 1 == 2"
PAUSES_S = (1.0, 5.0)
"""Before a program that was killed from outside runs again; one that is killed each time has itself killed."""


def ignore(_number: int, _outcome: Outcome) -> None:
    """Tell nobody."""


def run_programs(
    programs: Sequence[str],
    on_done: Callable[[int, Outcome], None] = ignore,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    workers: int | None = None,
    containment: Containment | None = None,
    purpose: str = "programs",
) -> list[Outcome]:
    """Each program's outcome, in the order given; `on_done` hears each one's number and outcome once it has ended.

    A program is Python source that uses nothing but the standard library and asserts what it should do. `workers` run
    side by side, by default one a processor. `containment` is what `QUANTGATE_CONTAINMENT` says unless given; on a
    cluster `purpose` (the variant) is a part of the name of what runs them. Raises PrerequisiteError where there is no
    sandbox: a program that was not run has no outcome.
    """
    held_by = containment or chosen_containment()
    if not programs:
        return []
    if held_by is Containment.JOB:
        from components.sandbox.job import run_in_job

        return run_in_job(programs, on_done, limits, purpose)
    check_sandbox(held_by, limits)

    def outcome(program: str) -> Outcome:
        run = run_contained(program, limits, held_by)
        for pause_s in PAUSES_S if run.killed else ():
            time.sleep(pause_s)
            run = run_contained(program, limits, held_by)
            if not run.killed:
                break
        reason = run.reason()
        return Outcome(passed=not reason, reason=reason)

    pool = ThreadPoolExecutor(workers or processors(), thread_name_prefix="execute")
    try:
        running = {pool.submit(outcome, program): number for number, program in enumerate(programs)}
        for each in as_completed(running):
            on_done(running[each], each.result())
        return [each.result() for each in running]
    finally:
        pool.shutdown(cancel_futures=True)


def processors(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many processors this process may use: of the machine's those that it is bound to, or a container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text(encoding="ascii").split()
        return max(1, min(bound, int(most) // int(period)))
    except (OSError, ValueError):  # no container, or "max"
        return bound


def check_sandbox(containment: Containment | None = None, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
    """Run a trivial program; raises PrerequisiteError saying what to install or to allow where that does not work."""
    held_by = containment or chosen_containment()
    try:
        if held_by is Containment.JOB:
            reason = run_programs([TRIVIAL], limits=limits, containment=held_by, purpose="check")[0].reason
        else:
            reason = run_contained(TRIVIAL, limits, held_by).reason()
    except PrerequisiteError as error:
        if held_by is not Containment.BUBBLEWRAP or "not installed" in str(error):
            raise
        raise PrerequisiteError(
            f"{error}\nPrograms that a model wrote are only run in a sandbox, which needs bubblewrap 0.7 or newer and"
            " user namespaces. To allow these: `sysctl -w kernel.unprivileged_userns_clone=1` (Debian), `sysctl -w"
            " kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu), `sysctl -w user.max_user_namespaces=10000`"
            " (Red Hat); a container must be started with them allowed."
        ) from error
    if reason:
        raise PrerequisiteError(
            f"A program that does nothing fails in the sandbox: {reason}. Are the limits too small? {limits}"
        )
