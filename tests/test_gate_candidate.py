"""What the gate does not judge: failures, numbers that are no scores, scores that were not measured alike."""

import math
from pathlib import Path

import pytest

from quantgate.components.run.artifacts import RowsOrigin, Scores
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.components.run.verdicts import Decision
from tests.support.judged import decide_on, judge_pair, scores_of, task_score, weights_of

TASKS = {"gsm8k": 0.412, "mmlu": 0.654}


def test_a_variant_without_weights_is_a_failed_row_with_its_reason() -> None:
    reason = "no group fits a width of 100."
    decision = decide_on(
        "general-chat",
        [weights_of("bf16"), weights_of("int4-g64", failure=reason), weights_of("int8")],
        [scores_of(name, TASKS) for name in ("bf16", "int8")],
    )
    row = decision.verdicts[1]
    assert (row.variant, row.verdict, row.sentence) == ("int4-g64", "failed", reason)
    assert row.next_step == "Fix the reported cause and run again; until then keep serving the current model."
    assert (row.scores, row.drops, row.average_drop) == ({}, {}, None)
    assert decision.verdicts[2].verdict == "ship"
    assert decision.scores[1].failure == reason


def test_a_variant_whose_server_died_is_a_failed_row_without_its_partial_scores() -> None:
    died = scores_of("int8", {"gsm8k": 0.4}).model_copy(update={"failure": "the server died."})
    row = judge_pair(scores_of("bf16", TASKS), died)
    assert (row.verdict, row.sentence, row.scores) == ("failed", "the server died.", {})


def test_the_first_reason_is_reported() -> None:
    skipped = Scores(variant="int8", suite="guide", stage="tiny", failure="skipped: there are no weights.")
    decision = decide_on(
        "general-chat",
        [weights_of("bf16"), weights_of("int8", failure="out of memory.")],
        [scores_of("bf16", TASKS), skipped],
    )
    assert decision.verdicts[1].sentence == "out of memory."
    assert decision.scores[1].failure == "skipped: there are no weights."


def test_a_variant_without_scores_is_a_failed_row() -> None:
    decision = decide_on("general-chat", [weights_of("bf16"), weights_of("int8")], [scores_of("bf16", TASKS)])
    assert decision.verdicts[1].verdict == "failed"
    assert decision.verdicts[1].sentence == "No scores of int8 reached the gate."


def test_without_the_baselines_scores_every_row_fails_with_the_reason() -> None:
    died = Scores(variant="bf16", suite="guide", stage="full", failure="The server died at question 7.")
    decision = decide_on("general-chat", [weights_of("bf16"), weights_of("int8")], [died, scores_of("int8", TASKS)])
    baseline, variant = decision.verdicts
    assert (baseline.verdict, baseline.sentence) == ("failed", "The server died at question 7.")
    assert variant.verdict == "failed"
    assert variant.sentence == "Not judged: the baseline has no scores. The server died at question 7."
    assert (variant.scores, variant.drops, variant.average_drop) == (TASKS, {}, None)


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.1])
def test_an_invalid_score_fails_its_variant_and_never_reaches_the_decision(score: float, tmp_path: Path) -> None:
    decision = decide_on(
        "general-chat",
        [weights_of("bf16"), weights_of("int8")],
        [scores_of("bf16", {"gsm8k": 0.4}), scores_of("int8", {"gsm8k": score})],
    )
    assert decision.verdicts[1].verdict == "failed"
    assert decision.verdicts[1].sentence == f"int8 scored {score} on gsm8k: that is not a valid score."
    decision.write(tmp_path / "decision.json")
    assert Decision.read(tmp_path / "decision.json") == decision


def test_a_baseline_with_a_nan_score_judges_no_variant() -> None:
    row = judge_pair(scores_of("bf16", {"gsm8k": math.nan}), scores_of("int8", {"gsm8k": 0.4}))
    assert row.verdict == "failed"
    reason = "bf16 scored nan on gsm8k: that is not a valid score."
    assert row.sentence == f"Not judged: the baseline has no scores. {reason}"


def test_scores_over_no_items_are_refused() -> None:
    baseline = scores_of("bf16", {"gsm8k": 0.4})
    empty = scores_of("int8", {})
    assert judge_pair(baseline, empty).sentence == "int8 was evaluated on no task."
    no_items = empty.model_copy(update={"tasks": (task_score("gsm8k", 0.4).model_copy(update={"items": 0}),)})
    assert judge_pair(baseline, no_items).verdict == "failed"
    assert "over 0 items" in judge_pair(baseline, no_items).sentence


def test_a_task_scored_twice_is_refused() -> None:
    twice = scores_of("int8", {}).model_copy(update={"tasks": (task_score("gsm8k", 0.4), task_score("gsm8k", 0.5))})
    row = judge_pair(scores_of("bf16", {"gsm8k": 0.4}), twice)
    assert (row.verdict, row.sentence) == ("failed", "int8 has 2 scores for gsm8k, expected one.")


def test_scores_of_another_suite_are_refused() -> None:
    other = scores_of("int8", {"gsm8k": 0.4}).model_copy(update={"suite": "other"})
    row = judge_pair(scores_of("bf16", {"gsm8k": 0.4}), other)
    assert row.verdict == "failed"
    assert row.sentence == "int8 was scored on the suite other, the gate decides on the suite guide."


@pytest.mark.parametrize(
    ("field", "value", "difference"),
    [
        ("metric", "acc_norm", "on gsm8k its metric is acc_norm, the baseline's is acc"),
        ("version", "2.0", "on gsm8k its task version is 2.0, the baseline's is 1.0"),
        ("shots", 0, "on gsm8k its number of shots is 0, the baseline's is 5"),
        ("items", 999, "on gsm8k its number of items is 999, the baseline's is 1000"),
        (
            "settings",
            PromptSettings(chat_template=True, filter="strict-match"),
            (
                "on gsm8k its prompt settings are chat template, filter strict-match,"
                " the baseline's are lm-eval's defaults"
            ),
        ),
    ],
)
def test_a_task_measured_differently_is_not_comparable(field: str, value: object, difference: str) -> None:
    changed = task_score("gsm8k", 0.1).model_copy(update={field: value})
    tasks = (task_score("mmlu", 0.6), changed)
    variant = scores_of("int8", {"gsm8k": 0.1, "mmlu": 0.6}).model_copy(update={"tasks": tasks})
    row = judge_pair(scores_of("bf16", {"gsm8k": 0.4, "mmlu": 0.6}), variant)
    assert (row.verdict, row.sentence) == ("not_comparable", f"Not comparable with the baseline: {difference}.")
    assert (row.drops, row.average_drop) == ({}, None)


@pytest.mark.parametrize(
    ("tasks", "difference"),
    [
        ({"gsm8k": 0.4}, "it has no score for mmlu, the baseline has one"),
        ({"gsm8k": 0.4, "mmlu": 0.6, "code": 0.1}, "it has a score for code, the baseline has none"),
    ],
)
def test_different_tasks_from_the_baselines_are_not_comparable(tasks: dict[str, float], difference: str) -> None:
    row = judge_pair(scores_of("bf16", {"gsm8k": 0.4, "mmlu": 0.6}), scores_of("int8", tasks))
    assert (row.verdict, row.sentence) == ("not_comparable", f"Not comparable with the baseline: {difference}.")


@pytest.mark.parametrize(
    ("field", "value", "difference"),
    [
        ("stage", "tiny", "it was scored in stage tiny, the baseline in stage full"),
        (
            "row_origins",
            (RowsOrigin(task="gsm8k", where="gsm8k/test from a folder", sha256="02"),),
            (
                "its items of gsm8k came from gsm8k/test from a folder, sha256 02,"
                " the baseline's from gsm8k/test from a folder, sha256 01"
            ),
        ),
        (
            "row_origins",
            (),
            ("its items of gsm8k came from an unknown source, the baseline's from gsm8k/test from a folder, sha256 01"),
        ),
    ],
    ids=["stage", "other rows", "unknown rows"],
)
def test_different_items_from_the_baselines_are_not_comparable(field: str, value: object, difference: str) -> None:
    variant = scores_of("int8", {"gsm8k": 0.4}).model_copy(update={field: value})
    row = judge_pair(scores_of("bf16", {"gsm8k": 0.4}), variant)
    assert (row.verdict, row.sentence) == ("not_comparable", f"Not comparable with the baseline: {difference}.")


def test_a_variant_of_another_model_is_not_comparable() -> None:
    other = weights_of("int8").model_copy(update={"baseline_digest": "d1"})
    scores = [scores_of(name, {"gsm8k": 0.4}) for name in ("bf16", "int8")]
    row = decide_on("general-chat", [weights_of("bf16"), other], scores).verdicts[1]
    assert row.verdict == "not_comparable"
    assert row.sentence.endswith("its weights come from another model than the baseline's.")


def test_the_order_of_the_tasks_does_not_matter() -> None:
    row = judge_pair(scores_of("bf16", {"gsm8k": 0.4, "mmlu": 0.6}), scores_of("int8", {"mmlu": 0.6, "gsm8k": 0.4}))
    assert (row.verdict, row.average_drop) == ("ship", 0.0)


def test_a_suite_without_the_limited_task_is_not_comparable_and_does_not_ship() -> None:
    row = judge_pair(scores_of("bf16", {"mmlu": 0.6}), scores_of("int8", {"mmlu": 0.6}), "math-tutoring-strict")
    assert row.verdict == "not_comparable"
    reason = "the use case limits gsm8k, which the suite does not score"
    assert row.sentence == f"Not comparable for math-tutoring-strict: {reason}."


def test_a_baseline_with_only_zero_scores_has_no_drops() -> None:
    row = judge_pair(scores_of("bf16", {"gsm8k": 0.0}), scores_of("int8", {"gsm8k": 0.1}))
    assert (row.verdict, row.drops, row.average_drop) == ("not_comparable", {}, None)
    assert row.sentence.startswith("Not comparable for general-chat: the baseline scores 0 on every task")
    assert row.next_step.startswith("Choose a suite on which the baseline scores above 0")


def test_a_baseline_of_zero_on_the_limited_task_cannot_pass_the_limit() -> None:
    row = judge_pair(
        scores_of("bf16", {"gsm8k": 0.0, "mmlu": 0.6}),
        scores_of("int8", {"gsm8k": 0.0, "mmlu": 0.6}),
        "math-tutoring-strict",
    )
    assert (row.verdict, row.drops, row.average_drop) == ("not_comparable", {}, None)
    assert row.sentence.startswith("Not comparable for math-tutoring-strict: the baseline scores 0 on gsm8k, which")


def test_the_bands_reject_a_variant_despite_a_baseline_of_zero_on_the_limited_task() -> None:
    baseline, variant = scores_of("bf16", {"gsm8k": 0.0, "mmlu": 0.6}), scores_of("int8", {"gsm8k": 0.0, "mmlu": 0.3})
    row = judge_pair(baseline, variant, "math-tutoring-strict")
    assert (row.verdict, row.drops, row.average_drop) == ("reject", {"mmlu": 0.5}, 0.5)


def test_a_baseline_of_zero_on_another_task_is_mentioned_and_the_bands_decide() -> None:
    row = judge_pair(
        scores_of("bf16", {"gsm8k": 0.0, "mmlu": 0.6}), scores_of("int8", {"gsm8k": 0.0, "mmlu": 0.6}), "general-chat"
    )
    assert (row.verdict, row.drops, row.average_drop) == ("ship", {"mmlu": 0.0}, 0.0)
    assert row.sentence.endswith(
        "; the baseline is not above chance on gsm8k (0.000, chance 0.000), where no drop can be detected."
    )


@pytest.mark.parametrize(("score", "mentioned"), [(0.249, True), (0.25, True), (0.251, False)])
def test_a_task_with_the_baseline_at_chance_is_mentioned(score: float, mentioned: bool) -> None:
    row = judge_pair(scores_of("bf16", {"mmlu": score}, chance=0.25), scores_of("int8", {"mmlu": score}, chance=0.25))
    assert row.verdict == "ship"
    assert (f"not above chance on mmlu ({score:.3f}, chance 0.250)" in row.sentence) is mentioned
