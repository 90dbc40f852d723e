"""The statistics of a paired drop: equal to known exact values, within the promised error rate, and symmetric."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import beta

from quantgate.components.evidence import margin
from quantgate.components.evidence.gamma_tail import tail
from quantgate.components.evidence.margin import ABSOLUTE, RELATIVE, Pairs, Scale
from tests.support.answered import Numbers, pair_of

ALPHA = 0.05
SCALES = pytest.mark.parametrize("scale", [ABSOLUTE, RELATIVE], ids=["absolute", "relative"])


def drawn(items: int, lost: float, gained: float, right: float, seed: int) -> tuple[Numbers, Numbers]:
    source = np.random.default_rng(seed)
    kinds = source.choice(4, items, p=[lost, gained, right, 1 - lost - gained - right])
    return np.isin(kinds, (0, 2)).astype(float), np.isin(kinds, (1, 2)).astype(float)


@pytest.mark.parametrize(("items", "lost"), [(20, 0), (100, 0), (100, 7), (1319, 40), (14_042, 0)])
def test_without_gains_the_bounds_are_clopper_and_pearsons(items: int, lost: int) -> None:
    task = [margin.pairs(*pair_of(lost, 0, items - lost, 0))]
    assert margin.upper(task, ABSOLUTE, ALPHA) == pytest.approx(beta.isf(ALPHA, lost + 1, items - lost), abs=1e-8)


@pytest.mark.parametrize("items", [20, 45])
@pytest.mark.parametrize("limit", [0.0, 0.02, 0.05, 0.1])
def test_a_drop_at_the_limit_always_passes_in_at_most_one_of_twenty_runs(items: int, limit: float) -> None:
    """Every outcome of a run is enumerated, so the error rate is exact, not simulated."""
    lost, gained = (grid.ravel() for grid in np.meshgrid(np.arange(items + 1), np.arange(items + 1)))
    possible = lost + gained <= items
    lost, gained = lost[possible], gained[possible]
    passes = np.array(
        [
            margin.p_within([margin.pairs(*pair_of(one, other, items - one - other, 0))], ABSOLUTE, limit) <= ALPHA
            for one, other in zip(lost.tolist(), gained.tolist(), strict=True)
        ]
    )
    same = items - lost - gained
    ways = gammaln(items + 1) - gammaln(lost + 1) - gammaln(gained + 1) - gammaln(same + 1)
    rates = []
    for chance in np.linspace(1e-9, (1 - limit) / 2 - 1e-9, 150):  # of gaining an answer
        logs = np.log([max(chance + limit, 1e-300), chance, max(1 - 2 * chance - limit, 1e-300)])
        rates.append(np.exp(ways + lost * logs[0] + gained * logs[1] + same * logs[2])[passes].sum())
    assert 0 < max(rates) <= ALPHA


@SCALES
@pytest.mark.parametrize("seed", range(5))
def test_a_drop_at_its_bound_has_a_p_value_of_alpha(scale: Scale, seed: int) -> None:
    task = [margin.pairs(*drawn(500, 0.06, 0.05, 0.5, seed))]
    high, low = margin.upper(task, scale, ALPHA), margin.lower(task, scale, ALPHA)
    assert low < (margin.drop(task, scale) or 0) < high
    assert margin.p_within(task, scale, high) == pytest.approx(ALPHA, abs=1e-6)
    assert margin.p_beyond(task, scale, low) == pytest.approx(ALPHA, abs=1e-6)
    assert margin.p_within(task, scale, high - 1e-4) > ALPHA > margin.p_within(task, scale, high + 1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_swapping_baseline_and_variant_mirrors_the_bounds(seed: int) -> None:
    before, after = drawn(300, 0.08, 0.04, 0.5, seed)
    task, swapped = margin.pairs(before, after), [margin.pairs(after, before)]
    assert margin.drop(swapped, ABSOLUTE) == pytest.approx(-(margin.drop([task], ABSOLUTE) or 0.0), abs=1e-12)
    assert margin.upper(swapped, ABSOLUTE, ALPHA) == pytest.approx(-margin.lower([task], ABSOLUTE, ALPHA), abs=1e-8)
    assert margin.p_beyond(swapped, ABSOLUTE, -0.02) == pytest.approx(margin.p_within([task], ABSOLUTE, 0.02), rel=1e-9)


@SCALES
@pytest.mark.parametrize("clustered", [False, True])
def test_the_order_of_the_items_changes_nothing(scale: Scale, clustered: bool) -> None:
    before, after = drawn(400, 0.06, 0.05, 0.5, 1)
    clusters = np.arange(400) % 20 if clustered else None
    mixed = np.random.default_rng(2).permutation(400)
    one = [margin.pairs(before, after, clusters)]
    other = [margin.pairs(before[mixed], after[mixed], None if clusters is None else clusters[mixed])]
    assert margin.upper(one, scale, ALPHA) == pytest.approx(margin.upper(other, scale, ALPHA), abs=1e-9)
    assert margin.lower(one, scale, ALPHA) == pytest.approx(margin.lower(other, scale, ALPHA), abs=1e-9)


@pytest.mark.parametrize("lost", [0, 1, 5, 20])
@pytest.mark.parametrize("gained", [0, 1, 5])
@pytest.mark.parametrize("right", [True, False])
def test_an_item_with_equal_answers_never_raises_the_bound_of_a_drop(lost: int, gained: int, right: bool) -> None:
    bounds = []
    for more in range(4):
        task = [margin.pairs(*pair_of(lost, gained, 50 + more * right, 50 + more * (not right)))]
        bounds.append(margin.upper(task, ABSOLUTE, ALPHA))
    if min(bounds) < 0:  # surely a gain, which every such item waters down
        assert max(bounds) <= 0
        assert all(later >= earlier - 1e-9 for earlier, later in pairwise(bounds))
    else:
        assert all(later <= earlier + 1e-9 for earlier, later in pairwise(bounds))


def test_a_relative_margin_is_tested_without_a_ratio() -> None:
    task = [margin.pairs(*pair_of(30, 10, 50, 10))]
    doubled = [margin.pairs(*(np.concatenate([scores, np.zeros(100)]) for scores in pair_of(30, 10, 50, 10)))]
    assert margin.upper(doubled, RELATIVE, ALPHA) == pytest.approx(margin.upper(task, RELATIVE, ALPHA), abs=1e-9), (
        "items that both get wrong say nothing of a share of the baseline's score"
    )


def test_a_baseline_of_zero_has_no_relative_drop_and_no_bounds() -> None:
    task = [margin.pairs(*pair_of(0, 5, 0, 50))]
    assert margin.drop(task, RELATIVE) is None
    with pytest.raises(ValueError, match="scores 0"):
        margin.upper(task, RELATIVE, ALPHA)


def test_a_variant_that_loses_everything_has_lost_everything() -> None:
    task = [margin.pairs(*pair_of(40, 0, 0, 10))]
    assert margin.upper(task, RELATIVE, ALPHA) == 1.0
    assert margin.p_beyond(task, RELATIVE, 0.9) < ALPHA


@pytest.mark.parametrize("limit", [0.03, 0.04, 0.05])
def test_many_different_scores_are_counted_on_a_grid_with_the_same_result(limit: float) -> None:
    source = np.random.default_rng(3)
    before = source.random(2 * margin.MOST_PAIRS)
    after = np.clip(before * 0.96 + source.normal(0, 0.2, len(before)), 0, 1)
    grid = margin.pairs(before, after)
    ungrouped = Pairs(before, after, np.ones(len(before)))
    assert len(grid.counts) < len(before)
    assert margin.drop([grid], RELATIVE) == pytest.approx(margin.drop([ungrouped], RELATIVE), abs=1e-12)
    assert margin.p_within([grid], RELATIVE, limit) == pytest.approx(
        margin.p_within([ungrouped], RELATIVE, limit), rel=0.02
    )


@pytest.mark.parametrize("items", [1, 5, 100, 140_420])
@pytest.mark.parametrize("lost", [0, 3, 60, 5000])
@pytest.mark.parametrize("p", [0.9, 0.5, 0.4, 0.05, 0.001, 1e-9])
def test_the_tail_probability_matches_the_known_exact_values(items: int, lost: int, p: float) -> None:
    if lost < items:
        at = beta.isf(p, lost + 1, items - lost)
        p_value = tail(np.array([-at, 1 - at]), np.array([items - lost, lost + 1.0]))
        assert p_value == pytest.approx(p, rel=1e-3 if items < 5 or p > 0.5 else 1e-6)


@pytest.mark.parametrize(("items", "right", "limit"), [(1319, 791, 0.015), (14_042, 8425, 0.0005), (500, 500, 0.005)])
def test_each_additional_lost_answer_lowers_the_p_value_of_a_drop(items: int, right: int, limit: float) -> None:
    """If a few answers have most of the variance, every method of integrating the tail has weak spots."""
    p_values = [
        margin.p_beyond([margin.pairs(*pair_of(lost, 0, right - lost, items - right))], RELATIVE, limit)
        for lost in range(60)
    ]
    assert all(0 < later < earlier for earlier, later in pairwise(p_values))
    ratios = [later / earlier for earlier, later in pairwise(p_values)]
    assert all(later < earlier + 1e-3 for earlier, later in pairwise(ratios)), "and smoothly so"


def test_fractional_scores_count_by_their_value() -> None:
    source = np.random.default_rng(4)
    before = source.random(300)
    halved = margin.pairs(before, before / 2)
    assert margin.drop([halved], RELATIVE) == pytest.approx(0.5)
    assert margin.lower([halved], RELATIVE, ALPHA) > 0.45
    assert margin.upper([halved], RELATIVE, ALPHA) < 0.55


def test_copies_of_an_item_in_its_cluster_count_as_one_item() -> None:
    before, after = drawn(200, 0.08, 0.04, 0.5, 5)
    alone = margin.upper([margin.pairs(before, after)], ABSOLUTE, ALPHA)
    before, after, clusters = np.repeat(before, 10), np.repeat(after, 10), np.repeat(np.arange(200), 10)
    believed = margin.upper([margin.pairs(before, after)], ABSOLUTE, ALPHA)
    respected = margin.upper([margin.pairs(before, after, clusters)], ABSOLUTE, ALPHA)
    assert believed < alone - 0.01
    assert alone - 0.01 < respected < alone + 0.01, "a t-test of 200 clusters, beside the exact test of 200 items"


def test_a_single_cluster_is_ignored() -> None:
    scores = drawn(200, 0.08, 0.04, 0.5, 6)
    assert margin.pairs(*scores, np.zeros(200, dtype=np.int64)).clusters is None


def test_clusters_never_narrow_a_bound() -> None:
    for seed in range(10):
        scores = drawn(300, 0.05, 0.05, 0.5, seed)
        clusters = np.random.default_rng(seed).integers(0, 15, 300)
        plain, clustered = margin.pairs(*scores), margin.pairs(*scores, clusters)
        assert margin.upper([clustered], ABSOLUTE, ALPHA) >= margin.upper([plain], ABSOLUTE, ALPHA) - 1e-9


def test_the_average_weighs_all_tasks_the_same_regardless_of_size() -> None:
    small, large = margin.pairs(*pair_of(10, 0, 90, 0)), margin.pairs(*pair_of(0, 0, 9000, 0))
    assert margin.drop([small, large], ABSOLUTE) == pytest.approx(0.05)
    alone = margin.upper([small], ABSOLUTE, ALPHA)
    assert 0.05 < margin.upper([small, large], ABSOLUTE, ALPHA) == pytest.approx(alone / 2, abs=0.001)


def test_two_halves_of_a_task_give_nearly_the_bounds_of_the_task() -> None:
    before, after = drawn(1000, 0.06, 0.04, 0.5, 7)
    halves = [margin.pairs(before[:500], after[:500]), margin.pairs(before[500:], after[500:])]
    whole = margin.upper([margin.pairs(before, after)], RELATIVE, ALPHA)
    assert margin.upper(halves, RELATIVE, ALPHA) == pytest.approx(whole, abs=0.002)


def test_a_small_baseline_has_no_lower_bound_of_its_gain() -> None:
    assert (
        margin.lower([Pairs(np.array([1.0, 0.0]), np.array([1.0, 1.0]), np.array([1.0, 60.0]))], RELATIVE, 1e-9)
        == -np.inf
    )
