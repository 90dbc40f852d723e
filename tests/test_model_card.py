"""A variant's model card, and its scores as Hugging Face's own library reads them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from quantgate.components.benchmarks.suites import SUITES
from quantgate.components.errors import PrerequisiteError
from quantgate.components.report.hub_results import BENCHMARKS, hub_results, parsed_benchmark
from quantgate.components.report.model_card import card_files, recoveries
from quantgate.components.report.story import stories
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision
from tests.support.command import quantgate
from tests.support.decided import digested, make_decision
from tests.test_report import decision_by_evidence, markdown_cells

AT = datetime(2026, 11, 27, tzinfo=UTC)


def answered(task: str, items: int, **changes: object) -> Decision:
    """The decision by evidence, whose task has another name and number of questions; int8 is not stopped early."""
    decision = decision_by_evidence()
    scores = tuple(
        row.model_copy(
            update={
                "look": 5,
                "looks": 5,
                "engine": "vllm 0.32.0",
                "tasks": (row.tasks[0].model_copy(update={"task": task, "items": items, "stderr": 0.011}),),
                **changes,
            }
        )
        for row in decision.scores
    )
    return decision.model_copy(update={"scores": scores})


def test_the_card_says_what_is_kept_with_bounds_protocol_and_digests(tmp_path: Path) -> None:
    decision = make_decision(tmp_path)
    decision = digested(
        decision.model_copy(update={"model": decision.model.model_copy(update={"source": "hf:org/model@main"})})
    )
    card = ModelCard(card_files(decision, "int8", AT)["README.md"])
    metadata = yaml.safe_load(str(card.data))
    assert (metadata["base_model"], metadata["base_model_relation"]) == ("org/model", "quantized")
    assert "W4A16" in metadata["tags"]
    assert markdown_cells(card.text, "hellaswag")[1:6] == ["0.400", "0.390", "97.5 %", "2.5 %", "—"]
    assert "✓ **ship** for the use case `general-chat`: int8 is as it is." in card.text
    assert decision.digests is not None
    for digest in ("digest of int8", "base", decision.digests.combined):
        assert f"`{digest}`" in card.text
    assert "The drops are measured without confidence bounds." in card.text
    assert "lm-evaluation-harness" in card.text


def test_the_card_of_a_gguf_file_names_its_own_engine(tmp_path: Path) -> None:
    decision = digested(make_decision(tmp_path))
    weights = tuple(
        row.model_copy(update={"algorithm": "gguf"}) if row.variant == "int8" else row for row in decision.weights
    )
    scores = tuple(
        row.model_copy(update={"engine": "llama.cpp b1" if row.variant == "int8" else "vllm 0.32.0"})
        for row in decision.scores
    )
    decision = decision.model_copy(update={"weights": weights, "scores": scores})
    card = ModelCard(card_files(decision, "int8", AT)["README.md"])
    assert sorted(decision.engine.split("; ")) == ["llama.cpp b1", "vllm 0.32.0"]
    (own,) = [story for story in stories(decision) if story.row.variant == "int8"]
    assert ("Served by", "llama.cpp") in own.build
    assert {"llama.cpp", "gguf"} <= set(yaml.safe_load(str(card.data))["tags"])
    assert "- Engine: llama.cpp b1\n" in card.text


def test_the_recovery_compares_the_same_questions_of_a_variant_that_stopped_early() -> None:
    """int8 answered 2,000 of 10,000 questions, which are harder for both: its drop says how it compares on those."""
    decision = decision_by_evidence()
    whole, kept = decision.verdicts[0].scores["mmlu"], decision.verdicts[1].scores["mmlu"]
    task, average = recoveries(decision, decision.verdicts[1])
    drop = decision.verdicts[1].drops["mmlu"]
    assert kept / whole < 0.95, "not what it keeps"
    assert task.recovered == pytest.approx(1 - drop)
    assert (task.lower, task.upper) == (
        decision.verdicts[1].tasks[0].drop_lower,
        decision.verdicts[1].tasks[0].drop_upper,
    )
    assert average.lower == decision.verdicts[1].limits[0].lower
    assert markdown_cells(card_files(decision, "int8", AT)["README.md"], "mmlu")[3] == "100.3 %"


def test_no_rounding_moves_a_recovery_across_a_limit(tmp_path: Path) -> None:
    decision = make_decision(tmp_path)
    limits = decision.limits.model_copy(update={"max_drop": {"hellaswag": 0.02}})
    row = decision.verdicts[1].model_copy(update={"drops": {"hellaswag": 0.0204, "piqa": 0.0}})
    decision = decision.model_copy(update={"limits": limits, "verdicts": (decision.verdicts[0], row)})
    assert markdown_cells(card_files(decision, "int8")["README.md"], "hellaswag")[3] == "97.96 %"


def test_the_hubs_library_reads_the_scores() -> None:
    files = card_files(answered("gsm8k", 1319), "int4-g64", AT, "https://example.com/report")
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/gsm8k.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 75.9)
    assert (entry.date, entry.source_url) == ("2026-11-27", "https://example.com/report")
    assert entry.notes == (
        "0-shot, acc, 1,319 questions, standard error 1.10, lm-evaluation-harness gsm8k 1, vllm 0.32.0"
    )


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        (answered("gsm8k", 1318), "gsm8k: 1,318 questions are a part of the benchmark (1,319)"),
        (answered("gsm8k", 1319, look=1), "gsm8k: it was stopped early, after 1,319 questions"),
        (answered("mmlu", 14042), "mmlu: the hub lists no benchmark for it"),
    ],
)
def test_a_score_on_a_part_of_a_benchmark_is_not_published_as_the_benchmarks(decision: Decision, reason: str) -> None:
    results = hub_results(decision, "int8")
    assert (results.files, results.left_out) == ({}, (reason,))
    assert f"No entry in `.eval_results`: {reason}" in card_files(decision, "int8")["README.md"]


def test_each_benchmark_of_the_hub_has_as_many_questions_as_our_suites_ask() -> None:
    full = {task.task: task.full for suite in SUITES.values() for task in suite.tasks}
    assert {task: benchmark.items for task, benchmark in BENCHMARKS.items()} == {
        task: full[task] for task in BENCHMARKS
    }


def test_a_benchmark_of_ones_own_is_named_with_the_task() -> None:
    more = dict([parsed_benchmark("mmlu=org/mmlu:all")])
    assert list(hub_results(answered("mmlu", 14042), "int8", more=more).files) == [".eval_results/mmlu.yaml"]
    for text in ("mmlu", "mmlu=org/mmlu", "mmlu=mmlu:all", "=org/mmlu:all"):
        with pytest.raises(PrerequisiteError, match="Write it like"):
            parsed_benchmark(text)


def test_the_command_prints_the_card_or_writes_its_files(tmp_path: Path) -> None:
    results = RunResults(str(tmp_path))
    decision = digested(make_decision(tmp_path, failed="int4-g64"))
    results.decision.put_text(decision.model_dump_json())
    assert "# int8 of hf:org/model" in quantgate("card", str(tmp_path)).stdout, "the best variant of the run"
    out = tmp_path / "out"
    assert quantgate("card", str(tmp_path), "int4-g128", "-o", str(out)).returncode == 0
    assert (out / "README.md").read_text().count("# int4-g128 of") == 1
    failed = quantgate("card", str(tmp_path), "int4-g64")
    assert (failed.returncode, failed.stderr) == (
        2,
        "quantgate: int4-g64 has no scores, so it has no card: Out of memory.\n",
    )
    results.decision.put_text(decision.model_dump_json().replace("0.39", "0.40"))
    assert "is not to be relied on" in quantgate("card", str(tmp_path)).stderr
