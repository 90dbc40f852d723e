"""Longer and cut answers: what their limits need, and what the gate says of them."""

from typing import Any

import numpy as np
import pytest

from quantgate.components.evidence.answers import Answers, fault
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.evidence.lengths import cut_test, growth_test
from quantgate.components.evidence.margin import RELATIVE, drop, p_within, pairs, upper
from quantgate.components.policies.policy import UseCase
from quantgate.components.run.artifacts import Model
from quantgate.components.run.verdicts import Verdict
from tests.support.answered import answers_of, candidate_of, pair_of

MODEL = Model(source="file:drawn", digest="d0", uri="", size_bytes=100)
LIMIT = 2048
ITEMS = 400
SOURCE = np.random.default_rng(0)
LENGTHS = SOURCE.lognormal(5.5, 0.5, ITEMS).clip(1, LIMIT).astype(int)


def generated(scores: Any, lengths: Any, cut: Any = None, **columns: Any) -> Answers:
    return answers_of(
        "gsm8k",
        scores,
        logliks=[[]] * len(scores),
        answer_tokens=np.asarray(lengths, dtype=int),
        answer_limit=[LIMIT] * len(scores),
        cut=[False] * len(scores) if cut is None else cut,
        **columns,
    )


def verdict_on(use_case: UseCase, lengths: Any, cut: Any = None) -> Verdict:
    """The verdict on a variant with answers of these lengths, whose scores are the baseline's but for 4 flips."""
    before, after = pair_of(2, 2, 240, 156)
    pair = [
        candidate_of("bf16", {"gsm8k": generated(before, LENGTHS)}),
        candidate_of("int8", {"gsm8k": generated(after, lengths, cut)}),
    ]
    return decide_candidates(MODEL, "drawn", use_case, pair).verdicts[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factor", "outcome", "expected"),
    [
        (1.0, "passed", "monitor"),
        (1.2, "open", "inconclusive"),
        (1.5, "exceeded", "reject"),
        (0.7, "passed", "monitor"),
    ],
)
def test_a_limit_on_longer_answers_is_decided_by_its_bounds(factor: float, outcome: str, expected: str) -> None:
    longer = LENGTHS * np.random.default_rng(3).normal(factor, 0.3, ITEMS).clip(0.05)
    verdict = verdict_on(UseCase(name="brief", max_longer_answers={"gsm8k": 0.2}), longer)
    (row,) = [row for row in verdict.limits if row.kind == "length"]
    assert (row.what, row.limit, row.outcome) == ("gsm8k", 0.2, outcome)
    assert row.estimate == pytest.approx(factor - 1, abs=0.03)
    assert row.lower is not None
    assert row.upper is not None
    assert row.estimate is not None
    assert row.lower < row.estimate < row.upper
    assert verdict.verdict == expected
    assert verdict.tasks[0].longer == row.estimate


def test_the_sentences_name_how_much_longer() -> None:
    brief = UseCase(name="brief", max_longer_answers={"gsm8k": 0.2})
    even = np.full(ITEMS, 200)
    before, after = pair_of(2, 2, 240, 156)

    def sentence(length: int) -> str:
        pair = [
            candidate_of("bf16", {"gsm8k": generated(before, even)}),
            candidate_of("int8", {"gsm8k": generated(after, np.full(ITEMS, length))}),
        ]
        return decide_candidates(MODEL, "drawn", brief, pair).verdicts[1].sentence

    assert sentence(300) == (
        "Rejected for brief: the answers on gsm8k are 50.0 % longer, with 95 % confidence at least 39.3 % longer, the"
        " limit is 20 %."
    )
    assert "the answers on gsm8k are 10.0 % longer, at most 17.7 % longer, the limit is 20 %" in sentence(220)
    assert "the answers on gsm8k are 50.0 % shorter, at least 42.3 % shorter, the limit is 20 %" in sentence(100)


@pytest.mark.parametrize(("cut", "outcome"), [(0, "passed"), (3, "open"), (16, "exceeded")])
def test_a_limit_on_cut_answers_is_decided_by_the_exact_bounds_of_a_share(cut: int, outcome: str) -> None:
    verdict = verdict_on(
        UseCase(name="whole", max_cut_answers={"gsm8k": 0.01}), LENGTHS, [place < cut for place in range(ITEMS)]
    )
    (row,) = [row for row in verdict.limits if row.kind == "cut"]
    assert row.outcome == outcome
    assert row.estimate == pytest.approx(cut / ITEMS)
    assert row.upper is not None
    if cut == 0:  # Clopper and Pearson's bound of 0 of n
        assert row.upper == pytest.approx(1 - 0.05 ** (1 / ITEMS), rel=1e-4)
    if outcome == "exceeded":
        assert verdict.verdict == "reject"
        assert "4.0 % of the answers on gsm8k are cut, with 95 % confidence at least 2.5 %" in verdict.sentence
        assert "the limit is 1 %" in verdict.sentence


def test_lengths_that_the_server_did_not_count_cannot_be_limited() -> None:
    brief = UseCase(name="brief", max_longer_answers={"gsm8k": 0.2})
    before, after = pair_of(2, 2, 240, 156)
    pair = [candidate_of(n, {"gsm8k": answers_of("gsm8k", s)}) for n, s in (("bf16", before), ("int8", after))]
    verdict = decide_candidates(MODEL, "drawn", brief, pair).verdicts[1]
    assert verdict.verdict == "not_comparable"
    assert "its limit on gsm8k needs the number of tokens of generated answers" in verdict.sentence


@pytest.mark.slow
def test_the_bounds_of_the_growth_hold_for_skewed_lengths_and_few_items() -> None:
    """A baseline and a variant whose lengths have the same distribution: the upper bound is below 0 in 5 % at most."""
    generator, misses, draws = np.random.default_rng(1), 0, 300
    for _ in range(draws):
        before, after = generator.lognormal(4, 1.2, (2, 60)).clip(1, LIMIT).astype(int)
        test = growth_test(generated(np.ones(60), before), generated(np.ones(60), after))
        assert test is not None
        misses += test.p_within(0.0) <= 0.05
    assert misses / draws <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / draws)


def sampled(scores: Any, samples: int, task: str = "gsm8k", **columns: Any) -> Answers:
    """Answers (items, samples) as rows of records."""
    items = len(scores)
    rows = np.repeat(np.arange(items), samples)
    names = [str(item) for item in rows]
    return answers_of(
        task,
        np.asarray(scores, dtype=float).reshape(-1),
        columns.pop("clusters", None),
        **{"item_id": rows.tolist(), "item_hash": names, "prompt_hash": names}
        | {"sample": np.tile(np.arange(samples), items).tolist(), "logliks": [[]] * len(rows)}
        | columns,
    )


def test_samples_of_one_question_are_one_item_with_their_mean() -> None:
    answers = sampled([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], 4)
    assert answers.items == 3
    assert list(answers.scores) == [0.75, 0.0, 1.0]
    assert answers.table["samples"].to_pylist() == [4, 4, 4]
    assert fault(answers) == ""


def test_identical_samples_give_the_bound_of_one_sample() -> None:
    """Eight copies of each answer are no more evidence than one."""
    before, after = pair_of(12, 6, 60, 22)
    once = upper([pairs(before, after)], RELATIVE, 0.05)
    ours, theirs = (sampled(np.repeat(scores[:, None], 8, axis=1), 8) for scores in (before, after))
    assert upper([pairs(ours.scores, theirs.scores, ours.clusters)], RELATIVE, 0.05) == pytest.approx(once)
    as_if_independent = pairs(np.repeat(before, 8), np.repeat(after, 8))
    assert upper([as_if_independent], RELATIVE, 0.05) < once - 0.03


@pytest.mark.slow
def test_samples_that_differ_narrow_the_bound_and_it_still_holds() -> None:
    """Each question has its own probability for either model; the truth is that no score is lost."""
    generator, misses, draws, items, samples = np.random.default_rng(2), 0, 300, 80, 6
    for _ in range(draws):
        probabilities = generator.beta(
            0.6, 0.6, (2, items, 1)
        )  # each model is good at other questions: samples are alike
        before, after = (generator.random((items, samples)) < probability for probability in probabilities)
        ours, theirs = sampled(before, samples), sampled(after, samples)
        paired = pairs(ours.scores, theirs.scores, ours.clusters)
        misses += p_within([paired], RELATIVE, 0.0) <= 0.05
    assert misses / draws <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / draws)


def test_a_larger_cluster_wins_over_the_question() -> None:
    clusters = [subject for subject in ("law", "law", "art", "art", "sea", "sea") for _ in range(2)]
    answers = sampled(np.ones((6, 2)), 2, "mmlu", clusters=clusters)
    assert answers.items == 6
    assert answers.clusters is not None
    assert len(set(answers.clusters.tolist())) == 3


def test_samples_are_counted_in_questions_needed() -> None:
    before, after = pair_of(3, 1, 60, 36)
    ours, theirs = (sampled(np.repeat(scores[:, None], 4, axis=1), 4) for scores in (before, after))
    pair = [candidate_of("bf16", {"gsm8k": ours}), candidate_of("int8", {"gsm8k": theirs})]
    verdict = decide_candidates(MODEL, "drawn", UseCase(name="any", max_drop={"gsm8k": 0.1}), pair).verdicts[1]
    single = [candidate_of(n, {"gsm8k": answers_of("gsm8k", s)}) for n, s in (("bf16", before), ("int8", after))]
    expected = decide_candidates(MODEL, "drawn", UseCase(name="any", max_drop={"gsm8k": 0.1}), single).verdicts[1]
    assert [row.further_items for row in verdict.limits] == [row.further_items for row in expected.limits]
    assert verdict.items == 100


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"sample": [0, 1, 1, 1, 0, 1]}, "gsm8k has duplicate items: "),
        ({"prompt_hash": ["0", "0!", "1", "1", "2", "2"]}, "gsm8k has duplicate items: 0"),
        ({"item_id": [0, 0, 1, 1, 2, 3]}, "gsm8k has items with 1 and 2 samples"),
    ],
)
def test_samples_that_are_missing_or_differ_in_their_prompt_are_a_fault(columns: dict[str, Any], expected: str) -> None:
    assert fault(sampled(np.ones((3, 2)), 2, **columns)).startswith(expected)


def test_another_number_of_samples_is_not_comparable() -> None:
    pair = [
        candidate_of("bf16", {"gsm8k": sampled(np.ones((50, 2)), 2)}),
        candidate_of("int8", {"gsm8k": sampled(np.ones((50, 3)), 3)}),
    ]
    verdict = decide_candidates(MODEL, "drawn", UseCase(name="any", max_drop={"gsm8k": 0.1}), pair).verdicts[1]
    assert verdict.verdict == "not_comparable"
    assert "its items were asked another number of times than the baseline's" in verdict.sentence


def test_cut_answers_of_samples_are_shares_of_an_item() -> None:
    cut = [True, False, False, False]
    answers = sampled(np.ones((2, 2)), 2, cut=cut, answer_tokens=[9, 5, 5, 5], answer_limit=[9] * 4)
    assert answers.numbers("cut").tolist() == [0.5, 0.0]  # type: ignore[union-attr]
    test = cut_test(answers)
    assert test is not None
    assert test.estimate == pytest.approx(0.25)


def test_the_drop_of_samples_is_that_of_their_means() -> None:
    ours, theirs = sampled([[1, 1], [1, 0]], 2), sampled([[1, 0], [0, 0]], 2)
    assert drop([pairs(ours.scores, theirs.scores)], RELATIVE) == pytest.approx(2 / 3)
