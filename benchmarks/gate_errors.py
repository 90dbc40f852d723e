"""The gate's error rates and its cost in questions: simulated answers with a known truth, the same for every method.

    python benchmarks/gate_errors.py [--draws 2000] [--processes 2]

A limit of 1.5 % relative to a baseline of 0.6, at 95 % confidence. Scenarios: the number of items, the share of
discordant answers, whether items come in clusters whose drops differ (standard deviation 3 points; sizes as uneven as
those of MMLU's subjects), and the truth: no drop, a drop at the limit, a drop of three times the limit. Columns:

  false ship   how often the variant ships when the drop is at the limit; promised: 5 % at most
  ships        how often it ships without a drop: the power
  rejects      how often it is rejected at three times the limit
  false reject how often it is rejected when the drop is at the limit; promised: 5 % at most
  spent        the share of the items that the stopping form needs, in the order of the truths above

`evidence` is the gate's fixed form, `stopping` its form with looks, `point` compares the measured drop with the limit,
`z-test` compares two proportions with a normal approximation that ignores the pairing.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import ndtri

from quantgate.components.evidence import margin
from quantgate.components.evidence.judging import holm_divisors
from quantgate.components.evidence.looks import error_share, look_shares
from quantgate.components.evidence.margin import RELATIVE

SEED = 20261121
ALPHA, LIMIT, BASELINE = 0.05, 0.015, 0.6
ITEMS = (100, 500, 1319, 14_042)
DISCORDANT = (0.01, 0.1, 0.3)
TRUTHS = (0.0, LIMIT, 3 * LIMIT)
CLUSTERS, CLUSTER_SD, SIZE_SD = 57, 0.03, 0.8
TINY = 100
METHODS = ("evidence", "stopping", "point", "z-test")

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    """One row of the table."""

    items: int
    discordant: float
    clustered: bool


@dataclass(frozen=True)
class Outcome:
    """One method's result for one draw: 1 ship, -1 reject, 0 neither; and the share of the items used."""

    result: int
    spent: float = 1.0


def main() -> None:
    """Simulate and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    started = time.monotonic()
    scenarios = [
        Scenario(items, discordant, clustered)
        for items, discordant, clustered in product(ITEMS, DISCORDANT, (False, True))
        if items > TINY or not clustered
    ]
    table = Table(
        "items", "discordant", "clusters", "method", "false ship", "ships", "rejects", "false reject", "spent"
    )
    worst = dict.fromkeys(METHODS, 0.0)
    with ProcessPoolExecutor(arguments.processes) as pool:
        for scenario, rates in zip(
            scenarios, pool.map(simulate, scenarios, [arguments.draws] * len(scenarios)), strict=True
        ):
            for method in METHODS:
                ships, rejects, spent = rates[method]
                worst[method] = max(worst[method], ships[1])
                table.add_row(
                    f"{scenario.items:,}",
                    f"{scenario.discordant:.0%}",
                    "yes" if scenario.clustered else "no",
                    method,
                    *(f"{rate:.1%}" for rate in (ships[1], ships[0], rejects[2], rejects[1])),
                    " ".join(f"{share:.0%}" for share in spent) if method == "stopping" else "",
                    end_section=method == METHODS[-1],
                )
    console = Console(width=120)
    console.print(table)
    error = (ALPHA * (1 - ALPHA) / arguments.draws) ** 0.5
    console.print("Highest false-ship rate: " + ", ".join(f"{method} {rate:.1%}" for method, rate in worst.items()))
    console.print(
        f"{arguments.draws} draws each: a true rate of 5 % is measured within ± {1.96 * error:.1%}. The highest of so"
    )
    console.print(f"many rows is sometimes above that. {time.monotonic() - started:.0f} s")
    console.print(families(arguments.draws))


def simulate(scenario: Scenario, draws: int) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """For each method: the rates of "ship" and of "reject", and the mean share spent, for each truth."""
    rates: dict[str, tuple[list[float], list[float], list[float]]] = {method: ([], [], []) for method in METHODS}
    for truth in TRUTHS:
        source = np.random.default_rng([SEED, scenario.items, int(scenario.discordant * 100), scenario.clustered])
        outcomes: dict[str, list[Outcome]] = {method: [] for method in METHODS}
        for _ in range(draws):
            before, after, clusters = draw(scenario, truth, source)
            outcomes["evidence"].append(fixed(before, after, clusters, ALPHA, ALPHA))
            outcomes["stopping"].append(stopping(before, after, clusters))
            outcomes["point"].append(point(before, after))
            outcomes["z-test"].append(unpaired(before, after))
        for method, drawn in outcomes.items():
            ships, rejects, spent = rates[method]
            ships.append(float(np.mean([outcome.result == 1 for outcome in drawn])))
            rejects.append(float(np.mean([outcome.result == -1 for outcome in drawn])))
            spent.append(float(np.mean([outcome.spent for outcome in drawn])))
    return rates


def draw(
    scenario: Scenario, truth: float, source: np.random.Generator
) -> tuple[Numbers, Numbers, NDArray[np.int64] | None]:
    """Scores before and after, and each item's cluster, in a random order."""
    lost_less_gained = np.full(scenario.items, truth * BASELINE)
    clusters = None
    if scenario.clustered:
        sizes = source.lognormal(0.0, SIZE_SD, CLUSTERS)
        clusters = source.choice(CLUSTERS, scenario.items, p=sizes / sizes.sum())
        shifts = source.normal(0.0, CLUSTER_SD, CLUSTERS)
        lost_less_gained = lost_less_gained + shifts[clusters]
    discordant = np.maximum(scenario.discordant, np.abs(lost_less_gained))
    lost, gained = (discordant + lost_less_gained) / 2, (discordant - lost_less_gained) / 2
    chance = source.random(scenario.items)
    is_lost, is_gained = chance < lost, (chance >= lost) & (chance < lost + gained)
    right = (chance >= discordant) & (source.random(scenario.items) < (BASELINE - lost) / (1 - discordant))
    return (is_lost | right).astype(float), (is_gained | right).astype(float), clusters


def fixed(
    before: Numbers, after: Numbers, clusters: NDArray[np.int64] | None, shipping: float, rejecting: float
) -> Outcome:
    """The gate's evidence form."""
    task = [margin.pairs(before, after, clusters)]
    if margin.p_beyond(task, RELATIVE, LIMIT) <= rejecting:
        return Outcome(-1)
    return Outcome(int(margin.p_within(task, RELATIVE, LIMIT) <= shipping))


def stopping(before: Numbers, after: Numbers, clusters: NDArray[np.int64] | None) -> Outcome:
    """The form with looks, the first of which can only reject."""
    shares = look_shares(min(TINY, len(before)), len(before))
    for look, share in enumerate(shares, 1):
        count = round(share * len(before))
        alpha = ALPHA * error_share(look, len(shares))
        tiny = look == 1 and len(shares) > 1
        used = None if clusters is None else clusters[:count]
        outcome = fixed(before[:count], after[:count], used, 0.0 if tiny else alpha, alpha)
        if outcome.result:
            break
    return Outcome(outcome.result, share)


def point(before: Numbers, after: Numbers) -> Outcome:
    """The measured drop, compared with the limit."""
    return Outcome(1 if before.sum() - after.sum() <= LIMIT * before.sum() else -1)


def unpaired(before: Numbers, after: Numbers) -> Outcome:
    """Two independent proportions, with a normal approximation."""
    baseline, variant, items = before.mean(), after.mean(), len(before)
    error = np.sqrt(((1 - LIMIT) ** 2 * baseline * (1 - baseline) + variant * (1 - variant)) / items)
    z = ((1 - LIMIT) * baseline - variant) / max(error, 1e-12)
    return Outcome(int(z <= ndtri(ALPHA)) - int(z >= -ndtri(ALPHA)))


def families(draws: int) -> Table:
    """Runs of three variants of one baseline, some of them at the limit: how often any of those ships."""
    table = Table("variants at the limit", "others", "any ships, by Holm", "uncorrected", title="Three variants")
    scenario = Scenario(1319, 0.1, clustered=False)
    for bad in (1, 2, 3):
        source = np.random.default_rng([SEED, bad])
        corrected = uncorrected = 0
        for _ in range(draws):
            truths = [LIMIT] * bad + [-0.03] * (3 - bad)
            p = [margin.p_within([margin.pairs(*draw(scenario, truth, source))], RELATIVE, LIMIT) for truth in truths]
            divisors = holm_divisors(p, ALPHA)
            corrected += any(p[index] <= ALPHA / divisors[index] for index in range(bad))
            uncorrected += any(p[index] <= ALPHA for index in range(bad))
        table.add_row(str(bad), f"{3 - bad} better by 3 %", f"{corrected / draws:.1%}", f"{uncorrected / draws:.1%}")
    return table


if __name__ == "__main__":
    main()
