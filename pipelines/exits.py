"""The exit statuses of the commands: MEANINGS is what docs/cli.md prints."""

from collections.abc import Iterable

EXITS = {
    "ship": 0,
    "monitor": 0,
    "inconclusive": 3,
    "reject": 1,
    "ab_test": 1,
    "not_comparable": 4,
    "failed": 4,
    "skipped": 4,
}
WORST_LAST = (0, 3, 1, 4)
USER_ERROR, INTERRUPTED = 2, 130
UNFIT = 1
"""`doctor --cluster` found what would stop a run."""
RUN_FAILED = 1
BY_VERDICT = "`gate`, `run --exit-by-verdict`, `submit`, `follow`"
MEANINGS = {
    0: f"`run`: the run ended, whatever its verdicts are. {BY_VERDICT}: the worst is ship or monitor",
    1: f"`run`: it failed. `doctor`: a run would stop. {BY_VERDICT}: the worst is reject or A/B test."
    " `rollout`: nothing was written, because the verdict is reject",
    USER_ERROR: "A mistake that you can fix; one message says what happened and what to do",
    3: f"{BY_VERDICT}: the worst is inconclusive. `rollout`: nothing was written, for that reason",
    4: f"{BY_VERDICT}: a variant is not comparable or failed, or the run on the cluster reached no verdict."
    " `rollout`: nothing was written, for one of the first two reasons, or because a search did not try the variant",
    INTERRUPTED: "The command was interrupted",
}


def exit_of(verdicts: Iterable[str], *, search: bool = False) -> int:
    """The exit status of the variants' worst verdict, of a search of the best; without variants that of `failed`."""
    worst = min if search else max
    return worst((EXITS[row] for row in verdicts if row != "skipped"), key=WORST_LAST.index, default=EXITS["failed"])
