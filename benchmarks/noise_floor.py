"""Decide a limit with answers that flip by chance: the old floor, a share of flips, and the floor that the gate uses.

    python benchmarks/noise_floor.py [--draws 2000]

A baseline of 0.6 and a limit of 2 % of it, at 95 % confidence. In each pass of a model, 3 % of the answers differ from
those of its other passes by chance, in both directions. `passes` ships how often when the variant is the baseline
itself, `false` when its true drop is exactly the limit (promised: 5 % at most), and `below the floor` is how often the
limit cannot be decided.
"""

import argparse
import math
import time

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from quantgate.components.evidence import margin
from quantgate.components.evidence.drops import DropTest, Task
from quantgate.components.evidence.margin import RELATIVE

SEED = 20261127
ALPHA, LIMIT, BASELINE, FLIPS = 0.05, 0.02, 0.6, 0.03
ITEMS = (500, 1319, 5000, 14_042, 40_000)
CHANCE = (1 - math.sqrt(1 - 2 * FLIPS)) / 2
"""How often a pass answers an item otherwise than the model mostly does, so that two passes differ in FLIPS."""

Numbers = NDArray[np.float64]


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    draws, started = parser.parse_args().draws, time.monotonic()
    table = Table("questions", "old floor: passes", "below the floor", "gate: passes", "false", "below the floor")
    for items in ITEMS:
        random = np.random.default_rng((SEED, items))
        same, at_limit = ([drawn(random, items, true_drop) for _ in range(draws)] for true_drop in (0.0, LIMIT))
        table.add_row(
            f"{items:,}",
            percent([old_floor(test) <= LIMIT and passes(test) for test in same]),
            percent([old_floor(test) > LIMIT for test in same]),
            percent([passes(test) for test in same]),
            percent([passes(test) for test in at_limit]),
            percent([not test.decidable(LIMIT) for test in same]),
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"{draws:,} draws a row, {time.monotonic() - started:.0f} s")


def drawn(random: np.random.Generator, items: int, true_drop: float) -> DropTest:
    """The test of a variant whose expected score is lower by `true_drop` of the baseline's."""

    def share(score: float) -> float:
        """The share of items that a model mostly answers right, for an expected score."""
        return (score - CHANCE) / (1 - 2 * CHANCE)

    mostly = random.random(items) < share(BASELINE)
    kept = random.random(items) < share((1 - true_drop) * BASELINE) / share(BASELINE)
    first, second, variant = (
        np.asarray(right ^ (random.random(items) < CHANCE), dtype=np.float64)
        for right in (mostly, mostly, mostly & kept)
    )
    task = Task(
        name="drawn",
        pairs=margin.pairs(first, variant),
        before=float(first.mean()),
        after=float(variant.mean()),
        informative=True,
        again=margin.pairs(first, second),
        again_flips=float((first != second).mean()),
    )
    return DropTest((task,), RELATIVE)


def old_floor(test: DropTest) -> float:
    """The share of flips, relative to the baseline's score."""
    (task,) = test.tasks
    return (task.again_flips or 0.0) / task.before


def passes(test: DropTest) -> bool:
    """Whether the drop is shown to be within the limit."""
    return test.p_within(LIMIT) <= ALPHA


def percent(passed: list[bool]) -> str:
    """`4.9 %`."""
    return f"{100 * np.mean(passed):.1f} %"


if __name__ == "__main__":
    main()
