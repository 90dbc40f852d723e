"""The exit statuses of verdicts, for `gate` and for the commands that wait for a run on a cluster."""

from collections.abc import Iterable

EXITS = {"ship": 0, "monitor": 0, "inconclusive": 3, "reject": 1, "ab_test": 1, "not_comparable": 4, "failed": 4}
WORST_LAST = (0, 3, 1, 4)
USER_ERROR, INTERRUPTED = 2, 130
UNFIT = 1
"""`doctor --cluster` found what would stop a run."""


def exit_of(verdicts: Iterable[str]) -> int:
    """The exit status of the variants' worst verdict; without variants the status of `failed`."""
    return max((EXITS[verdict] for verdict in verdicts), key=WORST_LAST.index, default=EXITS["failed"])
