"""The average of several tasks: its error rate for every outcome of small tasks, its power, and its weights."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import gammaln

from quantgate.components.evidence import margin
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.evidence.margin import ABSOLUTE, RELATIVE, Pairs
from quantgate.components.policies.policy import UseCase
from quantgate.components.report.matrix import matrix
from quantgate.components.run.artifacts import Model
from quantgate.components.run.verdicts import Decision
from tests.support.answered import Numbers, answers_of, candidate_of, pair_of

ALPHA = 0.05


def counted(lost: float, gained: float, same: float, weight: float = 1.0) -> Pairs:
    return Pairs(np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]), np.array([lost, gained, same]), weight=weight)


def outcomes(items: int) -> list[tuple[int, int, int]]:
    return [(lost, gained, items - lost - gained) for lost in range(items + 1) for gained in range(items + 1 - lost)]


def probabilities(items: int, lost: Numbers, gained: Numbers) -> Numbers:
    """The probability of each outcome (columns) for each of these chances (rows)."""
    counts = np.array(outcomes(items), dtype=float)
    ways = gammaln(items + 1) - gammaln(counts + 1).sum(axis=1)
    chances = np.maximum(np.stack([lost, gained, 1 - lost - gained], axis=1), 1e-300)
    return np.asarray(np.exp(ways + np.log(chances) @ counts.T), dtype=np.float64)


@pytest.mark.slow(reason="hundreds of simulated runs")
@pytest.mark.parametrize(
    ("sizes", "weights"),
    [((8, 8), (1, 1)), ((4, 12), (1, 1)), ((2, 12), (1, 12)), ((3, 12), (3, 1))],
)
@pytest.mark.parametrize("limit", [0.0, 0.2])
def test_an_average_at_the_limit_passes_in_at_most_one_of_twenty_runs(
    sizes: tuple[int, int], weights: tuple[float, float], limit: float
) -> None:
    """Every outcome of two tasks is enumerated, for 3,000 pairs of true drops whose average is the limit."""
    passes = np.array(
        [
            [
                margin.p_within([counted(*one, weights[0]), counted(*other, weights[1])], ABSOLUTE, limit) <= ALPHA
                for other in outcomes(sizes[1])
            ]
            for one in outcomes(sizes[0])
        ]
    )
    source = np.random.default_rng(1)
    first = source.uniform(-1, 1, 12_000) * source.choice([0.2, 1.0], 12_000)
    second = (limit * sum(weights) - weights[0] * first) / weights[1]
    chances = []
    for drop in (first, second):
        gained = np.maximum(source.random(12_000) ** 3, -drop)
        chances += [np.maximum(drop + gained, 0.0), gained]
    possible = (chances[0] + chances[1] <= 1) & (chances[2] + chances[3] <= 1)
    lost, gained, lost_too, gained_too = (chance[possible][:3000] for chance in chances)
    rates = np.sum(
        (probabilities(sizes[0], lost, gained) @ passes) * probabilities(sizes[1], lost_too, gained_too), axis=1
    )
    assert 0 < rates.max() <= ALPHA


def passing(sizes: Sequence[int], differing: float, drop: float, limit: float) -> float:
    """The share of 400 simulated runs that pass a limit on the average; the baseline scores 0.6."""
    source = np.random.default_rng(3)
    lost, gained = (differing + drop * 0.6) / 2, (differing - drop * 0.6) / 2
    chances = [lost, gained, 0.6 - lost, 0.4 - gained]
    before, after = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0])
    runs = [
        [Pairs(before, after, source.multinomial(size, chances).astype(np.float64)) for size in sizes]
        for _ in range(400)
    ]
    return float(np.mean([margin.p_within(tasks, RELATIVE, limit) <= ALPHA for tasks in runs]))


OPENLLM = (14_042, 10_042, 1172, 1267, 1319, 817)


@pytest.mark.slow(reason="hundreds of simulated runs")
@pytest.mark.parametrize(
    ("sizes", "differing", "limit", "power"),
    [(6 * [100], 0.02, 0.03, 0.8), (6 * [100], 0.1, 0.05, 0.7), (OPENLLM, 0.1, 0.01, 0.5)],
)
def test_one_worst_item_for_all_tasks_leaves_power_and_keeps_the_error(
    sizes: Sequence[int], differing: float, limit: float, power: float
) -> None:
    """With a worst item for each task, the first two pass in 30 and 48 of 100 runs."""
    assert passing(sizes, differing, 0.0, limit) > power
    assert passing(sizes, differing, limit if limit * 0.6 < differing else 0.033, limit) <= 0.07


def test_weights_count_each_task_as_often_as_they_say() -> None:
    worse, same = counted(20, 0, 80), counted(0, 0, 100)
    weighted = Pairs(worse.before, worse.after, worse.counts, weight=3.0)
    assert margin.drop([worse, same], ABSOLUTE) == pytest.approx(0.1)
    assert margin.drop([weighted, same], ABSOLUTE) == pytest.approx(0.15)
    assert margin.p_within([weighted, same], ABSOLUTE, 0.2) == pytest.approx(
        margin.p_within([weighted.times(1.0), Pairs(same.before, same.after, same.counts, weight=1.0)], ABSOLUTE, 0.2)
    )
    doubled = [Pairs(task.before, task.after, task.counts, weight=7.0) for task in (worse, same)]
    assert margin.upper(doubled, RELATIVE, ALPHA) == pytest.approx(margin.upper([worse, same], RELATIVE, ALPHA))


def decided(weights: dict[str, float], *, answers: bool = True) -> Decision:
    policy = UseCase(name="ours", max_average_drop=0.05, average={"weights": weights})  # type: ignore[arg-type]
    good, bad = pair_of(0, 0, 600, 400), pair_of(200, 0, 400, 400)
    models = [
        candidate_of(name, {"mmlu": answers_of("mmlu", good[side]), "gsm8k": answers_of("gsm8k", bad[side])})
        for side, name in enumerate(("bf16", "int8"))
    ]
    if not answers:
        models = [type(model)(model.weights, model.scores) for model in models]
    return decide_candidates(Model(source="m", digest="d", uri="", size_bytes=1), "drawn", policy, models)


@pytest.mark.parametrize("answers", [True, False])
def test_the_policys_weights_decide_and_the_report_shows_them(answers: bool) -> None:
    equal, weighted = decided({}, answers=answers), decided({"mmlu": 9}, answers=answers)
    assert [decision.verdicts[1].average_drop for decision in (equal, weighted)] == pytest.approx([1 / 6, 1 / 30])
    assert equal.verdicts[1].verdict == "reject"
    assert weighted.verdicts[1].verdict != "reject"
    assert "the weighted average fell 3.3 % (0.600 → 0.580)" in weighted.verdicts[1].sentence
    assert "the average weighs mmlu 9, any other task 1" in weighted.policy
    assert matrix(weighted)[1].mean_score == pytest.approx(0.58)


def test_a_weight_of_an_unknown_task_makes_saved_results_not_comparable() -> None:
    row = decided({"mmul": 2}).verdicts[1]
    assert (row.verdict, row.sentence) == (
        "not_comparable",
        "Not comparable for ours: its average weights mmul, which the suite does not score.",
    )
