"""What a search costs in evidence: how often it passes a variant at the limit, and how often it finds a good one.

    python benchmarks/search_errors.py [--draws 4000] [--processes 2]

One task of 1,319 questions, a baseline of 0.6, 10 % of the answers differ, a limit of 2 % relative to it, 95 %
confidence. A ladder has bad variants that lose exactly the limit, below good ones that lose nothing. The answers are
drawn with that truth, independently for each variant, which is the worst case for a union of errors. The search tries
the variants from the first on, and ends with the first that passes.

  bad ships   how often a bad variant has passed in the end; promised: 5 % at most
  found       how often a good one has
  tried       how many variants are tried on average

Rules:

  gate        the gate's: all variants of the ladder share the error by Holm's method, the untried ones with p = 1
  full error  each variant is tested at 5 %, as in a fixed sequence, which however would end with the first that fails
  no search   the gate's on all variants of the ladder, whatever the earlier ones brought
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
from rich.console import Console
from rich.table import Table

from quantgate.components.evidence import margin
from quantgate.components.evidence.judging import holm_divisors
from quantgate.components.evidence.margin import RELATIVE, Pairs

SEED = 20261127
ALPHA, LIMIT, BASELINE, DIFFERING, ITEMS = 0.05, 0.02, 0.6, 0.1, 1319
BEFORE, AFTER = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0])
RULES = ("gate", "full error", "no search")
LADDERS = ((1, 0), (2, 0), (3, 0), (4, 0), (6, 0), (0, 3), (1, 2), (2, 1), (3, 1))
"""The number of bad variants, and of good ones above them."""


@dataclass(frozen=True)
class Rates:
    """What happened in the draws of one ladder by one rule."""

    bad: float
    found: float
    tried: float


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    started, cells = time.monotonic(), list(product(LADDERS, RULES))
    with ProcessPoolExecutor(arguments.processes) as pool:
        found = pool.map(simulate, *zip(*cells, strict=True), [arguments.draws] * len(cells))
        rates = dict(zip(cells, found, strict=True))
    table = Table("bad below good", "rule", "bad ships", "found", "tried")
    for (bad, good), rule in cells:
        row = rates[(bad, good), rule]
        numbers = f"{row.bad:.1%}" if bad else "", f"{row.found:.1%}" if good else "", f"{row.tried:.2f}"
        table.add_row(f"{bad} below {good}", rule, *numbers, end_section=rule == RULES[-1])
    console, error = Console(width=100), (ALPHA * (1 - ALPHA) / arguments.draws) ** 0.5
    console.print(table)
    console.print(f"{arguments.draws} draws: a rate of 5 % is measured within ± {1.96 * error:.1%}.")
    console.print(f"{time.monotonic() - started:.0f} s")


def simulate(ladder: tuple[int, int], rule: str, draws: int) -> Rates:
    """The rates of one cell of the table; each ladder has the same draws for all rules."""
    bad, good = ladder
    ships, found, tried = 0, 0, 0
    for place in range(draws):
        source = np.random.default_rng([SEED, bad, good, place])
        p_values = [p_of(truth, source) for truth in [LIMIT] * bad + [0.0] * good]
        passed, count = climbed(p_values, rule)
        ships, found, tried = ships + any(passed[:bad]), found + any(passed[bad:]), tried + count
    return Rates(ships / draws, found / draws, tried / draws)


def p_of(truth: float, source: np.random.Generator) -> float:
    """The gate's p-value of a variant with that drop, of drawn answers."""
    lost, gained = (DIFFERING + truth * BASELINE) / 2, (DIFFERING - truth * BASELINE) / 2
    counts = source.multinomial(ITEMS, [lost, gained, BASELINE - lost, 1 - BASELINE - gained]).astype(float)
    return margin.p_within([Pairs(BEFORE, AFTER, counts)], RELATIVE, LIMIT)


def climbed(p_values: Sequence[float], rule: str) -> tuple[list[bool], int]:
    """Whether each variant passes in the end, and how many were tried."""
    for tried in range(1, len(p_values) + 1):
        known = [*p_values[:tried], *[1.0] * (len(p_values) - tried)]
        divisors = [1] * len(known) if rule == "full error" else holm_divisors(known, ALPHA)
        passed = [p <= ALPHA / divisor for p, divisor in zip(known, divisors, strict=True)]
        if passed[tried - 1] and rule != "no search":
            break
    return passed, tried


if __name__ == "__main__":
    main()
