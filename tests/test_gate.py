import json
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.candidate import candidate
from quantgate.components.evidence.point import judge
from quantgate.components.policies.policy import UseCase, use_case_named
from quantgate.components.run.verdicts import Decision, Verdict
from tests.support.judged import MODEL, SIZES, decide_on, judge_pair, scores_of, weights_of

GUIDE = {
    "bf16": {"gsm8k": 0.412, "mmlu": 0.654, "hellaswag": 0.762},
    "int8": {"gsm8k": 0.405, "mmlu": 0.651, "hellaswag": 0.759},
    "int4-g128": {"gsm8k": 0.389, "mmlu": 0.640, "hellaswag": 0.751},
    "int4-g64": {"gsm8k": 0.398, "mmlu": 0.647, "hellaswag": 0.755},
}


def decide_table(use_case: str, table: dict[str, dict[str, float]]) -> dict[str, Verdict]:
    """The verdicts by variant, for a table of scores by task."""
    decision = decide_on(
        use_case, [weights_of(name) for name in table], [scores_of(name, row) for name, row in table.items()]
    )
    return {row.variant: row for row in decision.verdicts}


def verdict_on_gsm8k(before: float, after: float, use_case: str) -> str:
    return judge_pair(scores_of("bf16", {"gsm8k": before}), scores_of("int8", {"gsm8k": after}), use_case).verdict


@pytest.mark.parametrize(
    ("variant", "average", "verdict"),
    [("int8", "0.7 %", "ship"), ("int4-g128", "2.6 %", "monitor"), ("int4-g64", "1.5 %", "monitor")],
)
def test_the_guides_table_is_judged_by_the_bands(variant: str, average: str, verdict: str) -> None:
    row = decide_table("general-chat", GUIDE)[variant]
    assert row.average_drop is not None
    assert f"{row.average_drop * 100:.1f} %" == average
    assert row.verdict == verdict
    assert average in row.sentence
    assert row.scores == GUIDE[variant]
    assert row.size_bytes == SIZES[variant]


def test_the_guides_baseline_is_the_reference() -> None:
    row = decide_table("general-chat", GUIDE)["bf16"]
    assert (row.verdict, row.drops, row.average_drop) == ("reference", {}, None)
    assert row.scores == GUIDE["bf16"]
    assert row.sentence == (
        "The reference that every drop is relative to: 0.609 on average over gsm8k, mmlu, hellaswag."
    )


@pytest.mark.parametrize(
    ("variant", "gsm8k", "verdict"),
    [("int8", "1.7 %", "ship"), ("int4-g128", "5.6 %", "reject"), ("int4-g64", "3.4 %", "reject")],
)
def test_the_guides_table_is_judged_for_a_math_tutor(variant: str, gsm8k: str, verdict: str) -> None:
    row = decide_table("math-tutoring-strict", GUIDE)[variant]
    assert f"{row.drops['gsm8k'] * 100:.1f} %" == gsm8k
    assert row.verdict == verdict
    assert f"gsm8k fell {gsm8k}" in row.sentence


def test_the_drops_are_unrounded() -> None:
    row = decide_table("math-tutoring-strict", GUIDE)["int4-g128"]
    assert row.drops == {
        "gsm8k": (0.412 - 0.389) / 0.412,
        "mmlu": (0.654 - 0.640) / 0.654,
        "hellaswag": (0.762 - 0.751) / 0.762,
    }
    assert row.average_drop == pytest.approx((1.828 - 1.780) / 1.828, rel=1e-12)


def test_a_four_percent_drop_on_gsm8k_rejects_a_math_tutor_despite_the_average() -> None:
    table = {"bf16": {"gsm8k": 0.500, "mmlu": 0.600}, "int8": {"gsm8k": 0.480, "mmlu": 0.640}}
    assert decide_table("general-chat", table)["int8"].verdict == "ship"
    assert decide_table("math-tutoring-strict", table)["int8"].verdict == "reject"


def test_a_rejection_names_the_task_the_limit_and_the_verdict_by_the_average_alone() -> None:
    assert decide_table("math-tutoring-strict", GUIDE)["int4-g128"].sentence == (
        "Rejected for math-tutoring-strict: gsm8k fell 5.6 % (0.412 → 0.389), the limit is 2 %;"
        " the average drop of 2.6 % alone would mean monitor."
    )


def test_a_ship_verdict_names_the_numbers_that_decided() -> None:
    assert decide_table("math-tutoring-strict", GUIDE)["int8"].sentence == (
        "Ships for math-tutoring-strict: the average fell 0.7 % (0.609 → 0.605), in the band under 1 %;"
        " gsm8k fell 1.7 % (0.412 → 0.405), the limit is 2 %."
    )


def test_a_monitor_verdict_names_the_band_and_the_limit_on_the_average() -> None:
    assert decide_table("general-chat", GUIDE)["int4-g64"].sentence == (
        "Ships under monitoring for general-chat: the average fell 1.5 % (0.609 → 0.600),"
        " in the band from 1 % to under 3 %; the limit on the average is 5 %."
    )


def test_an_ab_test_verdict_names_its_band() -> None:
    row = decide_table("general-chat", {"bf16": {"mmlu": 0.500}, "int8": {"mmlu": 0.480}})["int8"]
    assert row.verdict == "ab_test"
    assert row.sentence == (
        "Needs an A/B test for general-chat: the average fell 4.0 % (0.500 → 0.480),"
        " in the band from 3 % to 5 %; the limit on the average is 5 %."
    )


def test_a_variant_over_the_limit_on_the_average_is_rejected_by_limit_and_bands() -> None:
    row = decide_table("general-chat", {"bf16": {"mmlu": 0.500}, "int8": {"mmlu": 0.470}})["int8"]
    assert row.sentence == (
        "Rejected for general-chat: the average fell 6.0 % (0.500 → 0.470), the limit is 5 %;"
        " the average's band would mean reject too."
    )


def test_a_variant_within_its_limit_is_still_rejected_by_the_bands() -> None:
    table = {"bf16": {"gsm8k": 0.500, "mmlu": 0.600}, "int8": {"gsm8k": 0.495, "mmlu": 0.500}}
    row = decide_table("math-tutoring-strict", table)["int8"]
    assert row.verdict == "reject"
    assert row.sentence == (
        "Rejected for math-tutoring-strict: the average fell 9.5 % (0.550 → 0.497), in the band over 5 %;"
        " gsm8k fell 1.0 % (0.500 → 0.495), the limit is 2 %."
    )


def test_a_rejection_by_limit_and_bands_names_both() -> None:
    row = decide_table("math-tutoring-strict", {"bf16": {"gsm8k": 0.500}, "int8": {"gsm8k": 0.400}})["int8"]
    assert row.sentence == (
        "Rejected for math-tutoring-strict: gsm8k fell 20.0 % (0.500 → 0.400), the limit is 2 %;"
        " the average drop of 20.0 % would mean reject too."
    )


def test_every_broken_limit_is_named() -> None:
    use_case = UseCase(name="strict", max_drop={"gsm8k": 0.02, "mmlu": 0.01}, max_average_drop=0.02)
    pair = [candidate(weights_of(name), scores_of(name, GUIDE[name]), "guide") for name in ("bf16", "int4-g128")]
    assert judge(use_case, *pair).sentence == (
        "Rejected for strict: gsm8k fell 5.6 % (0.412 → 0.389), the limit is 2 %,"
        " and mmlu fell 2.1 % (0.654 → 0.640), the limit is 1 %,"
        " and the average fell 2.6 % (0.609 → 0.593), the limit is 2 %; the average's band alone would mean monitor."
    )


def test_a_gain_is_described_as_a_gain_and_ships() -> None:
    row = decide_table(
        "math-tutoring-strict", {"bf16": {"gsm8k": 0.400, "mmlu": 0.5}, "int8": {"gsm8k": 0.410, "mmlu": 0.5}}
    )
    assert row["int8"].verdict == "ship"
    assert row["int8"].average_drop == pytest.approx(-0.01 / 0.9)
    assert row["int8"].sentence == (
        "Ships for math-tutoring-strict: the average rose 1.1 % (0.450 → 0.455), in the band under 1 %;"
        " gsm8k rose 2.5 % (0.400 → 0.410), the limit is 2 %."
    )


def test_a_rejection_despite_a_gain_on_average_mentions_the_gain() -> None:
    table = {"bf16": {"gsm8k": 0.500, "mmlu": 0.600}, "int8": {"gsm8k": 0.480, "mmlu": 0.640}}
    assert decide_table("math-tutoring-strict", table)["int8"].sentence.endswith(
        "; the average gain of 1.8 % alone would mean ship."
    )


def test_an_unchanged_score_is_described_as_unchanged() -> None:
    row = decide_table("general-chat", {"bf16": {"mmlu": 0.5}, "int8": {"mmlu": 0.5}})["int8"]
    assert row.verdict == "ship"
    assert "the average stayed at 0.500" in row.sentence


def test_a_drop_just_over_a_limit_is_not_printed_as_the_limit() -> None:
    row = decide_table("math-tutoring-strict", {"bf16": {"gsm8k": 0.5}, "int8": {"gsm8k": 0.48998}})["int8"]
    assert row.verdict == "reject"
    assert "gsm8k fell 2.004 % (0.500 → 0.490), the limit is 2 %" in row.sentence


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (0.500, 0.4951, "ship"),
        (0.500, 0.4950, "monitor"),
        (0.500, 0.4949, "monitor"),
        (0.500, 0.4851, "monitor"),
        (0.500, 0.4850, "ab_test"),
        (0.500, 0.4849, "ab_test"),
        (0.500, 0.4751, "ab_test"),
        (0.500, 0.4750, "ab_test"),
        (0.500, 0.4749, "reject"),
    ],
)
def test_each_band_begins_and_ends_at_the_policys_numbers(before: float, after: float, verdict: str) -> None:
    assert verdict_on_gsm8k(before, after, "general-chat") == verdict


@pytest.mark.parametrize(("hundredths", "verdict"), [(1, "monitor"), (3, "ab_test"), (5, "ab_test")])
def test_a_drop_equal_to_a_bound_is_on_the_bound_despite_binary_floats(hundredths: int, verdict: str) -> None:
    hundreds = range(100, 1100, 100)
    pairs = [(n / items, (n - n * hundredths // 100) / items) for items in (1000, 1319, 14042) for n in hundreds]
    assert len({(before - after) / before for before, after in pairs}) > 1, "floats disagree among themselves"
    assert {verdict_on_gsm8k(before, after, "general-chat") for before, after in pairs} == {verdict}


def test_a_drop_that_floats_push_over_five_percent_is_still_exactly_five_percent() -> None:
    assert (0.8 - 0.76) / 0.8 > 0.05
    assert verdict_on_gsm8k(0.8, 0.76, "general-chat") == "ab_test"


def test_one_item_of_a_large_benchmark_is_enough_to_exceed_a_bound() -> None:
    items = 100_000
    assert verdict_on_gsm8k(1.0, 95_000 / items, "general-chat") == "ab_test"
    assert verdict_on_gsm8k(1.0, 94_999 / items, "general-chat") == "reject"
    assert verdict_on_gsm8k(1.0, 99_001 / items, "general-chat") == "ship"
    assert verdict_on_gsm8k(1.0, 99_000 / items, "general-chat") == "monitor"


@pytest.mark.parametrize(
    ("use_case", "task", "limit"),
    [("math-tutoring-strict", "gsm8k", 2), ("code-strict", "humaneval", 2), ("summarization", "mmlu", 3)],
)
@pytest.mark.parametrize(("extra", "rejected"), [(-0.001, False), (0.0, False), (0.001, True)])
def test_a_use_case_allows_a_drop_of_exactly_its_limit_and_no_more(
    use_case: str, task: str, limit: int, extra: float, rejected: bool
) -> None:
    baseline = {"arc_easy": 0.9, task: 0.5}
    variant = {"arc_easy": 0.9, task: 0.5 * (1 - (limit + extra) / 100)}
    row = decide_table(use_case, {"bf16": baseline, "int8": variant})["int8"]
    assert (row.verdict == "reject") is rejected


@pytest.mark.parametrize(("after", "verdict"), [(0.4751, "ab_test"), (0.4750, "ab_test"), (0.4749, "reject")])
def test_general_chat_allows_an_average_drop_of_exactly_five_percent(after: float, verdict: str) -> None:
    assert verdict_on_gsm8k(0.5, after, "general-chat") == verdict


def test_the_baseline_comes_first_and_the_variants_keep_their_order() -> None:
    names = ["int4-g64", "int8", "bf16", "int4-g128"]
    decision = decide_on(
        "math-tutoring-strict",
        [weights_of(name) for name in names],
        [scores_of(name, GUIDE[name]) for name in sorted(names)],
    )
    expected = ["bf16", "int4-g64", "int8", "int4-g128"]
    assert [row.variant for row in decision.verdicts] == expected
    assert [weights.variant for weights in decision.weights] == expected
    assert [scores.variant for scores in decision.scores] == expected


def test_a_decision_contains_its_evidence_and_reads_back_from_its_file(tmp_path: Path) -> None:
    decision = decide_on(
        "math-tutoring-strict",
        [weights_of(name) for name in GUIDE],
        [scores_of(name, row) for name, row in GUIDE.items()],
    )
    assert (decision.model, decision.suite, decision.use_case) == (MODEL, "guide", "math-tutoring-strict")
    assert decision.policy == use_case_named("math-tutoring-strict").describe_policy()
    decision.write(tmp_path / "decision.json")
    assert Decision.read(tmp_path / "decision.json") == decision
    assert json.loads((tmp_path / "decision.json").read_text(encoding="utf-8"))["verdicts"][0]["variant"] == "bf16"


@pytest.mark.parametrize(
    ("weights", "scores"),
    [(["int8"], ["int8"]), (["bf16", "bf16"], []), (["bf16"], ["bf16", "bf16"]), (["bf16"], ["bf16", "int8"])],
)
def test_inputs_that_no_run_produces_raise_a_value_error(weights: list[str], scores: list[str]) -> None:
    with pytest.raises(ValueError, match="The gate needs"):
        decide_on("general-chat", [weights_of(name) for name in weights], [scores_of(name, {}) for name in scores])


def test_an_unknown_use_case_is_refused_with_the_names() -> None:
    with pytest.raises(PrerequisiteError, match="Choose from: code, code-strict, demo, general-chat"):
        decide_on("../policy", [weights_of("bf16")], [])
