"""Limits on speed: how a policy states them, and what a load test does to a verdict, to the report and to MLflow."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.speed_limits import ratio_words
from quantgate.components.gate.saved import read_saved
from quantgate.components.policies.policy import parse_use_case, use_case_named
from quantgate.components.report.matrix import matrix
from quantgate.components.report.pages import plots, write_report
from quantgate.components.report.terminal import terminal_matrix
from quantgate.components.resolve.checks import check_speed
from quantgate.components.run.evidence_digests import policy_digest
from quantgate.components.run.load_results import LoadTest
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.verdicts import Decision, Verdict
from quantgate.components.track.mlflow_rows import variant_rows
from quantgate.components.tracking.earlier import verdict_key
from quantgate.components.tracking.facts import RunFiles
from tests.support import decided
from tests.support.loaded import BASELINE, by_policy, load_test_of
from tests.support.reported import Page, make_decision

POLICY = "name: fast\nmax_average_drop: 5 %\nspeed: {min_speedup: 1.2, max_ttft_ratio: 1.1}\n"
AT_LEAST, AT_MOST = {"min_speedup": 1.2}, {"max_ttft_ratio": 1.1}


def verdict_on(limits: dict[str, float], *tests: LoadTest, place: int = 1) -> Verdict:
    """The verdict on int8, which monitor is by its answers alone, or on the variant in that place."""
    return by_policy(make_decision(), limits, *tests).verdicts[place]


def faster(by: float, first_token_ms: float = 30.0) -> LoadTest:
    speeds = {1: BASELINE[1] * 2, 4: BASELINE[4] * by}
    return load_test_of("int8", speeds, first_token_ms=first_token_ms)


def test_a_policy_says_its_limits_on_speed_and_only_then_has_another_digest() -> None:
    limits = parse_use_case(POLICY, "policy.yaml")
    assert limits.describe_limits() == (
        "average at most 5 %, output tokens/s at least 1.2 times the baseline's,"
        " time to first token at most 1.1 times the baseline's"
    )
    without = limits.model_copy(update={"speed": None})
    assert policy_digest(limits) != policy_digest(without)
    assert "speed" not in without.model_dump()


@pytest.mark.parametrize(
    ("by", "verdict", "outcome"),
    [(1.3, "monitor", "passed"), (1.2, "monitor", "passed"), (1.1999, "reject", "exceeded")],
)
def test_the_slowest_concurrency_decides_and_a_speedup_equal_to_the_limit_is_enough(
    by: float, verdict: str, outcome: str
) -> None:
    row = verdict_on(AT_LEAST, load_test_of("bf16", BASELINE), faster(by))
    (limit,) = row.limits
    assert (limit.what, limit.kind, limit.limit, limit.outcome) == ("4 at a time", "speedup", 1.2, outcome)
    assert limit.estimate == pytest.approx(by)
    assert row.verdict == verdict


def test_the_sentence_says_which_limit_a_variant_misses_and_what_it_would_be_without() -> None:
    baseline = load_test_of("bf16", BASELINE)
    by_answers = make_decision().verdicts[1].sentence
    missed = verdict_on(AT_LEAST | AT_MOST, baseline, faster(1.19999, first_token_ms=36.0))
    assert missed.sentence == (
        "Rejected for fast: with 4 at a time it writes 1.19999 times the baseline's output tokens/s, the limit is at"
        " least 1.2 times; with 1 at a time its median time to the first token is 1.2 times the baseline's, the limit"
        f" is at most 1.1 times. Without the limits on speed: {by_answers}"
    )
    assert missed.next_step.startswith("Try another variant, or hardware with faster kernels")
    kept = verdict_on(AT_MOST, baseline, faster(1.0, first_token_ms=33.0))
    assert kept.sentence == (
        f"{by_answers} In the load test with 1 at a time its median time to the first token is 1.1 times the"
        " baseline's, the limit is at most 1.1 times."
    )


@pytest.mark.parametrize(("ratio", "words"), [(1.3, "1.3"), (1.23456, "1.23"), (1.1999914253, "1.19999"), (1.2, "1.2")])
def test_rounding_never_moves_a_ratio_onto_its_limit(ratio: float, words: str) -> None:
    assert ratio_words(ratio, 1.2) == words


def on_device(device: str, test: LoadTest) -> LoadTest:
    return test.model_copy(update={"device": device})


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ((), "the baseline has none"),
        ((load_test_of("bf16", BASELINE),), "int8 has none"),
        (
            (LoadTest(variant="bf16", failure="Out of memory.\nMore."), faster(2)),
            "that of the baseline failed: Out of memory",
        ),
        (
            (load_test_of("bf16", BASELINE), load_test_of("int8", BASELINE, failed=3)),
            "3 of 8 requests to int8 failed",
        ),
        (
            (load_test_of("bf16", BASELINE), load_test_of("int8", {1: 90.0})),
            "those of the baseline and int8 sent different requests",
        ),
        (
            (on_device("GPU", load_test_of("bf16", BASELINE)), on_device("CPU", faster(2))),
            "those of the baseline and int8 ran on different devices, GPU and CPU",
        ),
    ],
)
def test_a_speed_that_is_not_known_is_not_comparable_and_never_passes(tests: tuple[LoadTest, ...], reason: str) -> None:
    row = verdict_on(AT_LEAST, *tests)
    assert row.verdict == "not_comparable"
    assert row.sentence.startswith(
        f"Not comparable for fast: its limits on speed need a load test, and {reason}. Without"
    )
    assert row.limits == ()


def test_a_variant_that_its_answers_reject_or_that_failed_keeps_that_verdict() -> None:
    tests = [load_test_of(name, BASELINE) for name in ("bf16", "int4-g128")]
    rejected, before = verdict_on(AT_LEAST, *tests, place=2), make_decision().verdicts[2]
    assert (rejected.verdict, before.verdict) == ("reject", "reject")
    assert rejected.sentence.startswith(f"{before.sentence} It is too slow as well: with 1 at a time it writes 1 times")
    assert verdict_on(AT_LEAST, place=2) == before
    assert verdict_on(AT_LEAST, *tests, place=3) == make_decision().verdicts[3]


def test_without_limits_on_speed_a_load_test_changes_no_verdict() -> None:
    decision = by_policy(make_decision(), {}, faster(0.5), load_test_of("bf16", BASELINE))
    assert decision.verdicts == make_decision().verdicts
    assert [test.variant for test in decision.load_tests] == ["bf16", "int8"]


def plan_of(speed: str) -> EvaluationPlan:
    return EvaluationPlan(variants=("bf16", "int8"), store="", results="", speed=speed)


def test_a_policy_that_limits_speed_is_refused_before_a_run_without_a_load_test() -> None:
    fast, chat = parse_use_case(POLICY, "policy.yaml"), use_case_named("general-chat")
    with pytest.raises(PrerequisiteError, match="this policy needs --speed: add --speed quick or"):
        check_speed(plan_of("off"), fast)
    for speed, limits in (("quick", fast), ("1,16", fast), ("off", chat), ("full", chat)):
        check_speed(plan_of(speed), limits)
    with pytest.raises(PrerequisiteError, match="'fast'. Choose off, quick or full, or give different numbers"):
        check_speed(plan_of("fast"), chat)


def test_saved_results_are_refused_by_a_policy_that_limits_speed(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="The policy fast limits speed, which is measured within one run"):
        read_saved(parse_use_case(POLICY, "policy.yaml"), [tmp_path, tmp_path])


def test_an_earlier_verdict_without_the_load_test_does_not_count() -> None:
    limits = {"limits": use_case_named("general-chat")}
    keys = {speed: verdict_key(plan_of(speed).model_copy(update=limits)) for speed in ("off", "quick", "full")}
    assert len(set(keys.values())) == 3


def shown() -> Decision:
    failed = LoadTest(variant="int4-g128", failure="The load test ended with exit status 1: no memory.")
    return by_policy(make_decision(), AT_LEAST, load_test_of("bf16", BASELINE), faster(1.25), failed)


def test_matrix_and_report_show_the_speed_beside_the_drops(tmp_path: Path) -> None:
    decision = shown()
    assert [row.load and row.load.level.output_tokens_per_s for row in matrix(decision)] == [100.0, 125.0, None, None]
    html, markdown = (page.read_text(encoding="utf-8") for page in write_report(decision, tmp_path))
    page = Page(html)
    assert [row[4] for row in page.matrix] == [
        "Output tokens/s",
        "100 4 at a time",
        "125 1.25× baseline 4 at a time",
        "—",
        "—",
    ]
    assert page.tables["loads"][3:] == [
        ["int8", "1", "80 2.00×", "30 / 60 ms 1.00×", "12 / 25 ms 0.50×", "0 of 8", "500 MB 1.00×"],
        ["int8", "4", "125 1.25×", "30 / 60 ms 1.00×", "32 / 64 ms 0.80×", "0 of 8", "500 MB 1.00×"],
    ]
    assert "| int8 | 4 | 125 1.25× | 30 / 60 ms 1.00× | 32 / 64 ms 0.80× | 0 of 8 | 500 MB 1.00× |\n" in markdown
    for text in (html, markdown):
        assert "The load test of int4-g128 failed: The load test ended with exit status 1: no memory." in text
        assert "int4-g64 was not load-tested: it failed before." in text
    drawing = plots(decision)["speed.svg"]
    assert drawing.count('class="marker"') == 4
    assert "requests at a time" in drawing


def test_speeds_on_a_cpu_and_on_a_gpu_have_no_ratio_and_the_report_says_why(tmp_path: Path) -> None:
    """A GGUF file on a CPU beside a baseline on a GPU: same requests, which are no fair comparison."""
    tests = on_device("GPU", load_test_of("bf16", BASELINE)), on_device("CPU", faster(1.25))
    decision = by_policy(make_decision(), {}, *tests)
    reason = "The speeds of bf16 and int8 are not compared: they were measured on different devices, GPU and CPU."
    html, markdown = (page.read_text(encoding="utf-8") for page in write_report(decision, tmp_path))
    assert Page(html).tables["loads"][4][:4] == ["int8", "4", "125", "30 / 60 ms"]
    assert reason in html
    assert reason in markdown
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(terminal_matrix(decision))
    assert reason in " ".join(console.export_text().split())
    alike = by_policy(make_decision(), {}, *(on_device("GPU", test) for test in tests))
    assert "not compared" not in write_report(alike, tmp_path)[0].read_text(encoding="utf-8")


def test_the_terminal_shows_the_speed_within_80_columns() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(terminal_matrix(shown()))
    lines = console.export_text().splitlines()
    (row,) = [line.split() for line in lines if line.split()[:2] == ["int8", "4"]]
    assert row[2:4] == ["125", "1.25×"]
    assert max(map(len, lines)) <= 80
    assert "int4-g64 was not load-tested: it failed before." in map(str.strip, lines)


def test_a_report_without_load_tests_has_no_word_of_them(tmp_path: Path) -> None:
    for page in write_report(make_decision(), tmp_path):
        assert "tokens/s" not in page.read_text(encoding="utf-8")
    assert "speed.svg" not in plots(make_decision())


def test_mlflow_has_the_speed_of_each_variant_and_why_it_is_unknown(tmp_path: Path) -> None:
    failed = LoadTest(variant="int4-g64", failure="It took too long.")
    decision = by_policy(decided.make_decision(tmp_path), {}, load_test_of("bf16", BASELINE), faster(1.25), failed)
    bf16, int8, g128, g64 = variant_rows(decision, decided.FACTS, RunFiles(report=()))
    assert {name: value for name, value in int8.metrics.items() if name.startswith("speed/4/")} == {
        "speed/4/requests": 8,
        "speed/4/failed": 0,
        "speed/4/output_tokens_per_s": 125.0,
        "speed/4/first_token_ms": 30.0,
        "speed/4/first_token_p95_ms": 60.0,
        "speed/4/between_tokens_ms": 32.0,
        "speed/4/between_tokens_p95_ms": 64.0,
        "speed/4/speedup": 1.25,
        "speed/4/first_token_ratio": 1.0,
        "speed/4/between_tokens_ratio": 0.8,
    }
    assert int8.metrics["speed/memory_bytes"] == 500_000_000
    assert bf16.metrics["speed/1/speedup"] == 1.0
    assert not any(name.startswith("speed/") for row in (g128, g64) for name in row.metrics)
    assert [row.tags.get("speed_failure") for row in (int8, g128, g64)] == ["none", None, "It took too long."]
