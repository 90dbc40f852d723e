"""The drops that a policy allows at most, for drawing and for choosing how many digits a drop needs."""

from collections.abc import Iterable
from dataclasses import dataclass

from components.policies.policy import UseCase

AVERAGE = "average"


@dataclass(frozen=True)
class StatedLimit:
    """A drop that a band or a use case allows at most."""

    subject: str
    """A band's word, a task's name, or `average`."""
    words: str
    """`under 3 %`, `at most 2 %`."""
    drop: float
    task: str = ""
    """The task that is limited; empty for the average."""


def stated_limits(policy: UseCase) -> tuple[StatedLimit, ...]:
    """Where each band of the average drop ends, then the use case's own limits on drops."""
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
    """The drops at which the policy's answer changes, for each of these tasks and for the `average`."""
    limits = stated_limits(policy)
    by_task = {task: tuple(limit.drop for limit in limits if limit.task == task) for task in tasks}
    return {AVERAGE: tuple(limit.drop for limit in limits if not limit.task), **by_task}
