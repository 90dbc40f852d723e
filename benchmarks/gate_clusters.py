"""The error rate and the power of a limit on a task with clusters, such as MMLU's subjects, simulated.

    python benchmarks/gate_clusters.py [--draws 1000]

The limit is in points, and the answers that differ are 5 or 25 % in every cluster. The clusters' true drops have the
mean of the truth, and differ: not at all; normally, with a standard deviation of 1, 3 or 6 points; with a long tail
(exponential, 3 points: a few clusters lose much); or "ruined": 2 or 5 % of the clusters lose 25 points, the others
nothing, and no cluster loses anything where the truth is nothing. Columns, each "false ship / ships": how often the
drop is the limit, or nothing, and the variant ships.

  random     clusters: random; the drop is that of a population of clusters, of which these are a sample
  before     the same with the degrees of freedom until 2026-11
  worst      random, with a limit of 20 points on the worst cluster beside it
  fixed      clusters: fixed; the drop is that of these clusters
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import stdtr

from quantgate.components.evidence import margin
from quantgate.components.evidence.clusters import Clusters, jackknife
from quantgate.components.evidence.margin import ABSOLUTE, Pairs
from quantgate.components.evidence.worst_cluster import PairedCluster, WorstClusterTest

SEED, ALPHA, WORST, RUIN = 20261127, 0.05, 0.2, 0.25
BEFORE, AFTER = np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])
SIZES = {
    "MMLU": (1534, 895, 783, 612, 545, *52 * (186,)),
    "ten unequal": (2000, 800, 400, 300, 200, 100, 80, 60, 40, 20),
    "20 log-normal": (10, 18, 24, 30, 36, 42, 50, 58, 66, 75, 85, 97, 110, 126, 145, 170, 203, 252, 340, 560),
}
RATES = ("random", "before", "worst", "fixed")

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    """One row: the clusters, the share of differing answers, how the clusters' drops differ, and the limit."""

    sizes: str
    differing: float
    shape: str
    spread: float
    limit: float

    def drops(self, truth: float, source: np.random.Generator) -> Numbers:
        """The clusters' true drops, a sample of a population with the mean `truth`: nothing, or the limit."""
        count = len(SIZES[self.sizes])
        if self.shape == "ruined":
            return np.where(source.random(count) < self.spread, RUIN, 0.0) * (truth > 0)
        if self.shape == "long tail":
            return truth + (source.exponential(1.0, count) - 1) * self.spread
        return truth + source.normal(0.0, self.spread, count)


SCENARIOS = (
    *(Scenario("MMLU", 0.25, "normal", spread, 0.0097) for spread in (0.0, 0.01, 0.03, 0.06)),
    *(Scenario("MMLU", 0.05, "normal", spread, 0.0043) for spread in (0.0, 0.01, 0.03)),
    *(Scenario("ten unequal", 0.25, "normal", spread, 0.0182) for spread in (0.0, 0.01, 0.03, 0.06)),
    *(Scenario("20 log-normal", 0.25, "normal", spread, 0.023) for spread in (0.0, 0.01, 0.03)),
    Scenario("MMLU", 0.25, "long tail", 0.03, 0.0097),
    Scenario("20 log-normal", 0.25, "long tail", 0.03, 0.023),
    Scenario("MMLU", 0.05, "ruined", 0.02, 0.005),
    Scenario("MMLU", 0.05, "ruined", 0.05, 0.0125),
)


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    started = time.monotonic()
    table = Table("clusters", "differ", "drops differ", "limit, points", *RATES)
    for scenario in SCENARIOS:
        at_limit, without = (ships(scenario, truth, draws) for truth in (scenario.limit, 0.0))
        shape = f"{scenario.shape}, {100 * scenario.spread:g} {'%' if scenario.shape == 'ruined' else 'points'}"
        cells = (f"{at_limit[name]:.1%} / {without[name]:.1%}" for name in RATES)
        table.add_row(scenario.sizes, f"{scenario.differing:.0%}", shape, f"{100 * scenario.limit:g}", *cells)
    error = 1.96 * (ALPHA * (1 - ALPHA) / draws) ** 0.5
    console = Console(width=130)
    console.print(table)
    console.print(f"{draws} draws each: 5 % ± {error:.1%}. {time.monotonic() - started:.0f} s")


def ships(scenario: Scenario, truth: float, draws: int) -> dict[str, float]:
    """How often the variant ships, by each rule."""
    source = np.random.default_rng([SEED, SCENARIOS.index(scenario), int(truth * 1e4)])
    sizes = np.array(SIZES[scenario.sizes])
    shipped = dict.fromkeys(RATES, 0)
    for _ in range(draws):
        drops = scenario.drops(truth, source)
        counts = answered(sizes, drops, scenario.differing, source)
        task = Pairs(BEFORE, AFTER, counts.sum(axis=0), clusters_of(counts))
        random = margin.p_within([task], ABSOLUTE, scenario.limit) <= ALPHA
        shipped["random"] += random
        shipped["before"] += p_before(task, scenario.limit) <= ALPHA
        shipped["worst"] += random and worst_of(counts).p_within(WORST) <= ALPHA
        own = drops - float(drops @ sizes) / sizes.sum() + truth  # the same clusters, with the truth as their own mean
        counts = answered(sizes, own, scenario.differing, source)
        items = Pairs(BEFORE, AFTER, counts.sum(axis=0))
        shipped["fixed"] += margin.p_within([items], ABSOLUTE, scenario.limit) <= ALPHA
    return {name: count / draws for name, count in shipped.items()}


def answered(sizes: NDArray[np.int64], drops: Numbers, differing: float, source: np.random.Generator) -> Numbers:
    """The numbers of lost, gained and unchanged answers of each cluster (G, 3)."""
    differ = np.maximum(differing, np.abs(drops))
    lost, gained = (differ + drops) / 2, (differ - drops) / 2
    return source.multinomial(sizes, np.column_stack([lost, gained, 1 - lost - gained])).astype(float)


def clusters_of(counts: Numbers) -> Clusters:
    """The clusters' sums."""
    return Clusters(counts.sum(axis=1), counts @ BEFORE, counts @ AFTER)


def worst_of(counts: Numbers) -> WorstClusterTest:
    """The test of the worst cluster."""
    clusters = [PairedCluster(str(place), Pairs(BEFORE, AFTER, row)) for place, row in enumerate(counts)]
    return WorstClusterTest(clusters, ABSOLUTE)


def p_before(task: Pairs, limit: float) -> float:
    """The p-value with the degrees of freedom until 2026-11."""
    alone = margin.p_within([Pairs(task.before, task.after, task.counts)], ABSOLUTE, limit)
    groups = task.clusters
    if groups is None:
        return alone
    sums = ABSOLUTE.excess(groups.before, groups.after, groups.items, limit)
    excess, error, freedom = jackknife(sums, groups.items, np.ones(len(sums)))
    return max(alone, float(stdtr(freedom, excess / error)))


if __name__ == "__main__":
    main()
