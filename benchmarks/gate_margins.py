"""How often a drop is missed where margins of multiple choice are evidence: many ways of damage with a known truth.

    python benchmarks/gate_margins.py [--draws 1000] [--processes 2]

Four log-likelihoods an item for 200,000 items, from which each draw takes its questions. A variant has noise in the
log-likelihoods, by which the share `flips` of the answers changes, and its accuracy stays the same. Then a way of
damage lowers it: its strength is searched until the accuracy has lost exactly the limit. So the truth is the drop of
the accuracy, whatever the margins say. Each cell holds three rates:

  answers   the gate's test by right and wrong answers
  alone     the same by margins alone, without the answers
  margins   the gate's test with `evidence: margins`: margins, and the answers with five times the error

The first table is the false-ship rate at the limit: 5 % at most is promised for answers, and 25 % for margins whatever
the damage. `seen` is the drop by margins as a share of the true drop, over all columns. The second table is the power:
how often a variant ships that loses nothing.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from quantgate.components.evidence import choice_margins, margin
from quantgate.components.evidence.choice_margins import Smoothed
from quantgate.components.evidence.drops import DropTest, Task
from quantgate.components.evidence.margin import RELATIVE

Numbers = NDArray[np.float64]

SEED, ALPHA = 20261127, 0.05
POOL, CHOICES, SUBJECTS, RUINED = 200_000, 4, 57, 4
SPREAD, SKILL, SKILL_SD = 2.0, 2.2, 2.4
"""Of the log-likelihoods, and of the right choice's lead: an accuracy of 0.56 and a median margin of 2.4 nats."""
STRONGEST, STEPS = 4.0, 20
"""The search for a strength: its range and its number of halvings."""


@dataclass(frozen=True)
class Setting:
    """One column of the tables."""

    items: int
    flips: float
    limit: float

    @property
    def name(self) -> str:
        """The head of its column."""
        return f"{self.items:,}, {self.flips:.0%} flips, limit {100 * self.limit:g} %"


SETTINGS = (Setting(300, 0.1, 0.03), Setting(1319, 0.03, 0.015), Setting(1319, 0.1, 0.015), Setting(14_042, 0.1, 0.005))


class Pool:
    """The items: the baseline's log-likelihoods, the right choice, the subject, and noise."""

    def __init__(self) -> None:
        source = np.random.default_rng(SEED)
        self.every = np.arange(POOL)
        self.logliks = SPREAD * source.normal(size=(POOL, CHOICES))
        self.right = source.integers(0, CHOICES, POOL)
        self.logliks[self.every, self.right] += SKILL + SKILL_SD * source.normal(size=POOL)
        self.subjects = source.integers(0, SUBJECTS, POOL)
        self.noise = source.normal(size=(POOL, CHOICES))
        self.more_noise = source.normal(size=(POOL, CHOICES))
        self.long_tailed = 0.6 * source.standard_t(2, size=(POOL, CHOICES))
        self.chance = source.random(POOL)
        self.is_right = np.zeros((POOL, CHOICES))
        self.is_right[self.every, self.right] = 1
        self.margins = self.margins_of(self.logliks)
        self.accuracy = float((self.margins > 0).mean())

    def margins_of(self, logliks: Numbers) -> Numbers:
        """The right choice's log-likelihood less the best wrong one's."""
        return np.asarray(logliks[self.every, self.right] - (logliks - 1e9 * self.is_right).max(axis=1))

    def drop(self, margins: Numbers) -> float:
        """The drop of the accuracy, as a share of the baseline's."""
        return 1 - float((margins > 0).mean()) / self.accuracy


@dataclass(frozen=True)
class Lossless:
    """A variant whose accuracy is the baseline's, though answers flip."""

    pool: Pool
    logliks: Numbers
    noise_sd: float

    @property
    def margins(self) -> Numbers:
        """Its margins."""
        return self.pool.margins_of(self.logliks)

    def lower(self, strength: float) -> Numbers:
        """Its log-likelihoods with a lower right choice."""
        return self.logliks - strength * self.pool.is_right


Way = Callable[[Lossless, float], Numbers]


def lower(variant: Lossless, strength: float) -> Numbers:
    """Every right choice loses the same."""
    return variant.pool.margins_of(variant.lower(strength))


def noisier(variant: Lossless, strength: float) -> Numbers:
    """Nothing but more noise."""
    return variant.pool.margins_of(variant.logliks + strength * variant.pool.more_noise)


def long_tailed(variant: Lossless, strength: float) -> Numbers:
    """Noise whose tails are long, instead of normal noise; right choices get lower."""
    pool = variant.pool
    logliks = pool.logliks + variant.noise_sd * pool.long_tailed - (strength - 1) * pool.is_right
    return pool.margins_of(logliks)


def letter(variant: Lossless, strength: float) -> Numbers:
    """One answer letter is favoured."""
    logliks = variant.logliks.copy()
    logliks[:, 0] += strength
    return variant.pool.margins_of(logliks)


def confident(variant: Lossless, strength: float) -> Numbers:
    """A share of the surest fifth of the answers turns wrong."""
    margins, pool = variant.margins, variant.pool
    hit = (pool.margins > np.quantile(pool.margins, 0.8)) & (pool.chance < strength / STRONGEST)
    return np.where(hit, -np.abs(margins) / 2, margins)


def subjects(variant: Lossless, strength: float) -> Numbers:
    """In 4 of 57 subjects a share of the answers becomes noise."""
    pool = variant.pool
    ruined = (pool.subjects < RUINED) & (pool.chance < strength / STRONGEST)
    return np.where(ruined, pool.margins_of(SPREAD * pool.more_noise), variant.margins)


def tempered(factor: float) -> Way:
    """All log-likelihoods times a factor; right choices get lower."""
    return lambda variant, strength: factor * lower(variant, strength)


def overconfident(variant: Lossless, strength: float) -> Numbers:
    """The chosen answer, right or wrong, gains a nat; right choices get lower."""
    logliks = variant.lower(strength)
    logliks[variant.pool.every, logliks.argmax(axis=1)] += 1.0
    return variant.pool.margins_of(logliks)


def outliers(variant: Lossless, strength: float) -> Numbers:
    """One answer in 200 becomes surer by 60 nats; right choices get lower."""
    margins = lower(variant, strength)
    return np.where(variant.pool.chance < 0.005, margins + 60 * np.sign(margins), margins)


def growing(variant: Lossless, strength: float) -> Numbers:
    """Noise that grows with the margin; answers near 0 get lower."""
    pool = variant.pool
    return pool.margins * (1 + 0.5 * variant.noise_sd * pool.noise[:, 0]) - strength * np.exp(-np.abs(pool.margins))


def surer(variant: Lossless, strength: float) -> Numbers:
    """Right answers become 30 % surer, wrong ones do not; right choices get lower."""
    margins = lower(variant, strength)
    return np.where(margins > 0, 1.3 * margins, margins)


def nearly_right(variant: Lossless, strength: float) -> Numbers:
    """Wrong answers come 70 % closer to right; right choices get lower."""
    margins = lower(variant, strength)
    return np.where(margins < 0, 0.3 * margins, margins)


def near_ties(variant: Lossless, strength: float) -> Numbers:
    """Answers that are just right become just wrong."""
    margins = variant.margins
    return np.where((margins > 0) & (margins < strength), margins - strength, margins)


def near_ties_alone(variant: Lossless, strength: float) -> Numbers:
    """The same, and noise only where no answer can flip."""
    pool = variant.pool
    far = np.abs(pool.margins) > 6 * variant.noise_sd
    margins = np.where(far, pool.margins + variant.noise_sd * pool.noise[:, 0], pool.margins)
    return np.where((pool.margins > 0) & (pool.margins < strength), -pool.margins / 2, margins)


def rounded(variant: Lossless, strength: float) -> Numbers:
    """Log-likelihoods rounded to a grid, and ties are lost."""
    step = strength + 1e-9
    return variant.pool.margins_of(np.round(variant.logliks / step) * step)


WAYS: dict[str, Way] = {
    "right choices lower": lower,
    "more noise": noisier,
    "long-tailed noise": long_tailed,
    "one letter favoured": letter,
    "confident answers hit": confident,
    "4 of 57 subjects ruined": subjects,
    "hotter (x 0.6)": tempered(0.6),
    "colder (x 1.6)": tempered(1.6),
    "overconfident by a nat": overconfident,
    "1 in 200 far surer": outliers,
    "noise grows with the margin": growing,
    "right answers 30 % surer": surer,
    "wrong answers nearly right": nearly_right,
    "near ties lost": near_ties,
    "near ties lost, no noise there": near_ties_alone,
    "rounded, ties lost": rounded,
}
LOSSLESS = ("right choices lower", "long-tailed noise", "hotter (x 0.6)", "colder (x 1.6)", "overconfident by a nat")
"""The ways whose variant can be searched for a drop of 0."""


@dataclass(frozen=True)
class Cell:
    """The shares of draws that pass the limit, and what the margins see of the true drop."""

    answers: float
    alone: float
    margins: float
    seen: float

    def __str__(self) -> str:
        return " / ".join(f"{100 * rate:.1f}" for rate in (self.answers, self.alone, self.margins))


def main() -> None:
    """Simulate and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    started, console = time.monotonic(), Console(width=250)
    numbers = range(len(SETTINGS))
    tasks = [(way, number, True) for way in WAYS for number in numbers]
    tasks += [(way, number, False) for way in LOSSLESS for number in numbers]
    heads = " | ".join(setting.name for setting in SETTINGS)
    with ProcessPoolExecutor(arguments.processes) as processes:
        cells = processes.map(simulate, *zip(*tasks, strict=True), [arguments.draws] * len(tasks))
        console.print(f"| false ship, %: answers / alone / margins | {heads} | seen |")
        console.print("|---|" + "---|" * (len(SETTINGS) + 1))
        for way in WAYS:
            row = [next(cells) for _ in numbers]
            low, high = min(cell.seen for cell in row), max(cell.seen for cell in row)
            console.print(f"| {way} | {' | '.join(map(str, row))} | {low:.2f} to {high:.2f} |")
        console.print(f"\n| power, %: answers / alone / margins | {heads} |")
        console.print("|---|" + "---|" * len(SETTINGS))
        for way in LOSSLESS:
            console.print(f"| {way} | {' | '.join(str(next(cells)) for _ in numbers)} |")
    error = 1.96 * (ALPHA * (1 - ALPHA) / arguments.draws) ** 0.5
    console.print(f"\n{arguments.draws} draws: 5 % ± {error:.1%}. {time.monotonic() - started:.0f} s")


def simulate(way: str, number: int, at_limit: bool, draws: int) -> Cell:
    """One cell: the variant loses the limit, or nothing."""
    setting, pool = SETTINGS[number], the_pool()
    after = damaged(WAYS[way], lossless(setting.flips), setting.limit if at_limit else 0.0)
    truth = pool.drop(after)
    limit = truth if at_limit else setting.limit
    source = np.random.default_rng([SEED, list(WAYS).index(way), number, at_limit])
    passed = np.zeros((draws, 3))
    for draw in range(draws):
        chosen = source.integers(0, POOL, setting.items)
        test = drop_test(pool.margins[chosen], after[chosen])
        answers, alone = (one.p_within(limit) <= ALPHA for one in (test.by_answers, test.by_margins or test.by_answers))
        passed[draw] = answers, alone, alone and test.p_within(limit) <= ALPHA
    whole = drop_test(pool.margins, after)
    seen = ((whole.by_margins or whole).estimate or 0.0) / truth if at_limit else np.nan
    answers_rate, alone_rate, margins_rate = map(float, passed.mean(axis=0))
    return Cell(answers_rate, alone_rate, margins_rate, seen)


@cache
def the_pool() -> Pool:
    """The items, drawn once a process."""
    return Pool()


@cache
def lossless(share: float) -> Lossless:
    """The variant without damage: noise with which this share of the answers flips, and no drop."""
    pool, noise_sd, lift = the_pool(), 0.5, 0.0

    def noisy(sd: float, raised: float) -> Numbers:
        return pool.logliks + sd * pool.noise + raised * pool.is_right

    def flipped(sd: float, raised: float) -> float:
        return float(((pool.margins_of(noisy(sd, raised)) > 0) != (pool.margins > 0)).mean())

    def gain(raised: float, sd: float) -> float:
        return -pool.drop(pool.margins_of(noisy(sd, raised)))

    for _ in range(3):
        noise_sd = searched(partial(flipped, raised=lift), share, 0.0, STRONGEST)
        lift = searched(partial(gain, sd=noise_sd), 0.0, -1.0, 1.0)
    return Lossless(pool, noisy(noise_sd, lift), noise_sd)


def damaged(way: Way, variant: Lossless, drop: float) -> Numbers:
    """The margins after this way of damage, with this drop of the accuracy."""
    start = -STRONGEST if drop == 0 else 0.0
    strength = searched(lambda strength: variant.pool.drop(way(variant, strength)), drop, start, STRONGEST)
    return way(variant, strength)


def searched(f: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where an ascending function has this value."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if f(middle) > wanted else (middle, high)
    return (low + high) / 2


def drop_test(before: Numbers, after: Numbers) -> DropTest:
    """The gate's test on one task with these margins; each answer with a margin above 0 is right."""
    right, now_right = (before > 0).astype(float), (after > 0).astype(float)
    task = Task(
        name="simulated",
        pairs=margin.pairs(right, now_right),
        before=float(right.mean()),
        after=float(now_right.mean()),
        informative=True,
        smoothed=smoothed(before, after, right - now_right),
    )
    return DropTest((task,), RELATIVE)


def smoothed(before: Numbers, after: Numbers, lost: Numbers) -> Smoothed | None:
    """The scores by margins; None where the margins of half of the items did not change."""
    if choice_margins.spread(before, choice_margins.rescaled(before, after)) == 0:
        return None
    return choice_margins.smoothed_margins(before, after, lost)


if __name__ == "__main__":
    main()
