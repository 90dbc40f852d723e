"""What a run can show before it starts: a copy's verdict, the chances of others, and how many questions are enough."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from components.benchmarks.suites import MMLU_SUBJECTS
from components.errors import PrerequisiteError
from components.evidence import margin
from components.evidence.assumed_answers import COPY, LOSSLESS, TYPICAL, Assumed, PlannedTask, drawn, expected
from components.evidence.margin import RELATIVE
from components.evidence.power import Expected, questions
from components.evidence.prospects import Prospect, at_best, chances, check_copy_passes, copy_verdict, needs
from components.policies.policy import Edges, UseCase, use_case_named, use_case_names
from components.resolve.checks import check_power
from components.resolve.planned_evidence import few_questions, prospect_of
from components.run.attempts import Attempt
from components.run.plan import EvaluationPlan
from pipelines.cli.app import app
from pipelines.kubeflow.run_parameters import check
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
    assert copy_verdict(one_task(enough, 0.02, variants)) == "ship"
    assert copy_verdict(one_task(enough - 1, 0.02, variants)) == "inconclusive"
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
    assert copy_verdict(guessing) == "inconclusive"
    assert copy_verdict(at_best(guessing)) == "ship"


def test_a_suite_without_scores_or_with_an_unknown_number_of_items_is_not_judged_beforehand() -> None:
    assert prospect_of(plan_of("general-chat", "perplexity")) is None
    assert few_questions(plan_of("general-chat", "perplexity")) == ""


def test_before_a_run_the_best_verdict_is_said_where_it_is_not_ship() -> None:
    assert few_questions(plan_of("general-chat", "openllm")) == ""
    assert few_questions(plan_of("general-chat", "demo")) == (
        "These questions are few for general-chat: even a copy of a baseline that scores 60% would be monitor."
        " `quantgate power` shows how many are enough."
    )


@pytest.mark.parametrize("name", [name for name in use_case_names() if not name.endswith("-strict")])
def test_each_shipped_policy_ships_a_lossless_variant_in_four_of_five_runs(name: str) -> None:
    default = prospect(name, use_case_named(name).suites[0])
    assert (default.variants, chances(default, LOSSLESS, draws=150)["ship"] >= 0.8) == (3, True)


def test_the_guides_closer_limits_do_not() -> None:
    assert 0.5 < chances(prospect("math-tutoring-strict", "openllm"), LOSSLESS, draws=150)["ship"] < 0.8
    sampled = prospect("math-tutoring-strict", "openllm", samples=16, temperature=0.7)
    assert {task.name: task.samples for task in sampled.tasks if task.samples > 1} == {"gsm8k": 16}
    assert chances(sampled, LOSSLESS, draws=60)["ship"] >= 0.8


def test_the_probability_is_that_of_the_gates_test_on_the_drawn_answers() -> None:
    plan, items, limit = one_task(800, 0.03), 800, 0.03
    plan = Prospect(plan.use_case, (PlannedTask("t", items),))
    assumed = Assumed("", 0.1)
    source = np.random.default_rng(1)
    p_values = [margin.p_within([drawn(plan.tasks[0], assumed, source)[0]], RELATIVE, limit) for _ in range(1000)]
    assert chances(plan, assumed, draws=500)["ship"] == pytest.approx(np.mean(np.array(p_values) <= 0.05), abs=0.06)
    needed = {need.enough for need in needs(plan, assumed)}
    assert needed == {questions(Expected(0.1), limit, 0.05)}


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
    assert "lossless INT8 flips 5.0% of the answers and loses 0.0% of the score." in done.stdout
    assert "loses 20.0% of the score." in done.stdout


def test_the_gate_says_that_saved_answers_are_too_few_for_any_pass(tmp_path: Path) -> None:
    before, after = pair_of(0, 0, 12, 8)
    folders = [
        write_results(tmp_path / name, candidate_of(name, {"t": answers_of("t", scores)}))
        for name, scores in (("bf16", before), ("int8", after))
    ]
    done = CliRunner().invoke(app, ["gate", "--baseline", str(folders[0]), "--variant", str(folders[1])])
    assert "too few for general-chat: even a perfect copy of the baseline would be inconclusive." in done.stdout
    assert done.exit_code == 3
