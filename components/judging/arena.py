"""The arena: win rates of variants against the baseline, and Bradley-Terry strengths, both with bounds.

*Win rate*: the mean over the questions of 1 for a win, 0.5 for a tie, 0 for a loss. Its one-sided bounds are those of
`components/evidence/margin.py` (Gaffke's test of a bounded mean), which hold for few questions too.

*Strengths*: P(a beats b) = 1 / (1 + exp(s_b - s_a)), fitted by maximum likelihood; a tie is half a win for each, as in
FastChat's arena. R. Bradley and M. Terry, Rank Analysis of Incomplete Block Designs, Biometrika 39 (1952) 324-345;
W. Chiang et al., Chatbot Arena (arXiv 2403.04132). Each pair that was compared gets half a win more on both sides, as
D. Firth's correction for two models does (Biometrika 80 (1993) 27-38): a model that wins every time has a finite
strength. The baseline's strength is 0. As every game is one with the baseline, the model's P is the win rate; so the
bounds of a strength are those of the win rate on the other scale. Wald's bounds of a logistic fit would miss the truth
in up to 14 % of cases with 40 games, in place of 5 %. One question is one game, however many people vote on it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import bdtr, expit, log_expit, logit

from quantgate.components.evidence import margin
from quantgate.components.storage.artifact import Artifact

Numbers = NDArray[np.float64]

ALPHA = 0.05
"""The error probability of each bound."""
ADDED = 0.5
"""Wins added on both sides of each pair that was compared."""
ELO = 400 / math.log(10)
"""Points of Elo's scale for one unit of strength."""
EVERYTHING = "all"


@dataclass(frozen=True)
class Game:
    """One comparison: the share of a win that the first of two models gets."""

    first: str
    second: str
    score: float


class Standing(Artifact):
    """A variant against the baseline, in one category of questions or in all."""

    variant: str
    category: str
    wins: int
    losses: int
    ties: int
    mixed: int = 0
    """Questions on which several people voted, neither all for one model nor evenly."""
    missing: int = 0
    """Questions without a verdict: a reply or a judgement is missing."""
    win_rate: float | None = None
    """The variant's mean share of a win, ties as half; None without questions."""
    lower: float | None = None
    upper: float | None = None
    strength: float | None = None
    """The variant's Bradley-Terry strength on Elo's scale, the baseline's being 0."""
    strength_lower: float | None = None
    """None also where the bound has no end: a win rate of 0 or 1 is possible."""
    strength_upper: float | None = None

    @property
    def questions(self) -> int:
        """The number of questions with a verdict."""
        return self.wins + self.losses + self.ties + self.mixed

    @property
    def finding(self) -> str:
        """What the bounds show: `better`, `worse` or `open`."""
        if self.lower is None or self.upper is None:
            return "open"
        return "better" if self.lower > 0.5 else "worse" if self.upper < 0.5 else "open"


class PositionBias(Artifact):
    """How the judge's verdicts depend on the order in which it reads the replies."""

    pairs: int
    """Pairs that were asked in both orders, both with a verdict."""
    first_both: int
    """Pairs in which it preferred the first position both times: they count as ties."""
    second_both: int
    agree: int
    """Pairs in which both orders gave the same verdict."""
    p_value: float | None
    """Of a sign test that the two positions are preferred equally often among the pairs that depend on the order."""


def position_bias(verdicts: Sequence[tuple[str, str]]) -> PositionBias:
    """From each pair's two verdicts, `A`, `B` or `C` by position: first with the baseline as A, then as B."""
    both = Counter(verdicts)
    first, second = both["A", "A"], both["B", "B"]
    agree = both["A", "B"] + both["B", "A"] + both["C", "C"]
    # from scipy.special: the import of scipy.stats takes a second
    p_value = min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5))) if first + second else None
    return PositionBias(pairs=len(verdicts), first_both=first, second_both=second, agree=agree, p_value=p_value)


def share_of(baseline_first: str, variant_first: str) -> float:
    """The variant's share of a win from both verdicts; where the two orders disagree it is a tie."""
    if (baseline_first, variant_first) == ("B", "A"):
        return 1.0
    return 0.0 if (baseline_first, variant_first) == ("A", "B") else 0.5


def win_rate_bounds(shares: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper bound of the mean share, each with an error of at most ALPHA."""
    values = np.asarray(shares, dtype=np.float64)
    lower = margin.lower_of_mean(margin.pairs(values, values), ALPHA)
    upper = 1 - margin.lower_of_mean(margin.pairs(1 - values, 1 - values), ALPHA)
    return lower, upper


def strengths(games: Sequence[Game], anchor: str) -> dict[str, float]:
    """Each model's strength (natural log units); the anchor's is 0.

    Raises ValueError where a model is not connected with the anchor by games.
    """
    names = sorted({name for game in games for name in (game.first, game.second)} - {anchor})
    place = {name: number for number, name in enumerate([anchor, *names])}
    won: dict[tuple[int, int], float] = {}
    for game in games:
        first, second = place[game.first], place[game.second]
        for pair, share in (((first, second), game.score), ((second, first), 1 - game.score)):
            won[pair] = won.get(pair, ADDED) + share
    if unconnected := set(place.values()) - _connected(won):
        raise ValueError(
            f"No games connect {sorted(name for name in names if place[name] in unconnected)} with {anchor}."
        )
    ends = np.array(list(won))
    wins = np.array(list(won.values()))
    design = np.zeros((len(wins), len(place)))
    design[np.arange(len(wins)), ends[:, 0]] = 1
    design[np.arange(len(wins)), ends[:, 1]] = -1
    free = design[:, 1:]
    fitted = minimize(
        lambda beta: -float(wins @ log_expit(free @ beta)),
        np.zeros(len(names)),
        jac=lambda beta: -free.T @ (wins * expit(-(free @ beta))),
        method="BFGS",
        options={"gtol": 1e-9},
    ).x
    return {anchor: 0.0} | {name: float(fitted[place[name] - 1]) for name in names}


def elo_of(chance: float) -> float | None:
    """The difference in strength, on Elo's scale, with which a model wins so often; None where it has no end."""
    return ELO * float(logit(chance)) if 0 < chance < 1 else None


def _connected(won: Mapping[tuple[int, int], float]) -> set[int]:
    reached, waiting = {0}, [0]
    while waiting:
        here = waiting.pop()
        following = {second for first, second in won if first == here} - reached
        reached |= following
        waiting += following
    return reached


def standing(variant: str, category: str, shares: Sequence[float], missing: int) -> Standing:
    """The standing from the variant's shares, one a question."""
    counts = Counter(
        "won" if share == 1 else "lost" if share == 0 else "tied" if share == 0.5 else "mixed" for share in shares
    )
    counted = Standing(
        variant=variant,
        category=category,
        wins=counts["won"],
        losses=counts["lost"],
        ties=counts["tied"],
        mixed=counts["mixed"],
        missing=missing,
    )
    if not shares:
        return counted
    lower, upper = win_rate_bounds(shares)
    return counted.model_copy(
        update={
            "win_rate": math.fsum(shares) / len(shares),
            "lower": lower,
            "upper": upper,
            "strength": ELO * strengths([Game(variant, "", share) for share in shares], "")[variant],
            "strength_lower": elo_of(lower),
            "strength_upper": elo_of(upper),
        }
    )


def standings(variant: str, shares: Mapping[str, float | None], categories: Mapping[str, str]) -> tuple[Standing, ...]:
    """The standing over all questions, then that of each category if there are several.

    `shares` and `categories` are by question; a share of None is a missing verdict.
    """
    names = sorted(set(categories.values()))
    groups = {EVERYTHING: list(shares)}
    if len(names) > 1:
        groups |= {name: [question for question in shares if categories[question] == name] for name in names}
    found = []
    for category, questions in groups.items():
        known = [share for question in questions if (share := shares[question]) is not None]
        found.append(standing(variant, category, known, len(questions) - len(known)))
    return tuple(found)
