"""Without the baseline's scores no variant can be judged: the later variants end before anything expensive."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quantgate.components.deploy import step as deploy_step
from quantgate.components.evaluate import step as evaluate_step
from quantgate.components.evidence.reference import not_judged, without_reference
from quantgate.components.quantize import step as quantize_step
from quantgate.components.run import progress
from quantgate.components.run.artifacts import Model, Scores, Server, Weights
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults

REASON = not_judged("vLLM ended (exit status 1) before it was ready.")


@pytest.fixture
def results(tmp_path: Path) -> str:
    """The results of a run whose baseline was not served."""
    folder = str(tmp_path / "results")
    failure = "vLLM ended (exit status 1) before it was ready."
    RunResults(folder).scores("bf16", "full").write(Scores(variant="bf16", suite="demo", stage="full", failure=failure))
    return folder


@pytest.fixture
def plan(tmp_path: Path, results: str) -> str:
    """The plan of the run."""
    file = tmp_path / "plan.json"
    EvaluationPlan(variants=("bf16", "int8"), store=str(tmp_path / "store"), results=results).write(file)
    return str(file)


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[[str], str]:
    """A function that names a step's artifact."""
    return lambda name: str(tmp_path / f"{name}.json")


def test_a_variant_without_a_baseline_is_not_quantized(plan: str, results: str, artifact: Callable[[str], str]) -> None:
    Model(source="file:none", digest="d0", uri="nowhere", size_bytes=1).write(artifact("model"))
    quantize_step.quantize("int8", artifact("model"), plan, artifact("weights"))
    assert Weights.read(artifact("weights")).failure == REASON
    events, _ = progress.read(RunResults(results).progress)
    assert [(event.step, event.state) for event in events] == [("quantize", "running"), ("quantize", "skipped")]


def test_a_variant_that_was_quantized_at_the_same_time_is_neither_served_nor_evaluated(
    plan: str, artifact: Callable[[str], str]
) -> None:
    Weights(variant="int8", baseline_digest="d0", digest="d8", uri="nowhere").write(artifact("weights"))
    deploy_step.deploy(artifact("weights"), plan, artifact("server"))
    assert Server.read(artifact("server")).failure == REASON
    Server(variant="int8", url="http://127.0.0.1:1/v1", served_name="int8").write(artifact("server"))
    evaluate_step.evaluate_tiny(artifact("server"), plan, artifact("tiny"), artifact("records"))
    assert Scores.read(artifact("tiny")).failure == REASON
    Scores(variant="int8", suite="demo", stage="tiny").write(artifact("tiny"))
    evaluate_step.evaluate_full(artifact("server"), artifact("tiny"), plan, artifact("full"), artifact("records"))
    full = Scores.read(artifact("full"))
    assert (full.stage, full.tasks, full.records, full.failure) == ("full", (), "", REASON)


def test_the_baseline_itself_and_a_variant_whose_baseline_has_scores_go_on(
    plan: str, results: str, tmp_path: Path
) -> None:
    planned = EvaluationPlan.read(plan)
    unfinished = planned.model_copy(update={"results": str(tmp_path / "not finished yet")})
    assert without_reference("bf16", planned) == ""
    assert without_reference("int8", planned) == REASON
    assert without_reference("int8", unfinished) == ""
    RunResults(results).scores("bf16", "full").write(Scores(variant="bf16", suite="demo", stage="full"))
    assert without_reference("int8", planned) == ""
