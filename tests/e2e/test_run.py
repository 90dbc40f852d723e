"""The pipeline with llm-compressor, vLLM, lm-eval, MLflow and real questions. Nothing here is a fake."""

import json
from pathlib import Path

import pytest
from nbformat import NotebookNode

from quantgate.components.benchmarks.embedded import embedded
from quantgate.components.run import records
from quantgate.components.run.artifacts import Scores, Weights
from quantgate.components.servers.local_vllm import serving_python
from tests.e2e.started import processes_of

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not serving_python().exists(), reason="vLLM's environment is missing: `make environments`"),
]
VARIANTS = ["bf16", "int8", "int4-g128", "int4-g64"]
TASKS = {"arc_easy": 0.25, "hellaswag": 0.25, "piqa": 0.5}


def test_it_ends_in_a_decision_matrix_of_four_rows(demo: Path) -> None:
    rows = json.loads((demo / "verdicts.json").read_text())
    assert [row["variant"] for row in rows] == VARIANTS
    assert rows[0]["verdict"] == "reference"
    assert all(row["verdict"] in ("ship", "monitor", "ab_test", "inconclusive", "reject") for row in rows[1:])
    assert all(row["form"] == "evidence" and row["limits"] for row in rows[1:])
    assert all(row["scores"].keys() == TASKS.keys() and row["sentence"] for row in rows)
    assert all(isinstance(row["average_drop"], float) for row in rows[1:])
    sizes = {row["variant"]: row["size_bytes"] / rows[0]["size_bytes"] for row in rows}
    assert 0.5 < sizes["int8"] < 0.65
    assert 0.35 < sizes["int4-g128"] <= sizes["int4-g64"] < 0.5


def test_the_baseline_is_above_chance(demo: Path) -> None:
    baseline = json.loads((demo / "verdicts.json").read_text())[0]
    assert sum(baseline["scores"].values()) > sum(TASKS.values()) + 0.2


def test_llm_compressor_wrote_the_checkpoints(demo: Path) -> None:
    weights = {variant: Weights.read(demo / "variants" / variant / "weights.json") for variant in VARIANTS}
    formats = {}
    for variant in VARIANTS[1:]:
        config = json.loads((Path(weights[variant].uri) / "config.json").read_text())
        assert config["quantization_config"]["quant_method"] == "compressed-tensors"
        formats[variant] = config["quantization_config"]["format"]
    assert formats == {"int8": "int-quantized", "int4-g128": "pack-quantized", "int4-g64": "pack-quantized"}
    assert weights["int4-g128"].layout == "g128 on 30 of 210 layers, g64 on 180: width 576 is not a multiple of 128"
    assert len({checkpoint.digest for checkpoint in weights.values()}) == 4


def test_the_int4_answers_match_the_weights(demo: Path) -> None:
    """Some CPUs have no kernel of vLLM's for 4 bits: what stands in for it is held against transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Weights.read(demo / "variants" / "int4-g64" / "weights.json").uri
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = records.read(demo / "variants" / "int4-g64" / "tiny.parquet")
    piqa = [record for record in answers if record.task == "piqa"]
    assert piqa
    for record in piqa:
        row = embedded("piqa").dataset()[record.item_id]
        context = f"Question: {row['goal']}\nAnswer:"
        for choice, answered in zip((row["sol1"], row["sol2"]), record.logliks, strict=True):
            whole = tokenizer(f"{context} {choice}", return_tensors="pt").input_ids
            start = len(tokenizer(context).input_ids)
            with torch.no_grad():
                logprobs = model(whole).logits[0, :-1].float().log_softmax(-1)
            expected = logprobs.gather(1, whole[0, 1:, None])[start - 1 :].sum().item()
            assert answered == pytest.approx(expected, rel=0.02, abs=0.3)


def test_every_variant_answered_the_same_questions(demo: Path) -> None:
    baseline = records.read(demo / "variants" / "bf16" / "full.parquet")
    assert len(baseline) == 44
    for variant in VARIANTS[1:]:
        stage = Scores.read(demo / "variants" / variant / "full.json").stage  # tiny, were it stopped there
        answers = records.read(demo / "variants" / variant / f"{stage}.parquet")
        hashes = {(record.task, record.item_id): (record.item_hash, record.prompt_hash) for record in answers}
        same = [record for record in baseline if (record.task, record.item_id) in hashes]
        assert [(record.item_hash, record.prompt_hash) for record in same] == list(hashes.values())
        assert len(same) in (11, 22, 44), "the looks"
        assert [record.logliks for record in answers] != [record.logliks for record in same]
        assert not any(record.truncated for record in answers)


def test_the_folder_contains_the_report_and_the_files_for_scripts(demo: Path) -> None:
    for name in ("report.html", "report.md", "verdicts.json", "run.json", "mlflow/mlflow.db", "logs/pipeline.log"):
        assert (demo / name).is_file(), name
    for variant in VARIANTS:
        assert (demo / "logs" / f"vllm-{variant}.log").is_file()
        for stage in ("tiny", "full"):
            assert json.loads((demo / "variants" / variant / f"{stage}.json").read_text())["failure"] == ""
    assert json.loads((demo / "run.json").read_text())["state"] == "finished"
    page = (demo / "report.html").read_text()
    assert all(variant in page for variant in VARIANTS)


def test_it_prints_the_location_of_the_results(demo: Path) -> None:
    output = demo.with_suffix(".txt").read_text()
    assert f"Report   {demo / 'report.html'}" in output
    assert "mlflow ui" in output


def test_mlflow_has_a_parent_run_with_four_children(demo: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{demo / 'mlflow' / 'mlflow.db'}")
    experiment = next(experiment for experiment in client.search_experiments() if experiment.name != "Default")
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if run not in children]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    rows = {row["variant"]: row for row in json.loads((demo / "verdicts.json").read_text())}
    assert {child.data.params["variant"]: child.data.tags["verdict"] for child in children} == {
        variant: row["verdict"] for variant, row in rows.items()
    }
    for child in children:
        assert child.data.metrics["piqa.score"] == rows[child.data.params["variant"]]["scores"]["piqa"]


def test_the_full_stage_skips_the_tiny_items_and_a_second_run_sends_no_request(
    demo: Path, second: "tuple[Path, NotebookNode]"
) -> None:
    def scores(run: Path, stage: str) -> Scores:
        return Scores.read(run / "variants" / "int8" / f"{stage}.json")

    tiny, full = scores(demo, "tiny"), scores(demo, "full")
    choices = sum(len(record.logliks) for record in records.read(demo / "variants/int8/full.parquet"))
    assert (tiny.reused, full.reused, tiny.requests + full.requests) == (0, 0, choices)
    for variant in ("bf16", "int8"):
        name = f"variants/{variant}/full.parquet"
        assert records.read(second[0] / name) == records.read(demo / name)
    again = scores(second[0], "full")
    assert (again.requests, again.reused) == (full.requests, full.requests)
    assert again.by_task() == full.by_task()


def test_no_process_is_left(demo: Path) -> None:
    assert processes_of(demo) == []
