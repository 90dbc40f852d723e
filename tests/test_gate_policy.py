import math
from pathlib import Path

import pytest

from components.errors import PrerequisiteError
from components.gate import check_use_case, policy_in_words, required_tasks, use_case_names
from components.gate.change import Change, apart, percent
from components.gate.policy import BANDS, band_of, next_step, read_use_case, side


def test_a_side_is_exact_beyond_the_float_error() -> None:
    assert [side(0.05 + delta, 0.05) for delta in (-1e-11, -1e-14, 0.0, 1e-14, 1e-11)] == [-1, 0, 0, 0, 1]


def test_a_large_gain_ships_and_a_total_loss_is_rejected() -> None:
    assert band_of(-3.0).verdict == "ship"
    assert band_of(1.0).verdict == "reject"


def test_each_use_case_requires_the_task_it_limits() -> None:
    assert {name: required_tasks(name) for name in use_case_names()} == {
        "code": ("humaneval",),
        "general-chat": (),
        "math-tutoring": ("gsm8k",),
        "summarization": ("mmlu",),
    }


def test_a_suite_with_the_required_task_passes_the_check() -> None:
    check_use_case("math-tutoring", ["arc_easy", "gsm8k"])
    check_use_case("general-chat", iter(["arc_easy"]))


def test_a_suite_without_the_required_task_is_refused_before_the_run() -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        check_use_case("math-tutoring", iter(["arc_easy", "mmlu"]))
    assert str(refusal.value) == (
        "The use case math-tutoring limits the drop on gsm8k, which this suite does not score: it scores arc_easy,"
        " mmlu. Choose a suite with gsm8k, or a use case that this suite can answer for: general-chat, summarization."
    )


def test_a_task_of_another_name_does_not_stand_in_for_the_required_one() -> None:
    with pytest.raises(PrerequisiteError, match="limits the drop on gsm8k"):
        check_use_case("math-tutoring", ["tinyGSM8k"])


def test_the_policy_in_words_says_bands_and_limits() -> None:
    assert policy_in_words("math-tutoring") == (
        "average drop: ship under 1 %, monitor from 1 % to under 3 %, A/B test from 3 % to 5 %, reject over 5 %;"
        " math-tutoring: gsm8k at most 2 %, else reject; drops are relative to the baseline's score"
    )
    assert "general-chat: average at most 5 %, else reject" in policy_in_words("general-chat")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: mine\nmax_drops: {gsm8k: 0.02}\n", "max_drops"),
        ("name: mine\n", "sets no limit"),
        ("name: mine\nmax_drop: {gsm8k: 2}\n", "less than 1"),
        ("name: mine\nmax_drop: {gsm8k: 2 %}\n", "valid number"),
        ("name: mine\nmax_drop: {gsm8k: .nan}\n", "finite number"),
        ("name: other\nmax_drop: {gsm8k: 0.02}\n", "same name"),
        ("name: [mine\n", "correct the file"),
        ("", "correct the file"),
    ],
)
def test_a_use_case_file_that_says_something_else_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PrerequisiteError, match=complaint):
        read_use_case(path)


def test_a_use_case_may_limit_several_tasks_and_the_average(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmax_drop: {gsm8k: 0.025, mmlu: 0}\nmax_average_drop: 0.01\n", encoding="utf-8")
    assert read_use_case(path).in_words() == "gsm8k at most 2.5 %, mmlu at most 0 %, average at most 1 %"


@pytest.mark.parametrize(
    ("verdict", "variant", "step"),
    [
        ("ship", "int8", "Serve it."),
        ("monitor", "int8", "Serve it and watch the benchmarks' live counterpart."),
        ("ab_test", "int8", "A/B test it against the baseline on live traffic before it replaces the baseline."),
        ("reject", "int4-g128", "Try int8 or a smaller group size (int4-g64)."),
        ("reject", "int4-g64", "Try int8."),
        ("reject", "int8", "Keep serving the baseline."),
    ],
)
def test_the_next_step_depends_on_verdict_and_variant(verdict: str, variant: str, step: str) -> None:
    assert next_step(verdict, variant) == step


def test_the_bands_ascend_and_leave_no_drop_without_a_verdict() -> None:
    uppers = [band.upper for band in BANDS]
    assert uppers == sorted(uppers)
    assert uppers[-1] == math.inf


def test_a_drop_is_relative_to_the_baselines_score() -> None:
    assert Change("gsm8k", 0.5, 0.45).drop == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("share", "bounds", "shown"),
    [
        (0.0558, (0.02,), "5.6 %"),
        (0.02004, (0.02,), "2.004 %"),
        (0.01996, (0.02,), "1.996 %"),
        (0.0226, (0.0228,), "2.26 %"),
        (0.02, (0.02,), "2.0 %"),
        (0.0003, (), "0.03 %"),
        (0.0, (), "0.0 %"),
    ],
)
def test_a_percentage_has_the_digits_that_show_its_side_of_a_bound(
    share: float, bounds: tuple[float, ...], shown: str
) -> None:
    assert percent(share, *bounds) == shown


def test_two_scores_that_differ_never_read_the_same() -> None:
    assert apart(0.412, 0.389) == "0.412 → 0.389"
    assert apart(0.65400, 0.65393) == "0.6540 → 0.6539"
