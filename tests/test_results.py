"""The paths of a run's files, and the copies of its inputs."""

import shutil
from pathlib import Path

import pytest

from quantgate.components.benchmarks.custom import ITEMS_FILE, SETS
from quantgate.components.benchmarks.selection import suite_of
from quantgate.components.errors import PrerequisiteError
from quantgate.components.resolve.input_copies import copy_inputs
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import FULL, RunResults, VariantResults, run_location

WEIGHTS = Weights(variant="int8", baseline_digest="1" * 64, digest="2" * 64)


def test_a_written_file_is_read_back_and_is_in_its_variants_folder(tmp_path: Path) -> None:
    file = RunResults(str(tmp_path)).weights("int8")
    assert file.read(Weights) is None
    file.write(WEIGHTS)
    assert file.read(Weights) == WEIGHTS
    assert file.path == tmp_path / "variants" / "int8" / "weights.json"


def test_a_copied_folder_of_a_variant_is_read_by_the_same_names(tmp_path: Path) -> None:
    RunResults(str(tmp_path / "run")).weights("int8").write(WEIGHTS)
    shutil.copytree(tmp_path / "run" / "variants" / "int8", tmp_path / "copy")
    assert VariantResults(str(tmp_path / "copy")).weights.read(Weights) == WEIGHTS


def test_each_run_has_its_own_prefix_in_a_bucket_and_no_local_file() -> None:
    results = RunResults(run_location("s3://bucket/results/", "run-1"))
    assert str(results.scores("int8", FULL)) == "s3://bucket/results/run-1/variants/int8/full.json"
    assert not results.is_local
    with pytest.raises(ValueError, match=r"decision\.json is not on this machine"):
        results.decision.path  # noqa: B018


def test_a_missing_file_is_reported_with_what_to_do(tmp_path: Path) -> None:
    file = RunResults(str(tmp_path)).records("int8", FULL)
    with pytest.raises(PrerequisiteError, match=r"int8/full\.parquet is missing from .*: evaluate int8 again\."):
        file.fetched(tmp_path, "evaluate int8 again")


def test_a_new_run_in_a_folder_keeps_weights_and_mlflow_but_no_outcome(tmp_path: Path) -> None:
    results = RunResults(str(tmp_path))
    for file in (results.store / "weights", results.mlflow / "mlflow.db"):
        file.parent.mkdir()
        file.touch()
    for outcome in (results.decision, results.report, results.plot("size.svg"), results.weights("int8")):
        outcome.put_text("{}")
    results.clear()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["mlflow.db", "weights"]


def test_the_inputs_of_resolve_are_copied_once_and_later_changes_are_ignored(tmp_path: Path) -> None:
    shutil.copytree(SETS / "canopy", tmp_path / "mine")
    (tmp_path / "parameters.pkl").write_bytes(b"parameters")
    plan = EvaluationPlan(
        variants=("bf16",),
        suite="demo",
        custom=(str(tmp_path / "mine"),),
        irt_parameters=str(tmp_path / "parameters.pkl"),
        store=str(tmp_path / "store"),
        results=str(tmp_path / "run"),
    )
    before = suite_of(plan)
    copied = copy_inputs(plan)
    (tmp_path / "mine" / ITEMS_FILE).write_text("changed", encoding="utf-8")
    (tmp_path / "parameters.pkl").unlink()
    assert [task.full for task in suite_of(copied).tasks] == [task.full for task in before.tasks]
    assert Path(copied.irt_parameters_kept).read_bytes() == b"parameters"
    assert (copied.custom, copied.irt_parameters) == (plan.custom, plan.irt_parameters), (
        "the reader sees the original locations"
    )
    with pytest.raises(PrerequisiteError):
        suite_of(plan)
