"""The error rate and the power of a limit on the average of several tasks, simulated with a known truth.

    python benchmarks/gate_averages.py [--draws 2000]

The baseline scores 0.6 on every task, and a share of the answers differs. The confidence is 95 %. Columns:

  false ship   how often the average passes when its drop is the limit; promised: 5 % at most
  ships        how often it passes without a drop
  false reject how often it is rejected when its drop is the limit; promised: 5 % at most
  before       the same with a worst item for each task, as the gate did until 2026-11

`where` says which tasks have the drop: all, the smallest one alone, or one gains what another loses. `weights` are
those of the policy. The gate's own test decides each draw.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from quantgate.components.evidence import margin
from quantgate.components.evidence.gamma_tail import tail
from quantgate.components.evidence.margin import RELATIVE, Pairs

Numbers = NDArray[np.float64]

SEED, ALPHA, BASELINE = 20261127, 0.05, 0.6
BEFORE, AFTER = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0])
OPENLLM = (14_042, 10_042, 1172, 1267, 1319, 817)


@dataclass(frozen=True)
class Scenario:
    """One row: the tasks, their weights, the share of differing answers, and the relative limit."""

    name: str
    sizes: tuple[int, ...]
    differing: float
    limit: float
    where: str = "all"
    weights: tuple[float, ...] = ()

    def drops(self, truth: float) -> Numbers:
        """Each task's drop in points, so that the weighted average drop is the share `truth` of the baseline."""
        shares = self.shares
        if self.where == "smallest":
            return np.where(np.arange(len(shares)) == np.argmin(self.sizes), truth * BASELINE / shares, 0.0)
        drops = np.full(len(shares), truth * BASELINE)
        if self.where == "opposite":
            shift = min(0.5 * self.differing, 0.1)
            drops[0] += shift
            drops[1] -= shift * shares[0] / shares[1]
        return drops

    @property
    def shares(self) -> Numbers:
        """The weights, with a sum of 1."""
        weights = np.array(self.weights or [1.0] * len(self.sizes), dtype=np.float64)
        return np.asarray(weights / weights.sum(), dtype=np.float64)


SCENARIOS = (
    Scenario("six tasks of 100", 6 * (100,), 0.02, 0.03),
    Scenario("six tasks of 100", 6 * (100,), 0.1, 0.05),
    Scenario("six tasks of 100", 6 * (100,), 0.1, 0.05, "opposite"),
    Scenario("six tasks of 100", 6 * (100,), 0.1, 0.05, "all", (10, 1, 1, 1, 1, 1)),
    Scenario("openllm", OPENLLM, 0.1, 0.01),
    Scenario("openllm", OPENLLM, 0.1, 0.01, "smallest"),
    Scenario("openllm", OPENLLM, 0.25, 0.02, "opposite"),
    Scenario("openllm", OPENLLM, 0.1, 0.01, "all", (4, 2, 1, 1, 4, 1)),
    Scenario("20 and 2,000", (20, 2000), 0.1, 0.15),
    Scenario("20 and 2,000", (20, 2000), 0.3, 0.25, "smallest"),
)


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    started = time.monotonic()
    table = Table(
        "tasks", "differ", "limit", "where", "weights", "false ship", "ships", "false reject", "before: false", "ships"
    )
    for scenario in SCENARIOS:
        at_limit, without = drawn(scenario, scenario.limit, draws), drawn(scenario, 0.0, draws)
        rates = (
            share(margin.p_within(tasks, RELATIVE, scenario.limit) for tasks in at_limit),
            share(margin.p_within(tasks, RELATIVE, scenario.limit) for tasks in without),
            share(margin.p_beyond(tasks, RELATIVE, scenario.limit) for tasks in at_limit),
            share(one_worst_item_a_task(tasks, scenario.limit) for tasks in at_limit),
            share(one_worst_item_a_task(tasks, scenario.limit) for tasks in without),
        )
        table.add_row(
            scenario.name,
            f"{scenario.differing:.0%}",
            f"{scenario.limit:.0%}",
            scenario.where,
            ":".join(map(str, scenario.weights)) or "equal",
            *(f"{rate:.1%}" for rate in rates),
        )
    error = 1.96 * (ALPHA * (1 - ALPHA) / draws) ** 0.5
    Console(width=130).print(table, f"{draws} draws: 5 % ± {error:.1%}. {time.monotonic() - started:.0f} s")


def drawn(scenario: Scenario, truth: float, draws: int) -> list[list[Pairs]]:
    """Simulated runs, each with all tasks."""
    source = np.random.default_rng([SEED, SCENARIOS.index(scenario), int(truth * 1000)])
    counts = []
    for size, drop in zip(scenario.sizes, scenario.drops(truth), strict=True):
        differing = max(scenario.differing, abs(drop))
        lost, gained = (differing + drop) / 2, (differing - drop) / 2
        counts.append(source.multinomial(size, [lost, gained, BASELINE - lost, 1 - BASELINE - gained], draws) * 1.0)
    shares = scenario.shares
    return [
        [Pairs(BEFORE, AFTER, task[draw], weight=weight) for task, weight in zip(counts, shares, strict=True)]
        for draw in range(draws)
    ]


def one_worst_item_a_task(tasks: Sequence[Pairs], limit: float) -> float:
    """The p-value with a worst item in every task, as before 2026-11."""
    values = []
    for task in tasks:
        before, after = np.append(task.before, 1.0), np.append(task.after, 0.0)
        values.append(task.weight * RELATIVE.excess(before, after, 1.0, limit) / (task.items + 1))
    return tail(np.concatenate(values), np.concatenate([np.append(task.counts, 1.0) for task in tasks]))


def share(p_values: Iterable[float]) -> float:
    """The share of p-values of at most alpha."""
    return float(np.mean([p <= ALPHA for p in p_values]))


if __name__ == "__main__":
    main()
