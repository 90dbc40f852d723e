"""What looking again costs: how often a variant at the limit passes in the end, with and without a record of attempts.

    python benchmarks/gate_attempts.py [--draws 2000] [--processes 2]

One task, a baseline of 0.6, 10 % of the answers differ, a limit of 2 % relative to the baseline, 95 % confidence.
Answers are drawn with a known truth; the gate's own tests judge them. Who judges again, and how:

  as advised      1,000 questions; after an inconclusive verdict as many more as the verdict says, at most six times and
                  at most 200,000 in all
  doubling        500 questions; after an inconclusive verdict twice as many, up to 64,000
  quantize again  1,319 questions; after a verdict that is no pass a new variant of the same quality, up to ten
  both            three variants, each asked as advised

Columns:

  false pass      how often any of it passes when every variant loses exactly the limit; promised: 5 % at most
  right           how often it passes in the end when the variants lose nothing
  at once         how often it does in the first run
  questions       how many questions are asked on average then

`uncounted` decides every run at the policy's confidence, as `quantgate gate` does without --attempt; `counted` is what
the record of attempts makes of it.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
from rich.console import Console
from rich.table import Table

from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.case import Case
from quantgate.components.evidence.drops import DropTest, Task
from quantgate.components.evidence.limits import Limit
from quantgate.components.evidence.margin import RELATIVE, Pairs
from quantgate.components.policies.policy import Edges, UseCase
from quantgate.components.run.artifacts import Scores, Weights
from quantgate.components.run.attempts import Attempt

SEED = 20261127
LIMIT, BASELINE, DIFFERING = 0.02, 0.6, 0.1
USE_CASE = UseCase(name="one", max_drop={"t": LIMIT}, bands=Edges(ship=LIMIT, monitor=0.9, ab_test=0.91))
BEFORE, AFTER = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0])
CANDIDATE = Candidate(Weights(variant="v", baseline_digest=""), Scores(variant="v", suite="drawn", stage="full"))
MOST = 200_000

Judge = Callable[[int, int, int], Case]
"""The case after `items` questions in run `run` of attempt `number`."""
Way = Callable[[Judge], Iterator[Case]]


@dataclass(frozen=True)
class Rates:
    """What happened in the draws of one way, one rule and one truth."""

    passed: float
    at_once: float
    questions: float


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    started, cells = time.monotonic(), list(product(WAYS, (False, True), (LIMIT, 0.0)))
    with ProcessPoolExecutor(arguments.processes) as pool:
        rates = dict(
            zip(cells, pool.map(simulate, *zip(*cells, strict=True), [arguments.draws] * len(cells)), strict=True)
        )
    table = Table("who judges again", "rule", "false pass", "right", "at once", "questions")
    for way, counts in product(WAYS, (False, True)):
        false, right = rates[way, counts, LIMIT], rates[way, counts, 0.0]
        numbers = (f"{rate:.1%}" for rate in (false.passed, right.passed, right.at_once))
        table.add_row(
            way, "counted" if counts else "uncounted", *numbers, f"{right.questions:,.0f}", end_section=counts
        )
    console, error = Console(width=110), (0.05 * 0.95 / arguments.draws) ** 0.5
    console.print(table)
    console.print(f"{arguments.draws} draws: a rate of 5 % is measured within ± {1.96 * error:.1%}.")
    console.print(f"{time.monotonic() - started:.0f} s")


def simulate(way: str, counts: bool, truth: float, draws: int) -> Rates:
    """The rates of one cell of the table; each cell has the same draws for both rules."""
    passed, at_once, questions = 0, 0, 0.0
    for place in range(draws):
        answers = Answered(truth, np.random.default_rng([SEED, place, round(1000 * truth)]))
        for turn, case in enumerate(WAYS[way](answers.judged if counts else answers.uncounted)):
            if passes(case):
                passed, at_once = passed + 1, at_once + (turn == 0)
                break
        questions += answers.asked
    return Rates(passed / draws, at_once / draws, questions / draws)


class Answered:
    """The answers so far to a variant's questions, which are drawn when they are asked."""

    def __init__(self, truth: float, source: np.random.Generator) -> None:
        lost, gained = (DIFFERING + truth * BASELINE) / 2, (DIFFERING - truth * BASELINE) / 2
        self.shares = [lost, gained, BASELINE - lost, 1 - BASELINE - gained]
        self.source, self.asked, self.variant = source, 0, 0
        self.counts = np.zeros(4)

    def judged(self, items: int, number: int, run: int) -> Case:
        """The case of that attempt after so many questions."""
        return self._case(items, number, Attempt(number=number, run=run))

    def uncounted(self, items: int, number: int, run: int) -> Case:  # noqa: ARG002 - the old rule knows no run
        """The case after so many questions, as if it were the first."""
        return self._case(items, number, None)

    def _case(self, items: int, number: int, attempt: Attempt | None) -> Case:
        if number != self.variant:
            self.variant, self.counts = number, np.zeros(4)
        more = items - int(self.counts.sum())
        self.counts = self.counts + self.source.multinomial(more, self.shares)
        self.asked += more
        pairs = Pairs(BEFORE, AFTER, self.counts)
        before, after = (float(scores @ self.counts) / items for scores in (BEFORE, AFTER))
        test = DropTest((Task("t", pairs, before, after, informative=True),), RELATIVE)
        return Case(USE_CASE, CANDIDATE, {}, (Limit("t", "drop", LIMIT, test),), test, {}, attempt)


def alpha_of(case: Case) -> float:
    """The error probability that a pass may use."""
    return USE_CASE.alpha * case.share


def passes(case: Case) -> bool:
    """Whether the variant passes."""
    return case.verdict(alpha_of(case)) == "ship"


def as_advised(judge: Judge, number: int = 1) -> Iterator[Case]:
    """The same weights on as many more questions as each verdict says."""
    items = 1000
    for run in range(1, 8):
        case = judge(items, number, run)
        yield case
        more = case.average.further_items(LIMIT, case.alpha_of_next_run(alpha_of(case)))
        if case.exceeded() or more is None or items + more > MOST:
            return
        items += more


def doubling(judge: Judge) -> Iterator[Case]:
    """The same weights on twice as many questions."""
    for run in range(1, 9):
        case = judge(250 * 2**run, 1, run)
        yield case
        if case.exceeded():
            return


def quantize_again(judge: Judge) -> Iterator[Case]:
    """Other weights on as many questions."""
    for number in range(1, 11):
        yield judge(1319, number, 1)


def both(judge: Judge) -> Iterator[Case]:
    """Other weights, each on as many questions as the verdicts say."""
    for number in range(1, 4):
        yield from as_advised(judge, number)


WAYS: dict[str, Way] = {
    "as advised": as_advised,
    "doubling": doubling,
    "quantize again": quantize_again,
    "both": both,
}

if __name__ == "__main__":
    main()
