"""The GPU benchmark without a GPU: every part, on the demo model cut to two layers and vLLM's CPU build."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.carry import rows
from tests.support.benchmark_data import shared_data

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """The tables of a rehearsal: of each its rows, by column."""
    folder = tmp_path_factory.mktemp("gpu")
    rows(shared_data(), folder / "data", items=4)
    command = [sys.executable, "-m", "benchmarks.gpu.run", "--rehearse", "--seconds", "900"]
    command += ["--out", str(folder / "out"), "--data", str(folder / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows_by_table = {}
    for file in (folder / "out").glob("*.json"):
        table = json.loads(file.read_text(encoding="utf-8"))
        rows_by_table[file.stem] = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        assert table["title"] in done.stdout, "the report at the end has every table"
    return rows_by_table


def test_the_quantized_checkpoint_is_checked(tables: dict[str, list[dict[str, str]]]) -> None:
    assert [(row["variant"], row["checkpoint"]) for row in tables["quantize"]] == [("int4-g64", "14 layers")]


def test_served_variants_answer_as_transformers_does(tables: dict[str, list[dict[str, str]]]) -> None:
    served = {row["variant"]: row for row in tables["serve"]}
    for variant in ("bf16", "int4-g64"):
        assert served[variant]["outcome"] == "within 0.1 a token"
        assert served[variant]["ways to score (largest difference a token)"].count("0.0") == 4, "all ways, and equal"
    assert served["fp8-dynamic"]["outcome"] == "needs a GPU"


def test_both_clients_give_the_same_scores(tables: dict[str, list[dict[str, str]]]) -> None:
    scores = {(row["task"], row["client"]): row["scores"] for row in tables["score"]}
    for task in ("hellaswag", "gsm8k"):
        assert scores[task, "quantgate"] == scores[task, "local-completions"] != "–"
    assert scores["–", "lm-eval's vllm"] == "lm-eval is not in vLLM's environment"


def test_tokens_are_written_at_each_concurrency(tables: dict[str, list[dict[str, str]]]) -> None:
    written = {(row["variant"], row["requests at a time"]): float(row["output tokens/s"]) for row in tables["speed"]}
    assert list(written) == [("int4-g64", "1"), ("int4-g64", "8")]
    assert min(written.values()) > 0
