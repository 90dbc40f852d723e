"""Runs under kfp's local runner whose weights are in S3 and whose results are in MLflow. Only vLLM is a fake."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_run import quantgate, verdicts
from tests.support.seaweed import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def known(
    tiny_model: Path, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[tuple[Path, tuple[str, ...]]]":
    """The folder of a run that is recorded in an external MLflow store, with weights in S3; and the run's options."""
    folder = tmp_path_factory.mktemp("known")
    options: tuple[str, ...] = (
        "--suite",
        "quick",
        "--custom",
        "canopy",
        "--limit",
        "8",
        "--variants",
        "int8",
        "--no-check-power",
    )
    options += ("--quiet", "--store", f"s3://{s3_server.bucket}/known")
    options += ("--tracking-uri", f"sqlite:///{folder}/mlflow/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        answer = quantgate(folder / "first", tiny_model, *options)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        yield folder, options


def test_weights_can_be_stored_in_s3_and_a_custom_task_is_judged(
    known: "tuple[Path, tuple[str, ...]]", s3_server: S3Server
) -> None:
    out = known[0] / "first"
    row = verdicts(out)["int8"]
    assert (row["verdict"], row["average_drop"]) == ("inconclusive", 0.0)
    assert [(task["task"], task["items"]) for task in row["tasks"]] == [
        ("arc_easy", 8),
        ("hellaswag", 8),
        ("piqa", 8),
        ("canopy", 8),
    ]
    weights = json.loads((out / "variants" / "int8" / "weights.json").read_text())
    assert weights["uri"] == f"s3://{s3_server.bucket}/known/models/{weights['digest']}"
    assert not (out / "store").exists()
    report = (out / "report.md").read_text()
    assert "--suite quick --use-case general-chat --variants int8 --custom canopy --limit 8" in report
    assert "own set canopy, sha256" in report


def test_a_baseline_with_scores_in_mlflow_is_neither_started_nor_evaluated(
    known: "tuple[Path, tuple[str, ...]]", tiny_model: Path
) -> None:
    folder, options = known
    dies = {"VLLM_FAKE": "dies", "VLLM_FAKE_ONLY": "quantgate-bf16"}
    answer = quantgate(folder / "second", tiny_model, *options, **dies)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    first, second = verdicts(folder / "first"), verdicts(folder / "second")
    assert second == first
    used = r"bf16 was not evaluated again: its scores come from .*, recorded by .*, run [0-9a-f]{32} of sqlite:"
    assert re.search(used, (folder / "second" / "report.md").read_text())


def test_a_baseline_that_cannot_be_served_is_scored_by_the_ledgers_answers(
    known: "tuple[Path, tuple[str, ...]]", tiny_model: Path
) -> None:
    folder, options = known
    settings = {"VLLM_FAKE": "dies", "VLLM_FAKE_ONLY": "quantgate-bf16"}
    settings["QUANTGATE_LEDGER"] = str((folder / "first").with_suffix(".sqlite"))
    elsewhere = ("--tracking-uri", f"sqlite:///{folder}/other.db")
    answer = quantgate(folder / "fourth", tiny_model, *options, *elsewhere, **settings)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert verdicts(folder / "fourth") == verdicts(folder / "first")


def test_with_skip_judged_a_model_with_a_verdict_in_mlflow_is_not_judged_again(
    known: "tuple[Path, tuple[str, ...]]", tiny_model: Path
) -> None:
    folder, options = known
    answer = quantgate(folder / "third", tiny_model, *options, "--skip-judged", VLLM_FAKE="dies")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "Nothing was run: this model was judged before by the same plan" in answer.stdout
    assert verdicts(folder / "third") == verdicts(folder / "first")
    assert "Registry" not in answer.stdout
    assert not (folder / "third" / "variants" / "int8").exists()
