"""tinyBenchmarks' estimates: a whole benchmark's score from the answers to its 100 anchor items.

Maia Polo et al., "tinyBenchmarks: evaluating LLMs with fewer examples", arXiv:2402.14992. An item response
model gives the probability that a model of ability theta answers item i correctly:
p_i = 1 / (1 + exp(-(a_i . theta - b_i))). Its parameters were fitted to the Open LLM Leaderboard of early 2024 and are
published as a pickle, which is read here without executing it.

Known gaps: the parameters describe that leaderboard's models and prompts, so the estimate of an unlike model is off by
an unknown amount, and 100 answers leave a standard error of some points. The whole benchmark's score stays unknown.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from quantgate.components.benchmarks import plain_pickle
from quantgate.components.errors import PrerequisiteError

PUBLISHED_SHA256 = "c3b6e426dfe7b100fe6d0ee960398e10a8763254bcead3be80cc6bc15abca284"
ANCHORS = 100

SCENARIOS = {
    "tinyArc": ("lb", "arc"),
    "tinyGSM8k": ("lb", "gsm8k"),
    "tinyHellaswag": ("lb", "hellaswag"),
    "tinyMMLU": ("mmlu", "mmlu"),
    "tinyTruthfulQA": ("lb", "truthfulqa"),
    "tinyWinogrande": ("lb", "winogrande"),
}
"""By lm-eval's task, the benchmark and the scenario in the file; five scenarios share the benchmark `lb`."""

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]


class MalformedError(ValueError):
    """The file's content or layout differs from the published file's."""


@dataclass(frozen=True, eq=False)
class Parameters:
    """The published parameters of one benchmark of n items; raises ValueError if they contradict each other."""

    discrimination: Floats
    """(d, n): a of the item response model."""
    difficulty: Floats
    """(n,): b of the item response model."""
    anchors: Positions
    """(100,): the items' positions of the task's rows, in their order; ARC and TruthfulQA contain one item twice."""
    anchor_weights: Floats
    """(100,): the share of the benchmark that an anchor represents; their sum is 1."""
    balance: Floats
    """(n,): an item's weight in the benchmark's score, on average 1; MMLU's subjects weigh the same, not its items."""
    anchor_share: float
    """Lambda, from 0 to 1: the weight of `irt` in `gp_irt`; that of `p_irt` is the rest."""

    def __post_init__(self) -> None:
        for name in ("discrimination", "difficulty", "anchor_weights", "balance", "anchor_share"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} has values that are not finite")
        if self.discrimination.ndim != 2:
            raise ValueError(f"discrimination has {self.discrimination.ndim} dimensions, not 2")
        n = self.discrimination.shape[1]
        expected = {"difficulty": (n,), "balance": (n,), "anchors": (ANCHORS,), "anchor_weights": (ANCHORS,)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has the shape {getattr(self, name).shape}, not {shape}")
        if n <= ANCHORS or self.anchors.min() < 0 or self.anchors.max() >= n:
            raise ValueError(f"the {ANCHORS} anchors are not positions in a larger set of items; it contains {n}")
        if self.anchor_weights.min() < 0 or abs(self.anchor_weights.sum() - 1) > 1e-5:
            raise ValueError(
                f"the anchors' weights must be 0 or more and sum to 1; their sum is {self.anchor_weights.sum()}"
            )
        if self.balance.min() < 0 or abs(self.balance.mean() - 1) > 1e-5:
            raise ValueError(
                f"the items' weights must be 0 or more and 1 on average; their mean is {self.balance.mean()}"
            )
        if not 0 <= self.anchor_share <= 1:
            raise ValueError(f"lambda is {self.anchor_share}, not from 0 to 1")


@dataclass(frozen=True)
class Estimate:
    """Four estimates of a benchmark's score, as shares: all but the first need the published parameters."""

    mean: float
    """The mean of the anchors' scores; biased, because the anchors are not a random sample."""
    irt: float
    """The anchors' scores, weighted by `anchor_weights`."""
    p_irt: float
    """The anchors' scores, and the item response model's predictions for all other items."""
    gp_irt: float
    """lambda * irt + (1 - lambda) * p_irt: the score that lm-eval reports for a tiny task."""


def estimate(scores: Floats, parameters: Parameters) -> Estimate:
    """The estimates from the scores (100,) of a task's rows, in the rows' order; scores are from 0 to 1.

    A fractional score, as TruthfulQA's, enters the likelihood as it is, as in the published evaluation. Raises
    PrerequisiteError for scores that are too few, too many or out of range.
    """
    check_scores(scores)
    chances = expit(ability(scores, parameters) @ parameters.discrimination - parameters.difficulty)
    unseen = np.ones(len(chances), bool)
    unseen[parameters.anchors] = False
    share_seen = ANCHORS / len(chances)
    seen_score = (parameters.balance[parameters.anchors] * scores).mean()
    unseen_score = (parameters.balance * chances)[unseen].mean()
    irt = float(parameters.anchor_weights @ scores)
    p_irt = float(share_seen * seen_score + (1 - share_seen) * unseen_score)
    gp_irt = parameters.anchor_share * irt + (1 - parameters.anchor_share) * p_irt
    return Estimate(float(scores.mean()), irt, p_irt, gp_irt)


def check_scores(scores: Floats) -> None:
    """Raise PrerequisiteError unless these are a tiny task's scores."""
    if scores.shape != (ANCHORS,):
        raise PrerequisiteError(
            f"The estimate of a tiny task needs the scores of all its {ANCHORS} rows, in their order; it got"
            f" {' x '.join(map(str, scores.shape))}. Run the task without a limit."
        )
    wrong = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if wrong.size:
        raise PrerequisiteError(
            f"The score of row {wrong[0]} is {scores[wrong[0]]}, not from 0 to 1, so there is no estimate."
            " Look at the model's answer to that row."
        )


def ability(scores: Floats, parameters: Parameters) -> Floats:
    """The ability theta (d,) that makes the anchors' scores most likely; raises ArithmeticError if the search fails.

    Where a theta separates the right answers from the wrong ones (nearly all right, nearly all wrong, or few answers
    for many dimensions) the likelihood has no maximum and the search ends where it is flat. The predictions
    then depend on the optimizer's path: another implementation can differ by points.
    """
    a = parameters.discrimination[:, parameters.anchors]
    b = parameters.difficulty[parameters.anchors]

    def loss(theta: Floats) -> tuple[float, Floats]:
        logit = theta @ a - b
        return float((np.logaddexp(0, logit) - scores * logit).sum()), a @ (expit(logit) - scores)

    # Start, method and tolerance are the published evaluation's: without a maximum they determine the result.
    optimum = minimize(loss, np.zeros(len(a)), jac=True, method="BFGS", options={"gtol": 1e-5})
    steepest = float(np.abs(loss(optimum.x)[1]).max())
    if not steepest < 1e-3:
        raise ArithmeticError(f"The search for the ability ended on a slope of {steepest}: {optimum.message}")
    return np.asarray(optimum.x)


def read_parameters(path: Path, sha256: str = PUBLISHED_SHA256) -> dict[str, Parameters]:
    """The parameters of each task of SCENARIOS from the published `tinyBenchmarks.pkl`, which is not executed.

    Raises PrerequisiteError for a file that cannot be read, has another digest, or has another layout.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PrerequisiteError(f"{path} cannot be read: {error}. Correct the path or fetch the file.") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise PrerequisiteError(
            f"{path} has the sha256 {digest}, not {sha256}: it is not the tinyBenchmarks.pkl that was published"
            " with tinyBenchmarks. Fetch it again from there."
        )
    benchmarks = plain_pickle.load(data, str(path))
    parameters = {}
    for task, (benchmark, scenario) in SCENARIOS.items():
        try:
            parameters[task] = scenario_parameters(value_at(benchmarks, benchmark), scenario)
        except (ValueError, OverflowError) as error:
            raise PrerequisiteError(
                f"{path}: {task}'s parameters ({benchmark}, {scenario}) are not as published: {error}."
                " Fetch the file again."
            ) from error
    return parameters


def scenario_parameters(benchmark: object, scenario: str) -> Parameters:
    """One scenario's part of a benchmark; raises ValueError if its layout differs from the published file's."""
    items = as_positions(value_at(benchmark, "scenarios_position", scenario))
    order = list(as_dict(value_at(benchmark, "scenarios_position")))
    seen = as_positions(value_at(benchmark, "seen_examples"))
    if seen.shape != (ANCHORS * len(order),):
        raise MalformedError(f"there are {len(seen)} seen_examples, not {ANCHORS} for each of {len(order)} scenarios")
    subscenarios = as_dict(value_at(benchmark, "subscenarios_position", scenario))
    begin = ANCHORS * order.index(scenario)
    place = {int(item): index for index, item in enumerate(items)}
    if len(place) < len(items) or not subscenarios:
        raise MalformedError("the scenario contains an item twice, or has no subscenario")
    try:
        anchors = [place[int(item)] for item in seen[begin : begin + ANCHORS]]
    except KeyError as error:
        raise MalformedError(f"the seen example {error} does not belong to {scenario}") from error
    a = as_floats(value_at(benchmark, "irt_parameters", "A"))
    b = as_floats(value_at(benchmark, "irt_parameters", "B"))
    if a.ndim != 3 or b.shape not in {(1, 1, a.shape[2]), a.shape} or len(a) != 1 or items.max() >= a.shape[2]:
        raise MalformedError(f"A and B have the shapes {a.shape} and {b.shape}")
    # The published evaluation subtracts b in each dimension before it sums them: d times in all.
    difficulty = np.broadcast_to(b, a.shape)[0].sum(axis=0)
    return Parameters(
        discrimination=a[0][:, items],
        difficulty=difficulty[items],
        anchors=np.array(anchors, np.intp),
        anchor_weights=as_floats(value_at(benchmark, "examples_weights", scenario)),
        balance=balance_of([as_positions(items_of) for items_of in subscenarios.values()], items),
        anchor_share=float(as_floats(value_at(benchmark, "optimal_lambdas", scenario)).reshape(())),
    )


def balance_of(subscenarios: list[Positions], items: Positions) -> Floats:
    """Each item's weight, so that the mean over the items is the mean of the subscenarios' means."""
    if not np.array_equal(np.sort(np.concatenate(subscenarios)), np.sort(items)):
        raise MalformedError("the subscenarios do not contain each item of the scenario exactly once")
    weights = {
        int(item): len(items) / (len(subscenarios) * len(members)) for members in subscenarios for item in members
    }
    return np.array([weights[int(item)] for item in items])


def value_at(value: object, *keys: str) -> object:
    """The value under the nested keys; raises MalformedError if a key is missing."""
    for key in keys:
        mapping = as_dict(value)
        if key not in mapping:
            raise MalformedError(f"{'.'.join(keys)} is missing")
        value = mapping[key]
    return value


def as_dict(value: object) -> dict[object, object]:
    """The value, if it is a dict; else raises MalformedError."""
    if not isinstance(value, dict):
        raise MalformedError(f"expected a dict, not {type(value).__name__}")
    return value


def as_positions(value: object) -> Positions:
    """The positions of items as an array; raises MalformedError unless they are one or more whole numbers from 0."""
    # Check the list's entries first: numpy would expand lists within lists.
    if not isinstance(value, list | np.ndarray) or not all(isinstance(entry, int | np.integer) for entry in value):
        raise MalformedError("expected a list of whole numbers")
    places = np.array(value, np.intp)
    if places.ndim != 1 or not places.size or places.min() < 0:
        raise MalformedError("positions are not whole numbers from 0 in a list")
    return places


def as_floats(value: object) -> Floats:
    """The number or numbers as an array of floats; raises MalformedError for any other value."""
    if isinstance(value, list) and all(isinstance(entry, float | np.floating) for entry in value):
        return np.array(value, np.float64)
    if not isinstance(value, float | np.floating | np.ndarray):
        raise MalformedError(f"expected numbers, not {type(value).__name__}")
    return np.array(value, np.float64)
