"""The limits on drops in a policy: the plots draw them, and they determine how many digits a printed drop needs."""

from collections.abc import Iterable
from dataclasses import dataclass

from quantgate.components.policies.policy import UseCase

AVERAGE = "average"


@dataclass(frozen=True)
class StatedLimit:
    """The largest drop that a band or a use case allows."""

    subject: str
    """A band's verdict, a task's name, or `average`."""
    words: str
    """`under 3 %`, `at most 2 %`."""
    drop: float
    task: str = ""
    """The limited task; empty for the average."""


def stated_limits(policy: UseCase) -> tuple[StatedLimit, ...]:
    """The end of each band of the average drop, then the use case's own limits on drops."""
    bands = [
        StatedLimit(band.verdict_label, band.upper_description, band.upper)
        for band in policy.band_list()
        if band.upper_description
    ]
    own = [
        StatedLimit(task, f"at most {policy.describe_limit(drop)}", drop, task)
        for task, drop in policy.max_drop.items()
    ]
    if policy.max_average_drop is not None:
        words = f"at most {policy.describe_limit(policy.max_average_drop)}"
        own.append(StatedLimit(AVERAGE, words, policy.max_average_drop))
    return (*bands, *own)


def bounds(policy: UseCase, tasks: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """The drops at which the policy's verdict changes, for each of these tasks and for the `average`."""
    limits = stated_limits(policy)
    by_task = {task: tuple(limit.drop for limit in limits if limit.task == task) for task in tasks}
    return {AVERAGE: tuple(limit.drop for limit in limits if not limit.task), **by_task}
