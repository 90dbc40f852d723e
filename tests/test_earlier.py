"""What MLflow holds already is taken from there, and what another model or other questions brought is not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from mlflow.tracking import MlflowClient

from quantgate.components.deploy import earlier_scores
from quantgate.components.deploy import step as deploy_step
from quantgate.components.evaluate import step as evaluate_step
from quantgate.components.evidence.decision import decide
from quantgate.components.execute import step as execute_step
from quantgate.components.gate import step as gate_step
from quantgate.components.policies.policy import chosen, use_case_named
from quantgate.components.quantize import step as quantize_step
from quantgate.components.report import step as report_step
from quantgate.components.resolve import earlier_verdict
from quantgate.components.run import progress
from quantgate.components.run.artifacts import Model, Scores, Server, Weights
from quantgate.components.run.calibration import Calibration
from quantgate.components.run.checkpoint import Checkpoint
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.run.server_identity import ServerIdentity
from quantgate.components.run.verdicts import Decision
from quantgate.components.track import step as track_step
from quantgate.components.track.mlflow_writer import track
from quantgate.components.tracking.earlier import find_baseline_scores, find_decision, verdict_key
from quantgate.components.tracking.facts import RunFacts, RunFiles, user_here
from quantgate.components.tracking.tags import experiment_name
from quantgate.components.tracking.tracked_run import TrackedRun
from tests.support.answered import answers_of, candidate_of, pair_of, write_results
from tests.support.decided import digested
from tests.support.mlflow_store import empty_store, local

__all__ = ["empty_store", "local"]

pytestmark = pytest.mark.slow

LIMITS = use_case_named("general-chat")
MODEL = Model(source="file:guide", digest="d0", uri="models/d0", size_bytes=100)
SERVER = ServerIdentity(weights="d0", package="vllm", version="1.0")


def plan_of(folder: Path, **changes: Any) -> EvaluationPlan:
    known = {"variants": ("bf16", "int8"), "suite": "demo", "use_case": "general-chat", "asked": "these questions"}
    plan = EvaluationPlan(**(known | {"store": str(folder / "store"), "results": str(folder / "results")} | changes))
    limits = chosen(plan.use_case, plan.policy)
    return plan.model_copy(update={"limits": limits, "experiment": experiment_name(MODEL.source, limits.name)})


def decided(folder: Path, plan: EvaluationPlan, failed: bool = False, **changes: Any) -> Decision:
    """A baseline and a variant, whose records lie in the folder."""
    before, after = pair_of(lost=3, gained=2, right=600, wrong=395)
    candidates = [
        candidate_of("bf16", {"arc": answers_of("arc", before)}),
        candidate_of("int8", {"arc": answers_of("arc", after)}),
    ]
    weights, scores = [], []
    for candidate in candidates:
        written = write_results(folder / candidate.name, candidate)
        weights.append(candidate.weights.model_copy(update={"digest": "d0" if candidate.name == "bf16" else "d8"}))
        recorded = {"identity": SERVER, "records": str(written / "full.parquet"), "duration_s": 60.0}
        scores.append(candidate.scores.model_copy(update=recorded))
    if failed:
        scores[1] = Scores(variant="int8", suite="drawn", stage="full", failure="The server died.")
    answers = {candidate.name: dict(candidate.answers) for candidate in candidates[: 1 if failed else 2]}
    answer = decide(MODEL, "drawn", LIMITS, weights, scores, answers)
    return digested(answer.model_copy(update={"plan": plan, **changes}))


@pytest.fixture
def earlier(tmp_path: Path, local: str) -> Callable[..., TrackedRun]:
    """Tracks a run of that plan."""

    def one(run_id: str = "run-1", failed: bool = False, **changes: Any) -> TrackedRun:
        plan = plan_of(tmp_path, **changes)
        facts = RunFacts(run_id=run_id, name=run_id, judged_by=verdict_key(plan))
        return track(decided(tmp_path / run_id, plan, failed), facts, RunFiles(), local)

    return one


def test_scores_of_the_same_baseline_are_found_with_their_records(
    tmp_path: Path, local: str, earlier: Callable[..., TrackedRun]
) -> None:
    tracked = earlier()
    scores = find_baseline_scores(weights(), plan_of(tmp_path), SERVER, local, tmp_path)
    assert scores is not None
    assert scores.by_task() == {"arc": 0.603}
    assert scores.scored_in == f"run-1, recorded by {user_here()}, {tracked.link}"
    assert (tmp_path / "full.parquet").read_bytes() == (tmp_path / "run-1" / "bf16" / "full.parquet").read_bytes()


def weights(digest: str = "d0", variant: str = "bf16") -> Weights:
    return Weights(variant=variant, baseline_digest="d0", digest=digest)


@pytest.mark.parametrize(
    ("base", "questions", "server"),
    [
        (weights("d1"), "these questions", SERVER),
        (weights(), "other questions", SERVER),
        (weights(), "these questions", SERVER.model_copy(update={"version": "2.0"})),
        (weights("d0", variant="int8"), "these questions", SERVER),
    ],
    ids=["another model", "other questions", "another engine", "no baseline"],
)
def test_scores_with_other_inputs_are_not_reused(
    base: Weights,
    questions: str,
    server: ServerIdentity,
    tmp_path: Path,
    local: str,
    earlier: Callable[..., TrackedRun],
) -> None:
    earlier()
    assert find_baseline_scores(base, plan_of(tmp_path, asked=questions), server, local, tmp_path) is None


def test_scores_without_the_requested_second_pass_are_not_reused(
    tmp_path: Path, local: str, earlier: Callable[..., TrackedRun]
) -> None:
    earlier()
    assert find_baseline_scores(weights(), plan_of(tmp_path, noise_floor=True), SERVER, local, tmp_path) is None


@pytest.mark.parametrize("damage", ["other answers", "two answers swapped", "half a file", "no file"])
def test_scores_and_verdicts_with_other_records_than_the_scored_ones_are_not_reused(
    damage: str, tmp_path: Path, local: str, earlier: Callable[..., TrackedRun]
) -> None:
    earlier()
    kept = next(file for file in (tmp_path / "my results").rglob("artifacts/full.parquet") if is_baselines(file))
    if damage == "other answers":
        shutil.copy(tmp_path / "run-1" / "int8" / "full.parquet", kept)
    elif damage == "two answers swapped":
        table = pyarrow.parquet.read_table(kept)
        scores = table["score"].to_pylist()
        right, wrong = scores.index(1.0), scores.index(0.0)
        scores[right], scores[wrong] = 0.0, 1.0
        pyarrow.parquet.write_table(table.set_column(table.column_names.index("score"), "score", [scores]), kept)
    elif damage == "half a file":
        kept.write_bytes(kept.read_bytes()[:200])
    else:
        kept.unlink()
        (tmp_path / "run-1" / "bf16" / "full.parquet").unlink()
    assert find_baseline_scores(weights(), plan_of(tmp_path), SERVER, local, tmp_path) is None
    assert find_decision(MODEL, plan_of(tmp_path), local) is None


def is_baselines(records: Path) -> bool:
    return Scores.read(records.with_name("scores.json")).variant == "bf16"


def test_scores_reused_twice_name_the_run_that_measured_them(
    tmp_path: Path, local: str, earlier: Callable[..., TrackedRun]
) -> None:
    earlier()
    scores = find_baseline_scores(weights(), plan_of(tmp_path), SERVER, local, tmp_path)
    assert scores is not None
    decision = decided(tmp_path / "second", plan_of(tmp_path))
    handed = scores.model_copy(update={"records": decision.scores[0].records})
    decision = digested(decision.model_copy(update={"scores": (handed, decision.scores[1])}))
    tracked = track(decision, RunFacts(run_id="run-2", name="second"), RunFiles(), local)
    kept = MlflowClient(local).get_run(tracked.children["bf16"]).data
    assert "evaluate_s" not in kept.metrics, "nothing was asked in that run"
    assert kept.tags["scored_in"] == scores.scored_in
    again = find_baseline_scores(weights(), plan_of(tmp_path), SERVER, local, tmp_path)
    assert again is not None
    assert again.scored_in == scores.scored_in


def test_the_baselines_server_is_not_started_if_its_scores_are_reused(
    tmp_path: Path, local: str, earlier: Callable[..., TrackedRun]
) -> None:
    earlier()
    plan = plan_of(tmp_path, tracking_uri=local)
    held = earlier_scores.scored_before(weights(), plan, SERVER)
    assert held is not None
    assert held.pid == 0
    places = {name: str(tmp_path / f"{name}.json") for name in ("server", "plan", "tiny", "full", "executed")}
    held.write(places["server"])
    plan.write(places["plan"])
    evaluate_step.evaluate_tiny(places["server"], places["plan"], places["tiny"], "")
    evaluate_step.evaluate_full(places["server"], places["tiny"], places["plan"], places["full"], "")
    execute_step.execute(places["full"], places["plan"], places["executed"])
    events, _ = progress.read(RunResults(plan.results).progress, 0)
    assert [f"scored before in {held.scored_in}" in event.note for event in events if event.state == "skipped"] == [
        True
    ] * 2
    executed = Scores.read(places["executed"])
    assert (executed.by_task(), executed.scored_in) == ({"arc": 0.603}, held.scored_in)
    assert Path(executed.records) == tmp_path / "results" / "variants" / "bf16" / "full.parquet"


@pytest.mark.parametrize(
    ("changes", "at"),
    [({"ledger": False}, "local"), ({"speed": "quick"}, "local"), ({}, ""), ({}, "http://127.0.0.1:9")],
    ids=["no reuse wished", "its server is load-tested", "no MLflow", "MLflow does not answer"],
)
def test_the_baseline_is_evaluated_if_its_scores_are_unavailable(
    changes: dict[str, Any], at: str, tmp_path: Path, local: str, earlier: Callable[..., TrackedRun]
) -> None:
    earlier()
    uri = local if at == "local" else at
    plan = plan_of(tmp_path, tracking_uri=uri, **changes)
    assert earlier_scores.scored_before(weights(), plan, SERVER) is None


def test_the_verdict_on_the_same_model_by_the_same_plan_is_copied(
    tmp_path: Path, local: str, earlier: Callable[..., TrackedRun]
) -> None:
    tracked = earlier()
    plan = earlier_verdict.with_earlier_verdict(MODEL, plan_of(tmp_path), local)
    used = plan.judged_in
    assert used == f"run-1, recorded by {user_here()}, {tracked.link}"
    plan.write(tmp_path / "plan.json")
    MODEL.write(tmp_path / "model.json")
    quantize_step.quantize(
        "bf16", str(tmp_path / "model.json"), str(tmp_path / "plan.json"), str(tmp_path / "weights.json")
    )
    assert Weights.read(tmp_path / "weights.json").failure == f"Judged before in {used}."
    deploy_step.deploy(str(tmp_path / "weights.json"), str(tmp_path / "plan.json"), str(tmp_path / "server.json"))
    assert Server.read(tmp_path / "server.json").pid == 0
    decision, at = str(tmp_path / "decision.json"), str(tmp_path / "tracked.json")
    gate_step.gate("", str(tmp_path / "plan.json"), [], [], decision)
    html, markdown = str(tmp_path / "report.html"), str(tmp_path / "report.md")
    report_step.report(decision, plan.results, html, markdown)
    track_step.track(decision, "run-2", plan.results, local, html, markdown, at)
    assert TrackedRun.read(at) == tracked
    answer = Decision.read(decision)
    assert [row.verdict for row in answer.verdicts] == ["reference", "monitor"]
    assert answer.judged_in == used
    for page in (html, markdown):
        assert f"Nothing was run: this model was judged before by the same plan, in {used}" in (
            Path(page).read_text(encoding="utf-8")
        )
    client = MlflowClient(local)
    assert len(client.search_runs([tracked.experiment_id])) == 3, "a run that ran nothing is no run in MLflow"


def test_a_verdict_by_a_custom_policy_is_found(tmp_path: Path, local: str) -> None:
    policy = "name: Bob's\nmax_average_drop: 1 %\n"
    plan, limits = plan_of(tmp_path, policy=policy), chosen("general-chat", policy)
    decision = decided(tmp_path / "run-1", plan, limits=limits, policy_text=policy)
    facts = RunFacts(run_id="run-1", name="run-1", judged_by=verdict_key(plan))
    tracked = track(decision, facts, RunFiles(), local)
    assert earlier_verdict.with_earlier_verdict(MODEL, plan, local).judged_in.endswith(tracked.link)


@pytest.mark.parametrize(
    "changes",
    [
        {"asked": "other questions"},
        {"variants": ("bf16", "int4-g64")},
        {"calibration_samples": 64},
        {"quantize_gpus": 2},
        {"variant_recipe": ("int8=another recipe",)},
        {
            "variant_kept": {
                "int8": Checkpoint(source="s", digest="d", uri="u", size_bytes=1, scheme="W4A16", method="awq")
            }
        },
        {"calibration_set": Calibration(samples=32, tokens=256, sha256="others")},
        {"noise_floor": True},
        {"use_case": "code"},
        {"policy": "name: mine\nmax_average_drop: 1 %\n"},
    ],
    ids=str,
)
def test_a_verdict_by_another_plan_is_not_copied(
    changes: dict[str, Any], tmp_path: Path, local: str, earlier: Callable[..., TrackedRun]
) -> None:
    earlier()
    plan = plan_of(tmp_path, **changes)
    assert earlier_verdict.with_earlier_verdict(MODEL, plan, local) == plan


def test_a_failed_variant_another_model_and_a_damaged_decision_are_not_verdicts(
    tmp_path: Path, local: str, earlier: Callable[..., TrackedRun]
) -> None:
    earlier(failed=True)
    assert find_decision(MODEL, plan_of(tmp_path), local) is None
    tracked = earlier("run-2")
    assert find_decision(MODEL.model_copy(update={"digest": "d1"}), plan_of(tmp_path), local) is None
    decided = find_decision(MODEL, plan_of(tmp_path), local)
    assert decided is not None
    assert decided[1] == tracked
    assert decided[0].judged_in.endswith(tracked.link)
    for kept in (tmp_path / "my results").rglob("artifacts/decision.json"):
        kept.write_text("{", encoding="utf-8")
    assert find_decision(MODEL, plan_of(tmp_path), local) is None
