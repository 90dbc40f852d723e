"""Items in clusters: the t-test's degrees of freedom, its error rate and power, and the limit on the worst cluster."""

from collections.abc import Sequence

import numpy as np
import pytest

from quantgate.components.evidence import margin
from quantgate.components.evidence.case import case
from quantgate.components.evidence.clusters import Clusters, Sums, clustered_mean
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.evidence.margin import ABSOLUTE, RELATIVE, Pairs
from quantgate.components.evidence.worst_cluster import WorstClusterTest, worst_cluster_test
from quantgate.components.policies.policy import UseCase
from quantgate.components.run.artifacts import Model
from quantgate.components.run.verdicts import Verdict
from tests.support.answered import Numbers, answers_of, candidate_of

ALPHA = 0.05
MMLU = (1534, 895, 783, 612, 545, *52 * (186,))
UNEQUAL = (2000, 800, 400, 300, 200, 100, 80, 60, 40, 20)


def test_the_degrees_of_freedom_equal_those_of_the_matrix_formula() -> None:
    source = np.random.default_rng(1)
    items = np.array(UNEQUAL, dtype=float)
    values = [source.normal(source.normal(0, 0.3), 1, int(size)) for size in items]
    sums, squares = np.array([one.sum() for one in values]), float(sum(one @ one for one in values))
    mean, error, freedom = clustered_mean(Sums(sums, items, np.ones(10), squares))
    total = items.sum()
    within = sum(float(((one - one.mean()) ** 2).sum()) for one in values) / (total - 10)
    among = float(items @ (sums / items - sums.sum() / total) ** 2) / 9
    between = (among - within) / ((total - items @ items / total) / 9)
    assert between > 0
    scaled = np.diag((1 - items / total) ** -0.5) @ (np.eye(10) - np.outer(items, np.ones(10)) / total)
    covariance = scaled @ np.diag(items * within + items**2 * between) @ scaled.T
    assert mean == pytest.approx(sums.sum() / total)
    assert error == pytest.approx(float(np.sqrt(((scaled @ sums) ** 2).sum())) / total)
    assert freedom == pytest.approx(np.trace(covariance) ** 2 / np.sum(covariance**2))


def test_equal_clusters_have_one_degree_of_freedom_less_than_clusters() -> None:
    sums = np.random.default_rng(2).normal(0, 5, 12)
    assert clustered_mean(Sums(sums, np.full(12, 40.0), np.ones(12), 500.0))[2] == pytest.approx(11)


def rates(sizes: Sequence[int], differing: float, spread: float, limit: float) -> tuple[float, float]:
    """How often of 400 runs a drop at the limit, and none, pass; with these clusters, in points."""
    passed = []
    for truth in (limit, 0.0):
        source, runs = np.random.default_rng(5), []
        for _ in range(400):
            drops = truth + source.normal(0, spread, len(sizes))
            chances = np.stack([(differing + drops) / 2, (differing - drops) / 2], axis=1)
            counts = source.multinomial(sizes, np.column_stack([chances, 1 - chances.sum(axis=1)])).astype(float)
            before, after = np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])
            clusters = Clusters(counts.sum(axis=1), counts @ before, counts @ after)
            runs.append(margin.p_within([Pairs(before, after, counts.sum(axis=0), clusters)], ABSOLUTE, limit))
        passed.append(float(np.mean(np.array(runs) <= ALPHA)))
    return passed[0], passed[1]


@pytest.mark.slow(reason="hundreds of simulated runs")
@pytest.mark.parametrize(
    ("sizes", "differing", "spread", "limit", "power"),
    [
        (MMLU, 0.25, 0.0, 0.0097, 0.62),  # 55 % with the degrees of freedom before
        (UNEQUAL, 0.25, 0.0, 0.0182, 0.35),  # 5 % before
        (MMLU, 0.25, 0.03, 0.0097, 0.3),
        (UNEQUAL, 0.25, 0.03, 0.0182, 0.1),
    ],
)
def test_clusters_that_do_not_differ_cost_little_and_a_drop_at_the_limit_seldom_passes(
    sizes: Sequence[int], differing: float, spread: float, limit: float, power: float
) -> None:
    at_limit, without = rates(sizes, differing, spread, limit)
    assert at_limit <= 0.07
    assert without > power


def subjects(lost: Sequence[int], right: int = 60, items: int = 100) -> tuple[Numbers, Numbers, list[str]]:
    """Subjects with so many answers lost each, of 60 right ones of 100."""
    before = np.tile(np.repeat([1.0, 0.0], [right, items - right]), len(lost))
    after = before.copy()
    for subject, count in enumerate(lost):
        after[subject * items : subject * items + count] = 0.0
    return before, after, [f"subject {place // items}" for place in range(len(before))]


def verdict(lost: Sequence[int], **policy: object) -> Verdict:
    before, after, names = subjects(lost)
    models = [
        candidate_of(name, {"mmlu": answers_of("mmlu", scores, names)})
        for name, scores in (("bf16", before), ("int8", after))
    ]
    use_case = UseCase.model_validate({"name": "ours", "max_drop": {"mmlu": 0.05}, **policy})
    model = Model(source="m", digest="d", uri="", size_bytes=1)
    return decide_candidates(model, "drawn", use_case, models).verdicts[1]


ONE_RUINED = (30, *19 * (0,))


def test_fixed_clusters_are_decided_item_by_item() -> None:
    random, fixed = verdict(ONE_RUINED), verdict(ONE_RUINED, clusters="fixed")
    assert (random.tasks[0].clusters, fixed.tasks[0].clusters) == (20, 0)
    assert (random.verdict, fixed.verdict) == ("inconclusive", "ab_test")
    assert random.limits[0].upper is not None
    assert random.limits[0].upper > (fixed.limits[0].upper or 1.0)
    before, after, _ = subjects(ONE_RUINED)
    assert fixed.limits[0].upper == pytest.approx(margin.upper([margin.pairs(before, after)], RELATIVE, ALPHA))


def test_a_ruined_subject_is_rejected_although_the_mean_is_within_its_limit() -> None:
    row = verdict(ONE_RUINED, clusters="fixed", max_cluster_drop={"mmlu": 0.2})
    _, limit, _ = row.limits
    assert (row.verdict, limit.kind, limit.outcome) == ("reject", "cluster", "exceeded")
    assert limit.estimate == pytest.approx(0.5)
    assert row.sentence.startswith(
        "Rejected for ours: the worst cluster of mmlu (subject 0) fell 50.0 % (0.600 → 0.300), with 95 % confidence a"
        " drop of at least 2"
    )


def test_a_variant_passes_if_every_subject_is_shown_to_be_within_the_limit() -> None:
    row = verdict(20 * (1,), clusters="fixed", max_cluster_drop={"mmlu": 0.3})
    assert row.verdict == "monitor"
    assert "the worst cluster of mmlu (subject 0) fell 1.7 % (0.600 → 0.590), a drop of at most 7.7 %" in row.sentence
    strict = verdict(20 * (1,), clusters="fixed", max_cluster_drop={"mmlu": 0.05})
    assert (strict.verdict, strict.limits[1].outcome) == ("inconclusive", "open")
    assert strict.limits[1].further_items is not None


def test_a_subject_without_answers_yet_can_not_pass() -> None:
    before, after, names = subjects(3 * (0,))
    whole = answers_of("mmlu", before, names)
    part = answers_of("mmlu", after[:200], names[:200])
    test = worst_cluster_test(whole, part, RELATIVE)
    assert test is not None
    assert (test.p_within(0.9), test.upper(ALPHA), test.further_items(0.9, ALPHA)) == (1.0, 1.0, None)


def test_the_bounds_of_the_worst_cluster_match_its_p_values() -> None:
    before, after, names = subjects((3, 9, 1, 0))
    test = worst_cluster_test(answers_of("mmlu", before, names), answers_of("mmlu", after, names), RELATIVE)
    assert isinstance(test, WorstClusterTest)
    assert test.worst.name == "subject 1"
    assert test.p_within(test.upper(ALPHA) or 0) == pytest.approx(ALPHA, abs=1e-6)
    assert test.p_beyond(test.lower(ALPHA) or 0) == pytest.approx(ALPHA, abs=1e-6)


def test_a_limit_on_clusters_needs_clusters() -> None:
    before, after, _ = subjects((3, 9))
    models = [
        candidate_of(name, {"mmlu": answers_of("mmlu", scores)}) for name, scores in (("bf16", before), ("int8", after))
    ]
    use_case = UseCase(name="ours", max_cluster_drop={"mmlu": 0.3})
    row = decide_candidates(Model(source="m", digest="d", uri="", size_bytes=1), "drawn", use_case, models).verdicts[1]
    assert row.sentence == (
        "Not comparable for ours: its limit on mmlu needs items in clusters, which the task does not have."
    )


def test_chosen_items_leave_the_limit_on_clusters_out() -> None:
    before, after, names = subjects((3, 9))
    baseline, variant = (
        candidate_of(name, {"mmlu": answers_of("mmlu", scores, names)})
        for name, scores in (("bf16", before), ("int8", after))
    )
    chosen = variant.scores.model_copy(
        update={"tasks": tuple(task.model_copy(update={"chosen": True}) for task in variant.scores.tasks)}
    )
    use_case = UseCase(name="ours", max_cluster_drop={"mmlu": 0.3})
    evidence = case(use_case, baseline, type(variant)(variant.weights, chosen, variant.answers))
    assert evidence.limits == ()
