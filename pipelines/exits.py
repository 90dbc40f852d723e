"""Exit statuses that tell a verdict: of `gate`, and of what waits for a run on a cluster."""

from collections.abc import Iterable

EXITS = {"ship": 0, "monitor": 0, "inconclusive": 3, "reject": 1, "ab_test": 1, "not_comparable": 4, "failed": 4}
WORST_LAST = (0, 3, 1, 4)
USER_ERROR, INTERRUPTED = 2, 130


def exit_of(verdicts: Iterable[str]) -> int:
    """The exit status of the worst of the variants' verdicts; without any variant that of a failed one."""
    return max((EXITS[each] for each in verdicts), key=WORST_LAST.index, default=EXITS["failed"])
