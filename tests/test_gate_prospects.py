"""What a run can show before it starts: a copy's verdict, the chances of others, and how many questions are enough."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from quantgate.components.benchmarks.suites import MMLU_SUBJECTS
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence import margin
from quantgate.components.evidence.assumed_answers import COPY, LOSSLESS, TYPICAL, Assumed, PlannedTask, drawn, expected
from quantgate.components.evidence.forecast import forecast
from quantgate.components.evidence.margin import RELATIVE
from quantgate.components.evidence.power import Expected, questions
from quantgate.components.evidence.prospects import Prospect, chances, check_copy_passes, needs, ships_by_answers
from quantgate.components.gate.saved_prospect import prospect_of_saved
from quantgate.components.policies.policy import Edges, UseCase, use_case_named, use_case_names
from quantgate.components.resolve.checks import check_power
from quantgate.components.resolve.planned_evidence import forecast_of, prospect_of
from quantgate.components.run.attempts import Attempt
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.pipelines.cli.app import app
from quantgate.pipelines.kubeflow.run_parameters import check
from tests.support.answered import answers_of, candidate_of, pair_of, write_results

QUANTIZED = ("bf16", "int8", "int4-g128", "int4-g64")


def plan_of(use_case: str, suite: str, **changed: object) -> EvaluationPlan:
    plan = EvaluationPlan(variants=QUANTIZED, suite=suite, use_case=use_case, store="s3://b/s", results="s3://b/r")
    return plan.model_copy(update=changed)


def prospect(use_case: str, suite: str, **changed: object) -> Prospect:
    prospect = prospect_of(plan_of(use_case, suite, **changed))
    assert prospect is not None
    return prospect


def one_task(items: int, limit: float, variants: int = 1) -> Prospect:
    use_case = UseCase(name="one", max_drop={"t": limit}, bands=Edges(ship=limit, monitor=0.5, ab_test=0.6))
    return Prospect(use_case, (PlannedTask("t", items, score=1.0),), variants)


@pytest.mark.parametrize(("variants", "enough"), [(1, 149), (3, 203)])
def test_a_copy_passes_from_the_number_of_questions_that_the_exact_test_needs(variants: int, enough: int) -> None:
    assert 0.98**enough <= 0.05 / variants < 0.98 ** (enough - 1), "Clopper and Pearson"
    assert one_task(enough, 0.02, variants).copy == "ship"
    assert one_task(enough - 1, 0.02, variants).copy == "inconclusive"
    assert {need.enough for need in needs(one_task(100, 0.02, variants), COPY)} == {enough}


def test_a_policy_that_not_even_a_copy_can_pass_is_refused_with_the_questions_that_it_needs() -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        check_power(plan_of("code-strict", "code"))
    assert str(refusal.value).startswith(
        "Not even a perfect copy of the baseline could pass code-strict with these questions: its verdict would be"
        " inconclusive at best. Too few: humaneval at most 2 % needs 242 questions or more, 164 are planned."
    )
    check_power(plan_of("code-strict", "code", check_power=False))
    check_power(plan_of("code", "code"))


def test_a_later_attempt_needs_more_questions_and_the_refusal_says_which_it_is() -> None:
    plan = plan_of("code", "code")
    check_power(plan, Attempt(number=10))
    with pytest.raises(PrerequisiteError) as refusal:
        check_power(plan, Attempt(number=1000))
    assert "164 are planned" in str(refusal.value)
    assert "Attempt 1000, decided at 99.9999977 % in place of 95 %." in str(refusal.value)


def test_a_run_on_a_cluster_is_refused_before_it_is_sent() -> None:
    with pytest.raises(PrerequisiteError, match="could pass code-strict"):
        check("hf:org/model", plan_of("code-strict", "code"))


def test_a_band_that_a_copy_cannot_reach_is_named() -> None:
    use_case = UseCase(name="close", max_average_drop=0.5, bands=Edges(ship=0.001, monitor=0.002, ab_test=0.5))
    with pytest.raises(PrerequisiteError, match="A/B test at best. Too few: average under 0.2 % needs"):
        check_copy_passes(Prospect(use_case, (PlannedTask("t", 500),)))


def test_a_guessing_baseline_supports_no_pass_however_well_it_is_copied() -> None:
    guessing = Prospect(use_case_named("general-chat"), (PlannedTask("piqa", 2000, chance=0.5, score=0.5),))
    assert (guessing.copy, guessing.best) == ("inconclusive", "ship")


def test_a_suite_without_scores_or_with_an_unknown_number_of_items_is_not_judged_beforehand() -> None:
    assert prospect_of(plan_of("general-chat", "perplexity")) is None
    assert forecast_of(plan_of("general-chat", "perplexity")) == ""


@pytest.mark.slow
def test_the_forecast_says_what_a_copy_and_two_variants_would_get_and_what_is_enough() -> None:
    *lines, last = forecast_of(plan_of("math-tutoring-strict", "openllm")).splitlines()
    assert lines == [
        "What 28,659 questions can show for math-tutoring-strict and 3 variants, by simulation:",
        "  a copy of the baseline (scores of 60 % assumed): ship",
        "  lossless INT8 (2 % of the answers flip): ship 56 %, inconclusive 40 %, monitor 4 %",
        "  typical INT4 (8 % of the answers flip, 1 % of the score is lost): inconclusive 98 %, monitor 2 %",
    ]
    assert last == (
        "  too few for a lossless INT8 to pass 4 times in 5: gsm8k at most 2 % needs about 1,900, or 16 answers to each"
        " (1,319 planned)"
    )


@pytest.mark.slow
def test_the_forecast_names_the_closest_limit_where_the_questions_are_enough() -> None:
    *_, last = forecast_of(plan_of("math-tutoring", "openllm")).splitlines()
    assert last == (
        "  enough for a lossless INT8 to pass each limit 4 times in 5: average under 1 % needs about 23,000"
        " (28,659 planned)"
    )


def test_the_forecast_says_if_only_a_better_baseline_would_let_a_copy_ship() -> None:
    lines = forecast_of(plan_of("general-chat", "demo")).splitlines()
    assert lines[1] == (
        "  a copy of the baseline (scores of 60 % assumed): monitor, ship if the baseline had every answer right"
    )


def test_the_forecast_names_the_limits_that_it_leaves_out() -> None:
    use_case = UseCase(name="one", max_drop={"t": 0.1}, max_longer_answers={"t": 0.2})
    *_, last = forecast(Prospect(use_case, (PlannedTask("t", 5000),))).splitlines()
    assert last.endswith("(5,000 planned). Not predicted: max_longer_answers")


@pytest.mark.slow
def test_the_forecast_is_the_same_each_time() -> None:
    plan = plan_of("code", "code")
    assert forecast_of(plan) == forecast_of(plan)


@pytest.mark.slow(reason="hundreds of simulated runs")
@pytest.mark.parametrize("name", [name for name in use_case_names() if not name.endswith("-strict")])
def test_each_shipped_policy_ships_a_lossless_variant_in_four_of_five_runs(name: str) -> None:
    default = prospect(name, use_case_named(name).suites[0])
    assert (default.variants, chances(default, LOSSLESS, draws=150)["ship"] >= 0.8) == (3, True)


@pytest.mark.slow
def test_the_guides_closer_limits_do_not() -> None:
    assert 0.5 < chances(prospect("math-tutoring-strict", "openllm"), LOSSLESS, draws=150)["ship"] < 0.8
    sampled = prospect("math-tutoring-strict", "openllm", samples=16, temperature=0.7)
    assert {task.name: task.samples for task in sampled.tasks if task.samples > 1} == {"gsm8k": 16}
    assert chances(sampled, LOSSLESS, draws=60)["ship"] >= 0.8


@pytest.mark.slow
def test_the_probability_is_that_of_the_gates_test_on_the_drawn_answers() -> None:
    plan, items, limit = one_task(800, 0.03), 800, 0.03
    plan = Prospect(plan.use_case, (PlannedTask("t", items),))
    assumed = Assumed("", 0.1)
    source = np.random.default_rng(1)
    p_values = [margin.p_within([drawn(plan.tasks[0], assumed, source)[0]], RELATIVE, limit) for _ in range(1000)]
    assert chances(plan, assumed, draws=500)["ship"] == pytest.approx(np.mean(np.array(p_values) <= 0.05), abs=0.06)
    needed = {need.enough for need in needs(plan, assumed)}
    assert needed == {questions(Expected(0.1), limit, 0.05)}


@pytest.mark.slow
def test_several_answers_to_each_question_narrow_the_bounds_and_are_advised_where_they_are_enough() -> None:
    strict = prospect("math-tutoring-strict", "openllm")
    shares = dict(ships_by_answers(strict, LOSSLESS, draws=150))
    assert list(shares) == [1, 4, 8, 16]
    assert list(shares.values()) == sorted(shares.values())
    assert (shares[1] < 0.15, shares[16] > 0.7) == (True, True)
    assert {need.what: need.answers for need in needs(strict)} == {"gsm8k at most 2 %": 16, "average under 1 %": None}
    assert ships_by_answers(prospect("general-chat", "openllm"), LOSSLESS, draws=10) == ()


def test_flips_that_are_not_by_chance_stay_however_many_answers_there_are() -> None:
    task = PlannedTask("t", 100_000, score=0.6, samples=1000, sampled=True)
    pairs, _ = drawn(task, Assumed("", 0.26), np.random.default_rng(1))
    assert float(pairs.counts @ (pairs.before != pairs.after)) / pairs.items == pytest.approx(0.1, abs=0.004)


@pytest.mark.parametrize("assumed", [COPY, LOSSLESS, TYPICAL])
@pytest.mark.parametrize("samples", [1, 8])
def test_drawn_answers_have_the_assumed_score_and_drop(assumed: Assumed, samples: int) -> None:
    task = PlannedTask("t", 200_000, score=0.7, samples=samples, sampled=samples > 1)
    pairs, _ = drawn(task, assumed, np.random.default_rng(3))
    assert pairs.items == 200_000
    assert float(pairs.counts @ pairs.before) / pairs.items == pytest.approx(0.7, abs=0.005)
    assert margin.drop([pairs], RELATIVE) == pytest.approx(assumed.drop, abs=0.004)
    if samples == 1:
        flipped = float(pairs.counts @ (pairs.before != pairs.after)) / pairs.items
        assert flipped == pytest.approx(assumed.flips, abs=0.003)
    assert margin.drop([expected(task, assumed)[0]], RELATIVE) == pytest.approx(assumed.drop)


def test_mmlus_subjects_are_its_clusters() -> None:
    assert (len(MMLU_SUBJECTS), sum(MMLU_SUBJECTS)) == (57, 14_042)
    mmlu = next(task for task in prospect("summarization", "openllm").tasks if task.name == "mmlu")
    pairs, subjects = drawn(mmlu, LOSSLESS, np.random.default_rng(5))
    assert pairs.clusters is not None
    assert (pairs.clusters.items.tolist(), len(subjects)) == ([float(size) for size in MMLU_SUBJECTS], 57)
    assert pairs.counts.tolist() == sum(subject.counts for subject in subjects).tolist()  # type: ignore[union-attr]


def test_power_prints_the_chances_and_the_questions_that_are_enough() -> None:
    done = CliRunner().invoke(app, ["power", "--use-case", "code", "--suite", "code", "--draws", "20", "--json"])
    shown = json.loads(done.stdout)
    assert (done.exit_code, shown["copy_at_best"], shown["copy"]) == (0, "ship", "ship")
    assert shown["questions"] == {"humaneval": 164, "mbpp": 500}
    assert [row["flips"] for row in shown["assumed"]] == [0.02, 0.08]
    assert [row["what"] for row in shown["needs"]] == ["humaneval at most 10 %", "average under 5 %"]
    assert all(sum(row["chances"].values()) == pytest.approx(1) for row in shown["assumed"])


def test_the_assumed_flips_may_be_given() -> None:
    options = ["--suite", "demo", "--use-case", "demo", "--draws", "10", "--int8-flips", "0.05", "--int4-drop", "0.2"]
    done = CliRunner().invoke(app, ["power", *options])
    assert "lossless INT8 (5 % of the answers flip)." in done.stdout
    assert "20 % of the score is lost" in done.stdout


def judged(tmp_path: Path, counts: tuple[int, int, int, int], *options: str) -> Result:
    """`quantgate gate` on the saved answers of a baseline and a variant."""
    folders = [
        write_results(tmp_path / name, candidate_of(name, {"t": answers_of("t", scores)}))
        for name, scores in zip(("bf16", "int8"), pair_of(*counts), strict=True)
    ]
    return CliRunner().invoke(app, ["gate", "--baseline", str(folders[0]), "--variant", str(folders[1]), *options])


def test_saved_answers_that_are_too_few_for_any_pass_are_refused(tmp_path: Path) -> None:
    done = judged(tmp_path, (0, 0, 12, 8))
    assert isinstance(done.exception, PrerequisiteError)
    assert "Not even a perfect copy of the baseline could pass general-chat" in str(done.exception)
    assert "average at most 5 % needs 59 questions or more, 20 are planned" in str(done.exception)
    assert done.stdout == ""


def test_too_few_saved_answers_are_judged_all_the_same_with_the_option(tmp_path: Path) -> None:
    done = judged(tmp_path, (0, 0, 12, 8), "--no-check-power", "--json")
    assert (done.exit_code, json.loads(done.stdout)[1]["verdict"]) == (3, "inconclusive")


def test_the_gate_forecasts_with_the_measured_scores_before_it_judges(tmp_path: Path) -> None:
    done = judged(tmp_path, (0, 0, 1400, 600))
    assert done.stdout.splitlines()[:2] == [
        "What 2,000 questions can show for general-chat and 1 variant, by simulation:",
        "  a copy of the baseline (scores of 70 %): ship",
    ]
    assert "(2,000 answered)" in done.stdout
    assert done.exit_code == 0


def test_saved_answers_are_forecast_with_their_clusters_samples_and_looks() -> None:
    scores = np.repeat([1.0, 0.0], [60, 40])
    by_task = {
        "t": answers_of("t", scores, clusters=["a"] * 30 + ["b"] * 70),
        "sums": answers_of("sums", scores),
    }
    baseline, variant = candidate_of("bf16", by_task), candidate_of("int8", by_task, look=2, looks=3)
    settings = PromptSettings(generation=({"temperature": 0.7},), samples=4)
    tasks = tuple(
        task.model_copy(update={"settings": settings} if task.task == "sums" else {}) for task in baseline.scores.tasks
    )
    asked = replace(baseline, scores=baseline.scores.model_copy(update={"tasks": tasks}))
    seen = prospect_of_saved(use_case_named("general-chat"), [asked, variant])
    assert seen is not None
    assert (seen.variants, seen.looks, seen.measured) == (1, 3, True)
    assert seen.tasks == (
        PlannedTask("t", 100, score=0.6, clusters=(30, 70)),
        PlannedTask("sums", 100, score=0.6, samples=4, sampled=True, generated=True),
    )


def test_saved_scores_without_answers_have_no_forecast() -> None:
    by_task = {"t": answers_of("t", np.ones(10))}
    baseline, variant = candidate_of("bf16", by_task), candidate_of("int8", by_task)
    assert prospect_of_saved(use_case_named("general-chat"), [baseline, replace(variant, answers={})]) is None
    assert prospect_of_saved(use_case_named("general-chat"), [replace(baseline, answers={}), variant]) is None


def test_a_cluster_without_a_planned_item_counts_nowhere() -> None:
    task = PlannedTask("t", 3, score=0.6, clusters=(10, 10, 10, 10, 10, 500))
    assert task.sizes.tolist() == [3]
    task = replace(task, items=12, clusters=(1, 100, 1, 100))
    assert task.sizes.tolist() == [6, 6]
    with np.errstate(all="raise"):
        together, clusters = drawn(task, TYPICAL, np.random.default_rng(0))
        assert [pairs.counts.sum() for pairs in clusters] == [6, 6]
        assert 0 < margin.p_within((together,), RELATIVE, 0.5) <= 1
