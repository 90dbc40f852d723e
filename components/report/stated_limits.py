"""The limits that a policy states in words, for drawing and for choosing how many digits a drop needs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

AVERAGE = "average"
_UPPER = re.compile(r"(?:under|at most|to|<=?|≤)\s*(?P<percent>\d+(?:\.\d+)?)\s*(?:%|points?\b)")
_RANGE = re.compile(r"\s*(?:\bunder\b|\bat most\b|\bfrom\b|\bto\b|<|≤).*")


@dataclass(frozen=True)
class StatedLimit:
    """A drop that a band or a use case allows at most."""

    subject: str
    """A band's word, a task's name, or `average`."""
    words: str
    """`under 3 %`, `at most 2 %`."""
    drop: float


def limits(policy: str) -> tuple[StatedLimit, ...]:
    """Each upper bound in the words, e.g. of `average drop: ship under 1 %, monitor from 1 % to under 3 %; ...`.

    None where the words give none: nothing is then drawn.
    """
    found = []
    for part in re.split(r"[,;:]\s", policy):
        bounds = list(_UPPER.finditer(part))
        subject = _RANGE.sub("", part).strip()
        if bounds and subject:
            found.append(StatedLimit(subject, bounds[-1].group(0), float(bounds[-1].group("percent")) / 100))
    return tuple(found)


def bounds(policy: str, tasks: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """The drops at which the policy's answer changes, for each task and for the `average`."""
    found: dict[str, tuple[float, ...]] = {AVERAGE: (), **dict.fromkeys(tasks, ())}
    for limit in limits(policy):
        subject = limit.subject if limit.subject in found else AVERAGE
        found[subject] = (*found[subject], limit.drop)
    return found
