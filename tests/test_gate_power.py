"""The number of questions that a limit needs, compared with simulations, the gate's advice and the formula."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pandas import DataFrame  # type: ignore[import-untyped]

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence import margin
from quantgate.components.evidence.drops import DropTest, Task
from quantgate.components.evidence.margin import ABSOLUTE, RELATIVE
from quantgate.components.evidence.power import Expected, questions, smallest_limit
from quantgate.components.report.figures import questions_against_limit

ALPHA = 0.05
MMLU = (1534, 895, 783, 612, 545, *52 * (186,))
"""The sizes of MMLU's five largest subjects, and the average size of the others."""


def settled(expected: Expected, items: int, limit: float, draws: int = 250) -> float:
    """The share of simulated runs with this number of questions that decide the limit."""
    source = np.random.default_rng([1, items])
    p = margin.p_within if expected.drop < limit else margin.p_beyond
    return float(np.mean([p([drawn(expected, items, source)], RELATIVE, limit) <= ALPHA for _ in range(draws)]))


def drawn(expected: Expected, items: int, source: np.random.Generator) -> margin.Pairs:
    """One simulated run; the clusters' drops have a normal distribution."""
    clusters: NDArray[np.int64] | None = None
    fewer = np.full(items, expected.drop * expected.baseline)
    if expected.clusters:
        clusters = np.repeat(np.arange(len(expected.clusters)), expected.clusters)
        fewer = fewer + source.normal(0, expected.spread, len(expected.clusters))[clusters]
    differing = np.maximum(expected.differing, np.abs(fewer))
    lost, gained = (differing + fewer) / 2, (differing - fewer) / 2
    chance = source.random(items)
    is_lost, is_gained = chance < lost, (chance >= lost) & (chance < differing)
    right = (chance >= differing) & (source.random(items) < (expected.baseline - lost) / (1 - differing))
    assert (lost + gained).max() < 1
    return margin.pairs((is_lost | right).astype(float), (is_gained | right).astype(float), clusters)


@pytest.mark.parametrize(
    ("expected", "limit"),
    [
        (Expected(0.1), 0.03),
        (Expected(0.3), 0.05),
        (Expected(0.05), 0.02),
        (Expected(0.1, drop=0.01), 0.03),
        (Expected(0.1, baseline=0.9), 0.03),
        (Expected(0.1, drop=0.06), 0.03),
    ],
)
def test_four_of_five_runs_with_the_advised_questions_decide_the_limit(expected: Expected, limit: float) -> None:
    needed = questions(expected, limit, ALPHA)
    assert needed is not None
    assert settled(expected, needed, limit) == pytest.approx(0.8, abs=0.07)
    assert settled(expected, needed // 2, limit) < 0.65


@pytest.mark.slow
@pytest.mark.parametrize(("clusters", "spread"), [(MMLU, 0.0), (MMLU, 0.03), (10 * (400,), 0.02)])
def test_four_of_five_runs_decide_the_smallest_limit_with_clusters(clusters: tuple[int, ...], spread: float) -> None:
    expected = Expected(0.1, clusters=clusters, spread=spread)
    limit = smallest_limit(expected, [sum(clusters)], ALPHA)
    assert settled(expected, sum(clusters), limit) == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize(("drop", "limit"), [(0.0, 0.02), (0.01, 0.03), (0.05, 0.02)])
def test_the_number_equals_a_verdicts_advice_after_the_expected_answers(drop: float, limit: float) -> None:
    expected = Expected(0.1, drop=drop)
    task = Task("gsm8k", expected.pairs(300), expected.baseline, 0.0, informative=True)
    advised = DropTest((task,), RELATIVE).further_items(limit, ALPHA)
    assert advised is not None
    assert questions(expected, limit, ALPHA) == pytest.approx(300 + advised, rel=0.003)


@pytest.mark.parametrize("differing", [0.05, 0.1, 0.3])
def test_for_many_questions_it_is_the_textbooks_number(differing: float) -> None:
    deviates = 1.644854 + 0.841621
    needed = questions(Expected(differing), 0.002, ALPHA, scale=ABSOLUTE)
    assert needed == pytest.approx(deviates**2 * differing / 0.002**2, rel=0.02)


def test_half_the_limit_costs_four_times_the_questions_and_more_power_costs_more() -> None:
    expected = Expected(0.1)
    costs = [questions(expected, limit, ALPHA) or 0 for limit in (0.02, 0.01, 0.005)]
    assert costs[1] / costs[0] == pytest.approx(4, rel=0.03)
    assert costs[2] / costs[1] == pytest.approx(4, rel=0.02)
    at_half = questions(expected, 0.02, ALPHA, power=0.5) or 0
    assert at_half / costs[0] == pytest.approx(1.645**2 / (1.645 + 0.842) ** 2, rel=0.05)


def test_several_variants_need_more_questions() -> None:
    alone, first_of_three = (questions(Expected(0.1), 0.02, alpha) or 0 for alpha in (ALPHA, ALPHA / 3))
    assert first_of_three / alone == pytest.approx((2.128 + 0.842) ** 2 / (1.645 + 0.842) ** 2, rel=0.02)


@pytest.mark.parametrize(("items", "points"), [(100, 0.052), (1319, 0.0144), (14_042, 0.0044)])
def test_the_half_width_of_a_bound_is_the_limit_with_a_power_of_one_half(items: int, points: float) -> None:
    """With few items the bound includes the worst possible further item: two points of a hundred."""
    limit = smallest_limit(Expected(0.1), [items], ALPHA, power=0.5, scale=ABSOLUTE)
    assert points < limit < points + 1.3 / items


@pytest.mark.parametrize("items", [164, 1319, 14_042])
def test_the_smallest_limit_needs_exactly_the_available_questions(items: int) -> None:
    expected = Expected(0.1)
    limit = smallest_limit(expected, [items], ALPHA)
    assert questions(expected, limit, ALPHA) == pytest.approx(items, rel=0.003)


def test_the_average_of_equal_tasks_has_the_power_of_all_their_questions() -> None:
    expected = Expected(0.1)
    apart, together = smallest_limit(expected, 4 * [3000], ALPHA), smallest_limit(expected, [12_000], ALPHA)
    assert apart == pytest.approx(together), "one worst item stands for all tasks"


def test_more_questions_from_the_same_clusters_do_not_make_up_for_differing_clusters() -> None:
    alike, apart = (Expected(0.1, clusters=MMLU, spread=spread) for spread in (0.0, 0.03))
    assert questions(apart, 0.015, ALPHA) is None
    assert (questions(alike, 0.015, ALPHA) or 0) > (questions(Expected(0.1), 0.015, ALPHA) or 0)


def test_no_number_of_questions_decides_a_drop_at_the_limit() -> None:
    assert questions(Expected(0.1, drop=0.02), 0.02, ALPHA) is None


def test_two_differing_clusters_decide_nothing() -> None:
    assert smallest_limit(Expected(0.4, clusters=(1, 1), spread=0.3), [1000], ALPHA) == 1.0


@pytest.mark.parametrize(
    "expected",
    [Expected(0.01, drop=0.1), Expected(0.5, baseline=0.1), Expected(0.5, baseline=0.9)],
)
def test_impossible_expected_answers_are_refused(expected: Expected) -> None:
    with pytest.raises(PrerequisiteError, match="A baseline of"):
        questions(expected, 0.02, ALPHA)


def test_the_figure_has_a_line_per_share_and_marks_where_no_number_is_enough() -> None:
    costs = DataFrame({0.01: [2234, 737, None], 0.1: [17_360, 4400, 1984]}, index=[0.01, 0.02, 0.03])
    axes = questions_against_limit(costs, {"mmlu": 14_042, "gsm8k": 1319, "winogrande": 1267}).axes[0]
    lines = {str(line.get_label()): np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines[:2]}
    assert list(lines) == ["1.0 % differ", "10.0 % differ"]
    assert lines["1.0 % differ"][:2].tolist() == [2234, 737]
    assert np.isnan(lines["1.0 % differ"][2])
    assert lines["10.0 % differ"].tolist() == [17_360, 4400, 1984]
    heights = {label.get_text(): label.get_position()[1] for label in axes.texts}
    assert list(heights) == ["winogrande 1,267", "gsm8k 1,319", "mmlu 14,042"]
    assert heights["gsm8k 1,319"] > 1.2 * heights["winogrande 1,267"], "one name does not cover the other"
