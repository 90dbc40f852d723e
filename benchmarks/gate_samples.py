"""What several sampled answers to each question change: the power and the error rate of a limit, simulated.

    python -m benchmarks.gate_samples [--draws 1000]

Each question has a pass rate, from a beta distribution or one of 0, 1/2 and 1. Two answers of one model to a question
differ in 16 % of the questions. Both models answer each question K times, and its score is the mean. The first of three
variants is judged: error probability 5 % / 3. Columns:

  forecast     the probability of passing without a drop as `quantgate power` simulates it
  ships        the same, with every answer drawn
  false: even  how often it passes when its drop is the limit and every pass rate falls by the same share
  false: few   the same, when a few questions with a pass rate over 0.9 are never answered right any more
  t: …         the same by a paired t-test on the questions' means

The gate's own test decides each draw.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import stdtr

from quantgate.components.evidence import assumed_answers, margin
from quantgate.components.evidence.assumed_answers import LOSSLESS, SAMPLED_FLIPS, PlannedTask
from quantgate.components.evidence.margin import RELATIVE

Numbers = NDArray[np.float64]

SEED, ALPHA = 20261127, 0.05 / 3
ANSWERS = (1, 4, 8, 16)
NEARLY_ALWAYS = 0.9


@dataclass(frozen=True)
class Scenario:
    """The questions, the baseline's score, the relative limit, and how the pass rates are spread."""

    items: int
    score: float
    limit: float
    spread: str = "beta"

    def rates(self, source: np.random.Generator) -> Numbers:
        """The baseline's pass rate on each question."""
        if self.spread == "beta":  # the mean of 2 p (1 - p) is 2 score (1 - score) total / (total + 1)
            share = SAMPLED_FLIPS / (2 * self.score * (1 - self.score))
            total = share / (1 - share)
            return source.beta(self.score * total, (1 - self.score) * total, self.items)
        by_chance = 2 * SAMPLED_FLIPS
        always = self.score - by_chance / 2
        return source.choice([0.0, 0.5, 1.0], self.items, p=[1 - by_chance - always, by_chance, always])

    def damaged(self, rates: Numbers, damage: str, source: np.random.Generator) -> Numbers:
        """The variant's pass rates, with a drop of the limit on average."""
        if damage == "none":
            return rates
        if damage == "even":
            return rates * (1 - self.limit)
        often = rates > NEARLY_ALWAYS
        ruined = often & (source.random(self.items) < self.limit * rates.sum() / rates[often].sum())
        return np.where(ruined, 0.0, rates)


SCENARIOS = (
    Scenario(1319, 0.6, 0.02),
    Scenario(1319, 0.7, 0.02),
    Scenario(1319, 0.7, 0.02, "0, ½, 1"),
    Scenario(164, 0.7, 0.1),
)


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    started = time.monotonic()
    table = Table(
        *("questions", "score", "limit", "pass rates", "K", "forecast", "ships", "false: even", "false: few"),
        *("t: ships", "t: false, even", "t: false, few"),
    )
    for scenario in SCENARIOS:
        for answers in ANSWERS:
            rates = [decided(scenario, answers, damage, draws) for damage in ("none", "even", "few")]
            table.add_row(
                f"{scenario.items:,}",
                f"{scenario.score:.1f}",
                f"{scenario.limit:.0%}",
                scenario.spread,
                str(answers),
                *(f"{rate:.1%}" for rate in (forecast(scenario, answers, draws), *np.transpose(rates).ravel())),
            )
    error = 1.96 * (ALPHA * (1 - ALPHA) / draws) ** 0.5
    Console(width=140).print(table, f"{draws} draws: {ALPHA:.1%} ± {error:.1%}. {time.monotonic() - started:.0f} s")


def decided(scenario: Scenario, answers: int, damage: str, draws: int) -> tuple[float, float]:
    """The share of runs that the gate's test and the t-test let through."""
    source = np.random.default_rng([SEED, SCENARIOS.index(scenario), answers, len(damage)])
    runs = list(simulated(scenario, answers, damage, draws, source))
    ours = (margin.p_within([margin.pairs(*run)], RELATIVE, scenario.limit) for run in runs)
    return share(ours), share(t_test(*run, scenario.limit) for run in runs)


def simulated(
    scenario: Scenario, answers: int, damage: str, draws: int, source: np.random.Generator
) -> Iterator[tuple[Numbers, Numbers]]:
    """The questions' scores, of the baseline and of the variant, in each run."""
    for _ in range(draws):
        rates = scenario.rates(source)
        changed = scenario.damaged(rates, damage, source)
        yield source.binomial(answers, rates) / answers, source.binomial(answers, changed) / answers


def forecast(scenario: Scenario, answers: int, draws: int) -> float:
    """The share of runs that pass by the assumptions of `quantgate power`."""
    source = np.random.default_rng([SEED, answers])
    task = PlannedTask("t", scenario.items, score=scenario.score, samples=answers, sampled=True)
    runs = (assumed_answers.drawn(task, LOSSLESS, source)[0] for _ in range(draws))
    return share(margin.p_within([pairs], RELATIVE, scenario.limit) for pairs in runs)


def t_test(before: Numbers, after: Numbers, limit: float) -> float:
    """The p-value of a paired t-test against "the drop is the limit or more"."""
    excess = (1 - limit) * before - after
    error = excess.std(ddof=1) / np.sqrt(len(excess))
    return float(stdtr(len(excess) - 1, excess.mean() / error)) if error else 0.5


def share(p_values: Iterable[float]) -> float:
    """The share of p-values of at most alpha."""
    return float(np.mean([p <= ALPHA for p in p_values]))


if __name__ == "__main__":
    main()
