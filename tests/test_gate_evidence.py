"""The gate's verdicts by evidence: what each verdict needs, and the sentence that explains it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantgate.components.evidence.answers import Answers
from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.decision import decide_candidates
from quantgate.components.evidence.judging import holm_adjusted, holm_divisors
from quantgate.components.evidence.margin import RELATIVE, p_within, pairs
from quantgate.components.policies.policy import UseCase, use_case_named
from quantgate.components.report.pages import write_report
from quantgate.components.run.artifacts import Model
from quantgate.components.run.verdicts import Decision, Verdict
from tests.support.answered import answers_of, candidate_of, pair_of

Moved = tuple[int, int, int, int]
"""The numbers of items lost, gained, right both times and wrong both times."""
MODEL = Model(source="file:drawn", digest="d0", uri="", size_bytes=100)
CHAT, TUTOR = use_case_named("general-chat"), use_case_named("math-tutoring-strict")


def decided(use_case: UseCase, *variants: Mapping[str, Moved], chance: float = 0.0, **columns: Any) -> Decision:
    """The decision on variants whose answers differ from the baseline's by these numbers, task by task."""
    names = ("int8", "int4-g64", "int4-g128")[: len(variants)]
    before: dict[str, Answers] = {}
    candidates: list[Candidate] = []
    for name, tasks in zip(names, variants, strict=True):
        after = {}
        for task, changes in tasks.items():
            scores = pair_of(*changes)
            before[task] = answers_of(task, scores[0])
            after[task] = answers_of(task, scores[1], **columns)
        candidates.append(candidate_of(name, after, chance=chance))
    return decide_candidates(MODEL, "drawn", use_case, [candidate_of("bf16", before, chance=chance), *candidates])


def verdict(use_case: UseCase, tasks: Mapping[str, Moved], chance: float = 0.0) -> Verdict:
    return decided(use_case, tasks, chance=chance).verdicts[1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((10, 10, 9000, 5000), "ship"),
        ((120, 40, 9000, 5000), "monitor"),
        ((340, 20, 9000, 5000), "ab_test"),
        ((700, 100, 9000, 5000), "reject"),
        ((500, 60, 9000, 5000), "inconclusive"),
        ((3, 0, 70, 30), "inconclusive"),
    ],
)
def test_the_bounds_of_the_average_determine_the_verdict(changes: Moved, expected: str) -> None:
    result = verdict(CHAT, {"mmlu": changes})
    (row,) = result.limits
    assert result.verdict == expected
    assert result.form == "evidence"
    assert result.confidence == pytest.approx(0.95)
    assert row.lower is not None
    assert row.upper is not None
    assert row.estimate is not None
    assert row.lower < row.estimate < row.upper
    shown = {"ship": row.upper < 0.01, "monitor": row.upper < 0.03, "ab_test": row.upper <= 0.05}
    assert shown.get(expected, row.lower > 0.05 if expected == "reject" else row.lower < 0.05 < row.upper)


def test_a_hundred_questions_are_too_few_to_show_that_a_drop_is_under_the_limit() -> None:
    """The point form ships it: 1 lost of 60 right is 1.7 %."""
    result = verdict(TUTOR, {"gsm8k": (1, 0, 59, 40)})
    assert result.verdict == "inconclusive"
    assert result.drops == {"gsm8k": pytest.approx(1 / 60)}
    assert result.sentence.startswith(
        "Inconclusive for math-tutoring-strict: gsm8k fell 1.7 % (0.600 → 0.590), with 95 % confidence a drop of at"
        " most 7.7 %, so it is not shown to be within the limit of 2 %; the average fell 1.7 % (0.600 → 0.590)"
    )
    assert result.sentence.endswith(" more questions are needed (80 % power).")
    step = "more questions (80 % power), or A/B test the variant; until then keep serving the current model."
    assert step in result.next_step


def test_the_advised_number_of_further_questions_decides() -> None:
    result = verdict(TUTOR, {"gsm8k": (30, 10, 1170, 790)})
    (needed,) = [row.further_items for row in result.limits if row.outcome == "open"]
    assert needed is not None
    times = 1 + needed / 2000
    more = tuple(round(count * times) for count in (30, 10, 1170, 790))
    enough = p_within([pairs(*pair_of(*more))], RELATIVE, 0.02)
    assert enough < 0.02, "at 80 % power the middle draw lies well within"


def test_an_exceeded_limit_rejects_despite_the_average() -> None:
    result = verdict(TUTOR, {"gsm8k": (140, 20, 900, 259), "mmlu": (10, 1300, 9000, 3000)})
    assert result.verdict == "reject"
    assert result.sentence.startswith(
        "Rejected for math-tutoring-strict: gsm8k fell 11.5 % (0.788 → 0.697), with 95 % confid"
    )
    assert "a drop of at least 9.6 %, the limit is 2 %" in result.sentence
    assert {row.what: row.outcome for row in result.limits} == {"gsm8k": "exceeded", "average": "passed"}


def test_every_limit_must_pass_for_a_variant_to_ship() -> None:
    passing = {"gsm8k": (5, 5, 9000, 900), "mmlu": (5, 5, 9000, 900)}
    both = UseCase(name="both", max_drop={"gsm8k": 0.02, "mmlu": 0.02})
    assert verdict(both, passing).verdict == "ship"
    for task in passing:
        assert verdict(both, passing | {task: (2, 0, 90, 10)}).verdict == "inconclusive"


def test_a_ship_verdict_names_the_bounds_that_decided() -> None:
    assert verdict(TUTOR, {"gsm8k": (10, 10, 9000, 900)}).sentence == (
        "Ships for math-tutoring-strict: the average stayed at 0.908, with 95 % confidence a drop of at most 0.1 %,"
        " which is under 1 %; gsm8k stayed at 0.908, a drop of at most 0.1 %, the limit is 2 %."
    )


def test_a_significant_gain_is_described_as_a_gain() -> None:
    sentence = verdict(TUTOR, {"gsm8k": (5, 300, 9000, 900)}).sentence
    assert "gsm8k rose 3.3 % (0.882 → 0.911), a gain of at least 2.9 %, the limit is 2 %" in sentence


@pytest.mark.parametrize(("nudge", "expected"), [(1e-9, "inconclusive"), (-1e-9, "monitor")])
def test_no_bound_is_rounded_before_it_is_compared(nudge: float, expected: str) -> None:
    """A bound just over a limit does not pass, just as a recovery of 94.6 % does not pass 95 %; one just under does."""
    changes = (40, 20, 900, 300)
    p = p_within([pairs(*pair_of(*changes))], RELATIVE, 0.03)
    strict = CHAT.model_copy(
        update={
            "confidence": 1 - p + nudge,
            "bands": CHAT.bands.model_copy(update={"ab_test": 0.0300001}),
            "max_average_drop": 0.03,
        }
    )
    assert verdict(strict, {"mmlu": changes}).verdict == expected


def test_a_task_with_the_baseline_at_chance_supports_no_pass() -> None:
    result = verdict(TUTOR, {"gsm8k": (0, 0, 2500, 7500)}, chance=0.25)
    assert result.verdict == "inconclusive"
    assert not result.tasks[0].informative
    assert {row.outcome for row in result.limits} == {"uninformative"}
    guessing = "can be detected, because the baseline may be guessing"
    measured = "stayed at 0.250, which says nothing about the limit of"
    assert f"gsm8k {measured} 2 %: no drop on gsm8k {guessing};" in result.sentence
    assert f"average {measured} 5 %: no drop on any task {guessing}" in result.sentence
    assert "gsm8k (0.250, chance 0.250), so no pass can rest on that" in result.sentence
    assert result.next_step == "A/B test the variant; until then keep serving the current model."


def test_a_task_with_the_baseline_at_chance_can_still_reject() -> None:
    assert verdict(TUTOR, {"gsm8k": (2000, 0, 500, 7500)}, chance=0.25).verdict == "reject"


def test_a_task_that_cannot_drop_does_not_dilute_the_average() -> None:
    dropping = (130, 20, 2020, 500)
    assert verdict(CHAT, {"mmlu": dropping}, chance=0.25).verdict == "inconclusive"
    beside = {"mmlu": dropping, "guessed": (0, 0, 2500, 7500)}
    result = verdict(CHAT, beside, chance=0.25)
    assert result.average_drop is not None
    assert result.average_drop < 0.05
    assert result.verdict == "inconclusive"
    assert verdict(CHAT, beside, chance=0.0).verdict == "ab_test", "above chance it would have counted"


def with_second_pass(items: int, lost: int, gained: int) -> Verdict:
    return decided_with_second_pass(items, lost, gained).verdicts[1]


def decided_with_second_pass(items: int, lost: int, gained: int) -> Decision:
    """The decision on a variant that differs in 1 % of the answers, both ways, under a limit of 2.5 %.

    The baseline scores 0.905, and its second pass loses and gains so many answers.
    """
    share = items // 1000
    before, after = pair_of(5 * share, 5 * share, 900 * share, 90 * share)
    again = before.copy()
    right, wrong = np.flatnonzero(before == 1.0), np.flatnonzero(before == 0.0)
    again[right[:lost]], again[wrong[:gained]] = 0.0, 1.0
    baseline = candidate_of("bf16", {"gsm8k": answers_of("gsm8k", before)})
    noisy = Candidate(baseline.weights, baseline.scores, baseline.answers, {"gsm8k": answers_of("gsm8k", again)})
    variant = candidate_of("int8", {"gsm8k": answers_of("gsm8k", after)})
    bands = TUTOR.bands.model_copy(update={"ship": 0.029})
    policy = TUTOR.model_copy(update={"bands": bands, "max_drop": {"gsm8k": 0.025}})
    return decide_candidates(MODEL, "drawn", policy, [noisy, variant])


@pytest.mark.fault(
    "numbers",
    "answers flip by chance between two passes of one model, as many one way as the other",
    "the noise floor is the net drop between the passes, so a limit below the share of flips can still be decided",
)
@pytest.mark.parametrize(
    ("items", "lost", "gained", "verdict", "outcome"),
    [
        (1000, 0, 0, "ship", "passed"),
        (1000, 15, 15, "ship", "passed"),  # 3 % of the answers flip
        (1000, 45, 45, "ship", "passed"),  # 9 %
        (1000, 22, 0, "ship", "passed"),  # 22 of 905 are 2.43 %
        (1000, 23, 0, "inconclusive", "undecidable"),  # 2.54 %
        (1000, 0, 23, "inconclusive", "undecidable"),
        (1000, 50, 0, "inconclusive", "undecidable"),
    ],
)
def test_the_noise_floor_is_the_net_drop_between_two_passes(
    items: int, lost: int, gained: int, verdict: str, outcome: str
) -> None:
    result = with_second_pass(items, lost, gained)
    (task,) = result.tasks
    floor, upper = task.noise_floor, task.noise_floor_upper
    assert floor == pytest.approx(abs(lost - gained) / 905)
    assert floor is not None
    assert upper is not None
    assert upper > floor
    assert task.noise_flip_rate == (lost + gained) / 1000
    assert (result.verdict, {row.what: row.outcome for row in result.limits}["gsm8k"]) == (verdict, outcome)


def test_the_upper_bound_of_the_noise_is_as_wide_as_few_questions_make_it() -> None:
    few, many = (with_second_pass(items, 0, 0).tasks[0].noise_floor_upper for items in (1000, 10_000))
    assert few == pytest.approx(0.0041, abs=1e-4)
    assert many == pytest.approx(0.00041, abs=1e-5)


def test_the_report_shows_the_noise_beside_the_variants_drop(tmp_path: Path) -> None:
    for file in write_report(decided_with_second_pass(1000, 20, 10), tmp_path, run="run-7"):
        text = file.read_text(encoding="utf-8")
        assert "two passes of the baseline differ by 1.1 %, at most 2.4 %; 3.0 % of its answers flip" in text


def test_passes_that_differ_by_more_than_the_limit_advise_more_questions_only_if_they_may_help() -> None:
    by_chance, clearly = with_second_pass(1000, 34, 11), with_second_pass(1000, 60, 0)
    assert "(0.905 → 0.905)" in by_chance.sentence or "gsm8k stayed at 0.905" in by_chance.sentence
    assert "on gsm8k cannot be tested, because two passes of the baseline differ by 2.54 %" in by_chance.sentence
    assert "with more questions the two passes may agree more closely" in by_chance.sentence
    assert by_chance.next_step.startswith("Evaluate more questions, or A/B test the variant")
    assert "because two passes of the baseline differ by 6.6 %" in clearly.sentence
    assert "more questions of the same kind are not likely to decide it" in clearly.sentence
    assert clearly.next_step.startswith("A/B test the variant")


def test_a_noise_floor_does_not_hide_a_collapse_and_is_mentioned() -> None:
    before, after = pair_of(900, 0, 0, 600)
    again = before.copy()
    again[:60] = 0.0
    baseline = candidate_of("bf16", {"gsm8k": answers_of("gsm8k", before)})
    noisy = Candidate(baseline.weights, baseline.scores, baseline.answers, {"gsm8k": answers_of("gsm8k", again)})
    same = candidate_of("int4-g64", {"gsm8k": answers_of("gsm8k", before)})
    lost = candidate_of("int8", {"gsm8k": answers_of("gsm8k", after)})
    rows = decide_candidates(MODEL, "drawn", TUTOR, [noisy, lost, same]).verdicts[1:]
    assert [row.verdict for row in rows] == ["reject", "inconclusive"]
    assert "two passes of the baseline differ by more than 5 %, so no smaller drop" in rows[1].sentence


@pytest.mark.parametrize(
    ("changes", "most"),
    [((0, 0, 60, 40), 600), ((0, 1, 59, 40), 600), ((1, 1, 58, 40), 2000), ((30, 10, 1170, 790), 50_000)],
)
def test_the_advised_number_of_questions_decides_and_far_fewer_do_not(changes: Moved, most: int) -> None:
    limit = next(row for row in verdict(TUTOR, {"gsm8k": changes}).limits if row.what == "gsm8k")
    assert limit.further_items is not None
    assert limit.further_items < most
    items = sum(changes)
    for share, settles in ((1.0, True), (0.3, False)):
        task = pairs(*pair_of(*changes)).times(1 + share * limit.further_items / items)
        assert (p_within([task], RELATIVE, 0.02) < 0.01) is settles


def test_no_number_of_questions_decides_a_drop_diluted_only_by_tasks_at_chance() -> None:
    beside = {"mmlu": (130, 20, 2020, 500), "guessed": (0, 0, 2500, 7500)}
    (row,) = verdict(CHAT, beside, chance=0.25).limits
    assert (row.outcome, row.further_items) == ("open", None)


def test_a_limit_on_the_drop_of_a_perplexity_is_refused() -> None:
    words, scores = np.full(30, 100.0), pair_of(5, 5, 9000, 900)
    use_case = UseCase(name="fluent", max_drop={"wikitext": 0.02})
    pair = [
        candidate_of(
            name, {"mmlu": answers_of("mmlu", task_scores), "wikitext": answers_of("wikitext", -3 * words, units=words)}
        )
        for name, task_scores in zip(("bf16", "int8"), scores, strict=True)
    ]
    result = decide_candidates(MODEL, "drawn", use_case, pair).verdicts[1]
    assert result.verdict == "not_comparable"
    assert "wikitext measures perplexity and has no drop: limit it with max_perplexity_ratio" in result.sentence


@pytest.mark.slow
def test_the_bound_on_a_skewed_divergence_has_its_promised_error_rate() -> None:
    """A t-test would pass three times as many at the limit."""
    from quantgate.components.evidence.limits import ClippedTest
    from quantgate.components.policies.policy import MOST_NATS

    source = np.random.default_rng(0)
    truth = np.minimum(source.lognormal(-5, 1.5, 400_000), MOST_NATS).mean()
    passed = [
        ClippedTest(pairs(np.minimum(source.lognormal(-5, 1.5, 300), MOST_NATS) / MOST_NATS, np.zeros(300))).p_within(
            truth
        )
        <= 0.05
        for _ in range(300)
    ]
    assert np.mean(passed) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_a_variant_stopped_by_another_policy_is_not_reported_as_decided() -> None:
    before, after = pair_of(0, 0, 4000, 6000)
    some = np.arange(200) + 3900
    names = [str(item) for item in some]
    answered = answers_of("gsm8k", after[some], item_id=list(some), item_hash=names, prompt_hash=names)
    baseline = candidate_of("bf16", {"gsm8k": answers_of("gsm8k", before)})
    variant = candidate_of("int8", {"gsm8k": answered}, look=2, looks=5)
    result = decide_candidates(MODEL, "drawn", TUTOR, [baseline, variant]).verdicts[1]
    assert result.verdict == "inconclusive"
    assert result.sentence.endswith(
        "; stopped early after 200 of 10,000 questions, enough for that run's policy only: evaluate the rest."
    )


def test_absolute_drops_are_points() -> None:
    absolute = UseCase(name="points", drop="absolute", max_drop={"gsm8k": 0.02})
    result = verdict(absolute, {"gsm8k": (50, 10, 450, 490)})
    assert result.drops == {"gsm8k": pytest.approx(0.04)}
    assert (
        "gsm8k fell 4.0 points (0.500 → 0.460), with 95 % confidence a drop of at least 2.7 points" in result.sentence
    )
    assert "the limit is 2 points" in result.sentence


def test_a_changed_choice_distribution_is_a_divergence_and_can_have_a_limit() -> None:
    scores = pair_of(10, 10, 900, 80)
    logliks = [[-1.0 - score, -2.0 + score * 1.5] for score in scores[1]]
    use_case = UseCase(name="close", max_divergence={"mmlu": 0.01})
    baseline = candidate_of("bf16", {"mmlu": answers_of("mmlu", scores[0])})
    variant = candidate_of("int8", {"mmlu": answers_of("mmlu", scores[1], logliks=logliks)})
    result = decide_candidates(MODEL, "drawn", use_case, [baseline, variant]).verdicts[1]
    assert result.verdict == "reject"
    assert "the KL divergence on mmlu is 0.0" in result.sentence
    assert "nats, the limit is 0.01 nats" in result.sentence


def test_a_limit_on_a_divergence_that_cannot_be_measured_is_not_comparable() -> None:
    use_case = UseCase(name="close", max_divergence={"gsm8k": 0.01})
    scores = pair_of(10, 10, 900, 80)
    none: list[list[float]] = [[]] * 1000
    pair = [
        candidate_of(n, {"gsm8k": answers_of("gsm8k", s, logliks=none)})
        for n, s in zip(("bf16", "int8"), scores, strict=True)
    ]
    result = decide_candidates(MODEL, "drawn", use_case, pair).verdicts[1]
    assert result.verdict == "not_comparable"
    assert "its limit on gsm8k needs the log-likelihoods of choices" in result.sentence


@pytest.mark.parametrize(("worse", "expected"), [(0.01, "ship"), (0.2, "reject"), (0.0495, "inconclusive")])
def test_a_perplexity_ratio_can_have_a_limit(worse: float, expected: str) -> None:
    source = np.random.default_rng(0)
    words = source.integers(100, 900, 60).astype(float)
    before = -3.0 * words + source.normal(0, 20, 60)
    after = before - worse * words + source.normal(0, 2, 60)
    use_case = UseCase(name="fluent", max_perplexity_ratio={"wikitext": 1.05}, max_drop={"mmlu": 0.02})
    scores = pair_of(5, 5, 9000, 900)
    pair = [
        candidate_of(name, {"mmlu": answers_of("mmlu", s), "wikitext": answers_of("wikitext", logliks, units=words)})
        for name, s, logliks in (("bf16", scores[0], before), ("int8", scores[1], after))
    ]
    result = decide_candidates(MODEL, "drawn", use_case, pair).verdicts[1]
    (row,) = [row for row in result.limits if row.kind == "perplexity"]
    assert result.verdict == expected
    assert row.estimate == pytest.approx(np.exp(worse), abs=0.005)
    assert row.limit == pytest.approx(1.05)
    assert result.perplexity_ratios == {"wikitext": row.estimate}


def test_a_run_without_scores_has_no_drop_to_judge() -> None:
    words = np.full(30, 100.0)
    use_case = UseCase(name="fluent", max_perplexity_ratio={"wikitext": 1.05})
    pair = [
        candidate_of(name, {"wikitext": answers_of("wikitext", -3.0 * words, units=words)}) for name in ("bf16", "int8")
    ]
    result = decide_candidates(MODEL, "drawn", use_case, pair).verdicts[1]
    assert (result.verdict, result.average_drop) == ("not_comparable", None)
    assert "all its tasks measure perplexity" in result.sentence


def test_several_variants_share_the_error_by_holms_method() -> None:
    good, fair = (5, 5, 9000, 900), (45, 25, 8960, 880)
    alone = verdict(TUTOR, {"gsm8k": fair})
    together = decided(TUTOR, {"gsm8k": good}, {"gsm8k": fair}, {"gsm8k": good}).verdicts
    assert alone.confidence == pytest.approx(0.95)
    assert sorted(1 - (row.confidence or 0) for row in together[1:]) == [
        pytest.approx(0.05 / 3),
        pytest.approx(0.05 / 2),
        pytest.approx(0.05),
    ], "each that ships leaves its share to the next"


def test_holms_method_stops_at_the_first_failure() -> None:
    assert holm_divisors([0.001, 0.2, 0.02], 0.05) == [3, 1, 2]
    assert holm_divisors([0.001, 0.2, 0.03], 0.05) == [3, 2, 2]
    assert holm_divisors([0.02, 0.2, 0.03], 0.05) == [3, 3, 3]
    assert holm_divisors([], 0.05) == []
    assert holm_adjusted([0.01, 0.04, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06)]


def test_variants_are_compared_with_one_another_on_the_same_items() -> None:
    better, worse = (10, 10, 900, 80), (120, 10, 790, 80)
    (comparison,) = decided(CHAT, {"mmlu": better}, {"mmlu": worse}).comparisons
    assert (comparison.better, comparison.worse) == ("int8", "int4-g64")
    assert comparison.difference == pytest.approx(0.11)
    assert comparison.p < 0.001


def test_without_per_item_answers_the_measured_drop_decides() -> None:
    with_answers = candidate_of("bf16", {"gsm8k": answers_of("gsm8k", pair_of(1, 0, 59, 40)[0])})
    without = candidate_of("int8", {"gsm8k": answers_of("gsm8k", pair_of(1, 0, 59, 40)[1])})
    bare = Candidate(without.weights, without.scores)
    result = decide_candidates(MODEL, "drawn", TUTOR, [with_answers, bare]).verdicts[1]
    assert (result.form, result.verdict) == ("point", "monitor")
    assert result.limits == ()


def test_a_stopped_variant_uses_its_looks_share_of_the_error_and_reports_the_saved_questions() -> None:
    before, after = pair_of(0, 0, 4000, 6000)
    baseline = candidate_of("bf16", {"gsm8k": answers_of("gsm8k", before)})
    some = np.arange(2000) + 2500
    answered = answers_of(
        "gsm8k", after[some], item_id=list(some), item_hash=[str(e) for e in some], prompt_hash=[str(e) for e in some]
    )
    variant = candidate_of("int8", {"gsm8k": answered}, look=3, looks=5)
    result = decide_candidates(MODEL, "drawn", TUTOR, [baseline, variant]).verdicts[1]
    assert result.verdict == "ship"
    assert result.confidence == pytest.approx(1 - 0.05 * 0.25 / 4)
    assert (result.items, result.planned_items) == (2000, 10_000)
    assert result.sentence.endswith(
        "; stopped early after 2,000 of 10,000 questions, because more answers could not change the verdict."
    )


def test_swapping_baseline_and_variant_mirrors_every_bound() -> None:
    absolute = UseCase(name="points", drop="absolute", max_average_drop=0.02)
    one, other = verdict(absolute, {"mmlu": (40, 10, 700, 250)}), verdict(absolute, {"mmlu": (10, 40, 700, 250)})
    (ahead,), (behind,) = one.tasks, other.tasks
    assert (ahead.lost, ahead.gained, ahead.mcnemar_p) == (behind.gained, behind.lost, behind.mcnemar_p)
    assert ahead.drop_upper == pytest.approx(-(behind.drop_lower or 0))
    assert ahead.drop_lower == pytest.approx(-(behind.drop_upper or 0))


def test_clusters_widen_the_bounds_of_independent_items() -> None:
    scores = pair_of(60, 20, 1900, 1020)
    subjects = [f"subject {place // 60}" for place in range(3000)]
    rows = []
    for clusters in (None, subjects):
        pair = [
            candidate_of(n, {"mmlu": answers_of("mmlu", s, clusters)})
            for n, s in zip(("bf16", "int8"), scores, strict=True)
        ]
        rows.append(decide_candidates(MODEL, "drawn", CHAT, pair).verdicts[1])
    plain, clustered = rows
    assert (plain.tasks[0].clusters, clustered.tasks[0].clusters) == (0, 50)
    assert (plain.verdict, clustered.verdict) == ("monitor", "inconclusive")
    assert (clustered.limits[0].upper or 0) > (plain.limits[0].upper or 0) + 0.01


@pytest.mark.fault("numbers", "A mean KL divergence is over its limit, but not once items are clipped", "never passed")
@pytest.mark.parametrize(("far", "verdict"), [(0, "ship"), (1, "inconclusive")])
def test_a_mean_divergence_over_the_limit_never_passes(far: int, verdict: str) -> None:
    """One of 2,000 items moves by 5,000 nats: 2.5 on average, 0.001 once it is clipped."""
    scores = np.ones(2000)
    before, after = [[-0.01, -10_000.0]] * 2000, [[-0.01, -10_000.0]] * (2000 - far) + [[-5000.0, -0.01]] * far
    use_case = UseCase(name="close", max_divergence={"mmlu": 1.0})
    baseline = candidate_of("bf16", {"mmlu": answers_of("mmlu", scores, logliks=before)})
    variant = candidate_of("int8", {"mmlu": answers_of("mmlu", scores, logliks=after)})
    row = decide_candidates(MODEL, "drawn", use_case, [baseline, variant]).verdicts[1]
    limit = next(limit for limit in row.limits if limit.kind == "divergence")
    assert limit.estimate == pytest.approx(2.5 * far, abs=0.001)
    assert limit.upper is not None
    assert limit.upper > 2.49 * far
    assert row.verdict == verdict
