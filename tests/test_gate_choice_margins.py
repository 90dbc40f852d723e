"""Margins as evidence: their values, the scores from them, the test with them, and where answers decide alone."""

from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow
import pytest

from quantgate.components.evidence import margin
from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.case import case
from quantgate.components.evidence.choice_margins import FEW_PAIRS, Smoothed, margins, scores_of, smoothed, unusable
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.evidence.drops import DropTest, Task
from quantgate.components.evidence.flips import Mean, mean_of
from quantgate.components.evidence.margin import RELATIVE
from quantgate.components.evidence.saved_answers import by_task
from quantgate.components.policies.policy import Average, UseCase
from quantgate.components.report.story import certainty
from quantgate.components.run.artifacts import Model
from quantgate.components.run.verdicts import Decision
from tests.support.answered import Numbers, answers_of, candidate_of

ANSWERS = UseCase(name="ours", max_drop={"arc": 0.05})
MARGINS = ANSWERS.model_copy(update={"evidence": "margins"})


def record(**changes: Any) -> dict[str, Any]:
    """A record of an item with three choices; the first is right."""
    contents = {"target": 0, "logliks": [-1.0, -3.0, -2.0], "choices": ["a", "b", "c"], "metric": "acc", "score": 1.0}
    return contents | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1.0),
        ({"target": 1}, -2.0),
        ({"logliks": [-2.0, -3.0, -2.0]}, 0.0),
        ({"metric": "acc_norm", "choices": ["four", "to", "x"], "logliks": [-4.0, -3.0, -2.0]}, 0.5),
        ({"metric": "acc_norm", "choices": ["éé", "a", "b"], "logliks": [-2.0, -3.0, -4.0]}, 2.0),
        ({"target": -1, "logliks": [-1.0, -1.5], "score": 1.0}, 0.5),
        ({"target": -1, "logliks": [-1.0, -1.5], "score": 0.0}, -0.5),
        ({"target": -1}, None),
        ({"target": 3}, None),
        ({"target": None}, None),
        ({"logliks": [-1.0]}, None),
        ({"logliks": []}, None),
        ({"logliks": [-1.0, float("nan"), -2.0]}, None),
        ({"logliks": [float("-inf"), -3.0, -2.0]}, None),
        ({"metric": "mc2"}, None),
        ({"metric": None}, None),
        ({"metric": "acc_norm", "choices": ["only", "two"]}, None),
    ],
)
def test_a_margin_is_the_right_choice_less_the_best_wrong_one(changes: dict[str, Any], expected: float | None) -> None:
    records = pyarrow.Table.from_pylist([record(), record(**changes), record(target=2)])
    assert margins(records).to_pylist() == [1.0, expected, -1.0]


def test_a_score_is_the_normal_probability_of_the_margin_in_deviations_of_its_change() -> None:
    before, after = np.array([3.0, 1.0, -1.0, -2.0, 0.0]), np.array([4.4, 1.0, -0.2, -2.0, 0.6])
    # medians of the sizes: 1 and 1, so nothing is rescaled; changes 1.4, 0, 0.8, 0, 0.6 around their median 0.6
    x, y, tau = scores_of(before, after)
    assert tau == pytest.approx(np.std([1.4, 0, 0.8, 0, 0.6]))
    assert tau < 1.4826 * 0.6
    assert x == pytest.approx([NormalDist().cdf(value / tau) for value in before])
    assert y == pytest.approx([NormalDist().cdf(value / tau) for value in after])
    assert x[4] == 0.5


def test_another_temperature_of_the_logits_changes_no_score() -> None:
    before, after = drawn_margins(200, 0.3, 0.1)
    for hotter, same in zip(scores_of(before, 0.5 * after), scores_of(before, after), strict=True):
        assert hotter == pytest.approx(same)


def test_one_margin_far_off_does_not_widen_tau() -> None:
    before, after = drawn_margins(200, 0.3, 0.0)
    far = np.where(np.arange(200) == 7, 500.0, after)
    assert np.std(far - before) > 30
    assert scores_of(before, far)[2] == pytest.approx(scores_of(before, after)[2], rel=0.1)


def drawn_margins(items: int, noise_sd: float, lower: float, seed: int = 1) -> tuple[Numbers, Numbers]:
    source = np.random.default_rng(seed)
    before = source.normal(0.5, 1.0, items)
    return before, before + source.normal(0.0, noise_sd, items) - lower


def choices_of(values: Numbers, scores: Numbers | None = None, **columns: Any) -> Answers:
    """Answers with two choices an item and these margins."""
    right = (values > 0).astype(float) if scores is None else scores
    logliks = [[-1.0, -1.0 - value] if value > 0 else [-1.0 + value, -1.0] for value in values]
    return answers_of("arc", right, **{"logliks": logliks, "margin": values, **columns})


def decision_on(use_case: UseCase, before: Answers, after: Answers) -> Decision:
    model = Model(source="drawn", digest="d", uri="", size_bytes=0)
    pair = [candidate_of("bf16", {"arc": before}), candidate_of("int8", {"arc": after})]
    return decide_candidates(model, "drawn", use_case, pair)


def test_records_give_margins_that_agree_with_their_scores() -> None:
    rows = [record(task="arc", item_id=number, target=number % 3, score=float(number % 3 == 0)) for number in range(6)]
    for row in rows:
        row |= {"item_hash": str(row["item_id"]), "prompt_hash": "p", "truncated": False}
    saved = by_task(pyarrow.Table.from_pylist(rows))["arc"]
    assert saved.numbers("margin") == pytest.approx([1.0, -2.0, -1.0, 1.0, -2.0, -1.0])


@pytest.mark.slow
def test_margins_need_fewer_questions_and_the_report_names_both_ways() -> None:
    before, after = (choices_of(values) for values in drawn_margins(600, 0.3, 0.0, seed=3))
    by_answers, by_margins = (decision_on(policy, before, after).verdicts[1] for policy in (ANSWERS, MARGINS))
    assert (by_answers.verdict, by_margins.verdict) == ("inconclusive", "ab_test")
    limit = by_margins.limits[0]
    assert limit.by_answers
    assert limit.by_margins
    assert limit.by_answers.upper == by_answers.limits[0].upper
    assert limit.estimate == by_answers.limits[0].estimate
    assert limit.by_margins.upper is not None
    assert limit.upper is not None
    assert limit.by_answers.upper is not None
    assert limit.by_margins.upper <= limit.upper < limit.by_answers.upper
    assert "; by right and wrong answers alone arc " in by_margins.sentence
    assert "; by margins alone arc " in by_margins.sentence
    assert by_answers.limits[0].by_margins is None
    assert "by margins" not in by_answers.sentence
    (task,) = by_margins.tasks
    assert task.margins
    plain = (before.scores - after.scores).mean()
    assert task.margins.distance == pytest.approx(plain - (task.margins.before - task.margins.after))
    assert any("by margins int8 loses" in note for note in certainty(decision_on(MARGINS, before, after)).notes)


NO_CHANGE = "the margins of half of the items did not change"
LACKING = "the records of some items lack a second choice, a log-likelihood or the right choice"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda before, _: choices_of(before), NO_CHANGE),
        (lambda before, _: choices_of(np.where(before > 1.5, before + 0.1, before)), NO_CHANGE),
        (lambda _, after: choices_of(after, logliks=[[]] * len(after)), "its answers have no choices"),
        (
            lambda _, after: choices_of(after, scores=(after < 0).astype(float)),
            "the log-likelihoods do not give the score",
        ),
        (
            lambda _, after: choices_of(after, scores=np.full(len(after), 0.4)),
            "the log-likelihoods do not give the score",
        ),
        (lambda _, after: answers_of("arc", (after > 0).astype(float)), LACKING),
        (lambda _, after: without_margin(after, float("nan")), LACKING),
        (lambda _, after: without_margin(after, float("inf")), LACKING),
        (
            lambda _, after: choices_of(0.0 * after, scores=(after > 0).astype(float)),
            "half of the margins or more are 0",
        ),
    ],
)
def test_where_margins_cannot_count_the_answers_decide_and_the_verdict_says_why(
    change: Callable[[Numbers, Numbers], Answers], reason: str
) -> None:
    before, after = drawn_margins(100, 0.3, 0.1)
    first, second = choices_of(before), change(before, after)
    assert reason in unusable(first, second)
    assert smoothed(first, second) is None
    by_answers, by_margins = (decision_on(policy, first, second).verdicts[1] for policy in (ANSWERS, MARGINS))
    assert f"on arc only right and wrong answers count, because {reason}" in by_margins.sentence
    assert by_margins.limits == by_answers.limits
    assert by_margins.verdict == by_answers.verdict


def without_margin(values: Numbers, broken: float) -> Answers:
    """Answers of which the first has this margin."""
    whole = choices_of(values)
    column = pyarrow.chunked_array([pyarrow.array([broken, *values[1:]])])
    return replace(whole, table=whole.table.set_column(whole.table.column_names.index("margin"), "margin", column))


def test_a_log_likelihood_that_is_no_number_fails_the_variant() -> None:
    before, after = drawn_margins(100, 0.3, 0.1)
    broken = choices_of(after, logliks=[[float("nan"), -1.0], *[[-1.0, -2.0]] * 99])
    row = decision_on(MARGINS, choices_of(before), broken).verdicts[1]
    assert row.verdict == "failed"
    assert "log-likelihoods that are not finite" in row.sentence


def test_a_single_tie_counts_half_and_its_answer_may_be_right_or_wrong() -> None:
    before, after = drawn_margins(100, 0.3, 0.1)
    after[5] = 0.0
    for score in (0.0, 1.0):
        right = np.where(np.arange(100) == 5, score, (after > 0).astype(float))
        scored = smoothed(choices_of(before), choices_of(after, scores=right))
        assert scored is not None
        assert scored.pairs.after[scored.pairs.after == 0.5].size == 1


def drop_test(before: Numbers, after: Numbers) -> DropTest:
    right, now_right = (before > 0).astype(float), (after > 0).astype(float)
    x, y, tau = scores_of(before, after)
    scored = Smoothed(
        margin.pairs(x, y, most=FEW_PAIRS), tau, mean_of((right - now_right) - (x - y), np.ones(len(x)), None)
    )
    task = Task("arc", margin.pairs(right, now_right), right.mean(), now_right.mean(), True, smoothed=scored)
    return DropTest((task,), RELATIVE)


@pytest.mark.slow
def test_a_pass_needs_the_margins_and_the_answers_with_five_times_the_error() -> None:
    test = drop_test(*drawn_margins(500, 0.3, 0.05))
    assert test.by_margins is not None
    assert not test.tasks[0].smoothed.contradicted  # type: ignore[union-attr]
    for limit in (-0.02, 0.02, 0.05, 0.1):
        alone = test.by_margins.p_within(limit), test.by_answers.p_within(limit)
        assert test.p_within(limit) == max(alone[0], alone[1] / 5)
        alone = test.by_margins.p_beyond(limit), test.by_answers.p_beyond(limit)
        assert test.p_beyond(limit) == max(alone[0], alone[1] / 5)
    for alpha in (0.01, 0.05, 0.3):
        upper, lower = test.upper(alpha), test.lower(alpha)
        assert upper is not None
        assert lower is not None
        assert upper == max(test.by_margins.upper(alpha), test.by_answers.upper(min(5 * alpha, 0.5)))  # type: ignore[type-var]
        assert test.p_within(upper) == pytest.approx(alpha, rel=1e-5)
        assert lower < upper


def test_answers_that_contradict_the_margins_need_the_full_confidence() -> None:
    before, after = drawn_margins(2000, 0.3, 0.1)
    test = drop_test(before, np.where(after < 0, 0.2 * after, after))  # wrong answers came closer to right
    (task,) = test.tasks
    assert task.smoothed is not None
    assert task.smoothed.contradicted
    assert test.p_within(0.05) == max(test.by_margins.p_within(0.05), test.by_answers.p_within(0.05))  # type: ignore[union-attr]


def test_the_answers_contradict_the_margins_beyond_chance_only() -> None:
    pairs = margin.pairs(np.array([0.4, 0.6]), np.array([0.5, 0.5]))
    for mean, contradicted in ((0.019, False), (-0.019, False), (0.021, True), (-0.021, True)):
        assert Smoothed(pairs, 1.0, Mean(mean, 0.01, 60.0)).contradicted == contradicted
    assert not Smoothed(pairs, 1.0, Mean(0.0, 0.0, 60.0)).contradicted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("surer", "most"),
    [(1.0, 0.1), (1.3, 0.36)],
    ids=["noise", "right answers surer"],
)
def test_a_drop_at_the_limit_rarely_passes(surer: float, most: float) -> None:
    """150 draws of 300 items: 5 % where the damage is smooth around 0, 25 % whatever it is, and three errors."""
    normal = NormalDist()
    limit = 1 - normal.cdf((0.5 - 0.08) / 1.09**0.5) / normal.cdf(0.5)
    passed = 0
    for seed in range(150):
        before, after = drawn_margins(300, 0.3, 0.08, seed=seed)
        passed += drop_test(before, np.where(after > 0, surer * after, after)).p_within(limit) <= 0.05
    assert passed / 150 <= most


@pytest.mark.slow(reason="hundreds of simulated runs")
def test_margins_pass_a_lossless_variant_more_often() -> None:
    by_answers = by_margins = 0
    gain = 0.5 * (1.09**0.5 - 1)  # what the noise costs
    for seed in range(40):
        test = drop_test(*drawn_margins(300, 0.3, -gain, seed=seed))
        by_answers += test.by_answers.p_within(0.04) <= 0.05
        by_margins += test.p_within(0.04) <= 0.05
    assert by_margins > 1.4 * by_answers


def test_an_average_takes_margins_where_there_are_some_with_the_policys_weights() -> None:
    policy = UseCase(name="ours", max_average_drop=0.05, evidence="margins", average=Average(weights={"sums": 3.0}))
    before, after = drawn_margins(200, 0.3, 0.1)
    sums = np.array([1.0] * 130 + [0.0] * 70), np.array([1.0] * 128 + [0.0] * 72)
    pair = [
        candidate_of(name, {"arc": choices_of(values), "sums": answers_of("sums", scores, logliks=[[]] * 200)})
        for name, values, scores in (("bf16", before, sums[0]), ("int8", after, sums[1]))
    ]
    evidence = case(policy, pair[0], pair[1])
    test = evidence.average.by_margins
    assert test is not None
    assert [task.smoothed is None for task in evidence.tasks.values()] == [False, True]
    assert evidence.tasks["sums"].only_answers == "its answers have no choices"
    assert [task.pairs.weight for task in test.tasks] == [1.0, 3.0]
    x, y, _ = scores_of(before, after)
    scores = [(x.mean() + 3 * sums[0].mean()) / 4, (y.mean() + 3 * sums[1].mean()) / 4]
    assert (test.before, test.after) == pytest.approx(tuple(scores))
    assert test.estimate == pytest.approx(1 - scores[1] / scores[0])
    assert evidence.average.estimate == pytest.approx(
        1 - ((after > 0).mean() + 3 * sums[1].mean()) / ((before > 0).mean() + 3 * sums[0].mean())
    )
