"""A baseline that does not score what others have published for it ends the run before a variant is asked."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from quantgate.components.benchmarks.suites import SUITES
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.decision import decide
from quantgate.components.evidence.published_check import (
    AGREES,
    APART,
    UNCLEAR,
    comparisons,
    interval,
    not_as_published,
)
from quantgate.components.evidence.reference import without_reference
from quantgate.components.policies.policy import UseCase, check_use_case, parse_use_case, use_case_named
from quantgate.components.policies.published_scores import known_baseline, known_baselines
from quantgate.components.quantize import step as quantize_step
from quantgate.components.report.pages import write_report
from quantgate.components.report.terminal import terminal_matrix
from quantgate.components.resolve.checks import check_published
from quantgate.components.run.artifacts import Model, Scores, TaskScore, Weights
from quantgate.components.run.evidence_digests import policy_digest
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.prompt_settings import PromptSettings
from quantgate.components.run.results import RunResults
from quantgate.components.track.mlflow_rows import run_row, variant_rows
from quantgate.components.tracking.facts import RunFiles
from tests.support.decided import FACTS
from tests.support.judged import MODEL, scores_of, weights_of
from tests.support.reported import Page


def policy(published: str, more: str = "") -> UseCase:
    return parse_use_case(f"name: ours\nmax_average_drop: 5 %\npublished: {published}\n{more}", "ours.yaml")


def scored(score: float, items: int = 14042, **changes: object) -> Scores:
    task = TaskScore(
        task="mmlu", metric="acc", score=score, stderr=0.004, items=items, shots=5, chance=0.25, version="1"
    )
    return Scores(variant="bf16", suite="guide", stage="full", tasks=(task.model_copy(update=changes),))


def outcome(use_case: UseCase, baseline: Scores) -> str:
    (row,) = comparisons(use_case, baseline)
    return row.outcome


def test_a_published_score_is_in_percent_with_a_tolerance_of_five_points() -> None:
    short, long = policy("{mmlu: 68.3}"), policy("{mmlu: {score: 68, tolerance: 3, items: 14042, source: its card}}")
    assert short.published["mmlu"].share == pytest.approx(0.683)
    assert short.published["mmlu"].tolerance == 5.0
    assert (long.published["mmlu"].score, long.published["mmlu"].tolerance) == (68.0, 3.0)
    assert UseCase.model_validate_json(long.model_dump_json()) == long
    assert "the baseline's published scores: mmlu 68.3 % within 5 points" in short.describe_policy()


def test_a_policy_without_published_scores_has_the_digest_that_it_always_had() -> None:
    assert "published" not in use_case_named("general-chat").model_dump()
    assert policy_digest(policy("{mmlu: 68.3}")) != policy_digest(policy("{}"))


@pytest.mark.parametrize(
    ("published", "complaint"),
    [
        ("{mmlu: 0.683}", "0.683 is not allowed: a published score is in percent, from 1 to 100, as 68.3"),
        ("{mmlu: 101}", "101 is not allowed"),
        ("{mmlu: high}", "high is not allowed"),
        ("{mmlu: {score: 68, tolerance: 0}}", "0 is not allowed: a tolerance is in points of 100"),
        ("{mmlu: {scores: 68}}", "published.mmlu.score is missing"),
    ],
)
def test_a_mistake_in_a_published_score_names_what_is_allowed(published: str, complaint: str) -> None:
    with pytest.raises(PrerequisiteError) as refusal:
        policy(published)
    assert "ours.yaml, line 3" in str(refusal.value)
    assert complaint in str(refusal.value)


def test_a_published_score_of_a_task_that_is_not_scored_is_refused_before_the_run() -> None:
    with pytest.raises(PrerequisiteError, match="a published score of mmul, which this suite does not score"):
        check_use_case(policy("{mmul: 68.3}"), ["mmlu"])
    check_use_case(policy("{mmul: 68.3}", "missing_tasks: skip\n"), ["mmlu"])
    with pytest.raises(PrerequisiteError, match="wikitext, a perplexity"):
        check_published(policy("{wikitext: 12.3}"), SUITES["perplexity"])
    check_published(policy("{mmlu: 68.3}"), SUITES["openllm"])


def test_all_questions_have_no_sampling_error_and_few_have_wilsons() -> None:
    assert interval(0.6, 100, 100) == (0.6, 0.6)
    assert interval(0.0, 10, None) == pytest.approx((0.0, 0.2775328), abs=1e-6)
    assert interval(0.5, 100, None) == pytest.approx((0.4038315, 0.5961685), abs=1e-6)
    half = [upper - lower for lower, upper in (interval(0.5, 50, size) for size in (51, 100, None))]
    assert half == sorted(half)


def test_a_distance_of_the_tolerance_itself_agrees_and_more_does_not() -> None:
    whole = policy("{mmlu: {score: 60, items: 14042}}")
    assert [outcome(whole, scored(score)) for score in (0.55, 0.5499, 0.65, 0.6501)] == [AGREES, APART, AGREES, APART]


def test_few_questions_stop_no_run_unless_the_whole_interval_is_over_the_tolerance() -> None:
    published = policy("{mmlu: 68.3}")
    assert [outcome(published, scored(0.56, items)) for items in (100, 10_000)] == [UNCLEAR, APART]
    assert not_as_published(published, scored(0.56, 100)) == ""
    (row,) = comparisons(published, scored(0.56, 100))
    assert row.lower < 0.56 < row.upper < 0.683


def test_the_reason_names_the_numbers_the_source_and_the_usual_causes() -> None:
    reason = not_as_published(policy("{mmlu: {score: 68.3, items: 14042, source: its card}}"), scored(0.601))
    assert reason == (
        "Not judged: the baseline scores 60.1 % on mmlu, 8.2 points below the published 68.3 % (its card); 5 points are"
        " allowed. Usual causes: the chat template is applied or missing, the BOS token is missing or doubled, another"
        " number of shots (here 5), another metric or filter (here acc)."
    )


def test_the_later_variants_are_not_quantized(tmp_path: Path) -> None:
    results, use_case = str(tmp_path / "results"), policy("{mmlu: 68.3}")
    RunResults(results).scores("bf16", "full").write(scored(0.5))
    reason = not_as_published(use_case, scored(0.5))
    plan, model, weights = (str(tmp_path / f"{name}.json") for name in ("plan", "model", "weights"))
    given = EvaluationPlan(variants=("bf16", "int8"), store=str(tmp_path / "store"), results=results, limits=use_case)
    assert without_reference("bf16", given) == ""
    assert without_reference("int8", given) == reason
    assert without_reference("int8", given.model_copy(update={"limits": policy("{mmlu: 52}")})) == ""
    given.write(plan)
    Model(source="file:none", digest="d0", uri="nowhere", size_bytes=1).write(model)
    quantize_step.quantize("int8", model, plan, weights)
    assert Weights.read(weights).failure == reason


def test_the_gate_reports_every_variant_as_not_comparable_with_what_to_do() -> None:
    baseline, use_case = scores_of("bf16", {"mmlu": 0.5}), policy("{mmlu: 68.3}")
    reason = not_as_published(use_case, baseline)
    never_made = Scores(variant="int8", suite="guide", stage="full", failure=reason)
    asked = scores_of("int4-g64", {"mmlu": 0.5})
    broken = Scores(variant="int4-g128", suite="guide", stage="full", failure="vLLM ended.")
    weights = [weights_of("bf16"), weights_of("int8", reason), weights_of("int4-g64"), weights_of("int4-g128")]
    decision = decide(MODEL, "guide", use_case, weights, [baseline, never_made, asked, broken])
    assert [row.verdict for row in decision.verdicts] == ["reference", "not_comparable", "not_comparable", "failed"]
    assert decision.verdicts[1].sentence == decision.verdicts[2].sentence == reason
    assert decision.verdicts[1].next_step.startswith("Compare chat template, BOS token, shots")
    assert "Not as published: the baseline scores 50.0 % on mmlu (95 % interval" in decision.verdicts[0].sentence
    assert [(row.required, row.outcome) for row in decision.published] == [(True, APART)]


def test_a_known_model_is_compared_as_a_warning_where_the_protocol_is_the_same() -> None:
    source, use_case = "hf:meta-llama/Meta-Llama-3-8B-Instruct@main", use_case_named("general-chat")
    far = scored(0.5)
    (row,) = comparisons(use_case, far, source)
    assert (row.required, row.outcome) == (False, APART)
    assert row.published == pytest.approx(0.6654)
    assert not_as_published(use_case, far) == ""
    for other in (
        scored(0.5, shots=0),
        scored(0.5, metric="acc_norm"),
        scored(0.5, settings=PromptSettings(chat=True)),
    ):
        assert comparisons(use_case, other, source) == ()
    assert comparisons(use_case, far, "file:Meta-Llama-3-8B-Instruct") == ()
    (named,) = comparisons(policy("{mmlu: 51}"), far, source)
    assert (named.required, named.outcome) == (True, AGREES)
    model = MODEL.model_copy(update={"source": source})
    same = decide(model, "guide", use_case, [weights_of("bf16")], [far])
    assert same.verdicts[0].verdict == "reference"
    assert "Not as published" in same.verdicts[0].sentence


def test_each_shipped_row_has_a_source_and_is_what_a_shipped_suite_asks() -> None:
    rows = {row.task: row for suite in SUITES.values() for row in suite.tasks if suite.name == "openllm"}
    assert known_baseline("hf:META-LLAMA/meta-llama-3-8b") is not None
    for model in known_baselines():
        assert model.source
        for task, known in model.scores.items():
            row = rows[task]
            assert (known.metric, known.shots, known.filter, known.items) == (
                row.metric,
                row.shots,
                row.filter,
                row.full,
            )


def test_report_terminal_and_mlflow_show_the_comparison(tmp_path: Path) -> None:
    baseline, use_case = scores_of("bf16", {"mmlu": 0.5}), policy("{mmlu: {score: 68.3, source: its card}}")
    weights = [weights_of("bf16"), weights_of("int8", not_as_published(use_case, baseline))]
    decision = decide(MODEL, "guide", use_case, weights, [baseline])
    html, markdown = write_report(decision, tmp_path)
    row = ["mmlu, 5-shot, acc", "68.3 %", "50.0 %", "46.9 % to 53.1 %", "−18.3 points", "5.0 points", "✗ too far away"]
    assert Page(html.read_text()).tables["published"][1] == [*row, "its card"]
    assert f"| {' | '.join(row)} | its card |" in markdown.read_text()
    assert "| Task | Published | Baseline |" in markdown.read_text()
    sentence = (
        "The baseline scores 50.0 % on mmlu (95 % interval 46.9 % to 53.1 %), 18.3 points below the published 68.3 %"
    )
    assert f"{sentence} (its card)" in html.read_text()
    console = Console(file=io.StringIO(), width=300)
    console.print(terminal_matrix(decision))
    assert isinstance(console.file, io.StringIO)
    assert "Usual causes: the chat template is applied or missing" in " ".join(console.file.getvalue().split())
    reference, other = variant_rows(decision, FACTS, RunFiles())
    shown = {name: value for name, value in reference.metrics.items() if "published" in name}
    assert shown == {"mmlu.published": pytest.approx(0.683), "mmlu.published_distance": pytest.approx(-0.183)}
    assert "mmlu.published" not in other.metrics
    assert run_row(decision, FACTS, RunFiles()).tags["published_scores"] == "mmlu: apart"
