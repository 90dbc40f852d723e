import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from quantgate.components.errors import PrerequisiteError
from quantgate.components.report.summary import (
    NO_VERDICT,
    READING,
    Summary,
    compare,
    compared,
    compared_json,
    file_name,
    read_summary,
    summary_of,
)
from quantgate.components.run.artifacts import RowsOrigin, Scores, TaskScore
from quantgate.components.run.machine import Gpu, gpus_here
from quantgate.components.run.prompt_settings import PromptSettings

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
H100 = Gpu(name="NVIDIA H100 80GB HBM3", memory_bytes=81559 * 2**20, driver="580.95.05", count=2)
ROWS = {
    "arc_easy": "allenai/ai2_arc/ARC-Easy/test from 210d026, sha256 0123456789abcdef",
    "hellaswag": "Rowan/hellaswag/default/validation from 218ec52, sha256 fedcba9876543210",
    "wikitext": "EleutherAI/wikitext_document_level/wikitext-2-raw-v1/test from 7fa1c48, sha256 aaaabbbbccccdddd",
}


OWN = "own set, sha256 0123"


def task(name: str, score: float, **changes: Any) -> TaskScore:
    fields = {"metric": "acc", "stderr": 0.0335, "items": 220, "shots": 0, "chance": 0.25, "version": "1.0"}
    return TaskScore.model_validate({"task": name, "score": score, **fields, **changes})


def perplexity(score: float) -> TaskScore:
    return task("wikitext", score, metric="word_perplexity", stderr=0.0, items=62)


def origin(name: str, rows: str) -> RowsOrigin:
    where, sha256 = rows.split(", sha256 ")
    return RowsOrigin(task=name, where=where, sha256=sha256)


def scores_of(*tasks: TaskScore, **changes: Any) -> Scores:
    origins = [origin(task_score.task, ROWS.get(task_score.task, OWN)) for task_score in tasks]
    scores = Scores(variant="it", suite="demo", stage="full", tasks=tasks, engine="vllm 0.32.0")
    scores = scores.model_copy(update={"row_origins": tuple(origins)})
    return scores.model_copy(update=changes)


def summarize(*tasks: TaskScore, repository: str = "HuggingFaceTB/SmolLM2-135M-Instruct", **changes: Any) -> Summary:
    return summary_of(scores_of(*tasks, **changes), repository, "bf16 safetensors", [H100], NOON)


def comparison_text(one: Summary, other: Summary, width: int = 100) -> str:
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(compare(one, other))
    return capture.get()


def reasons(one: TaskScore, other: TaskScore) -> tuple[str, ...]:
    return compared(summarize(one), summarize(other)).benchmarks[one.task].not_comparable


def test_a_summary_contains_the_questions_and_the_scores() -> None:
    summary = summarize(task("arc_easy", 0.55, shots=5, cut=3), task("hellaswag", 0.41), perplexity(17.3))
    content = json.loads(summary.model_dump_json())
    first, _, last = content.pop("benchmarks").values()
    assert content == {
        "timestamp": "2026-11-21T12:00:00Z",
        "repository": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "model_format": "bf16 safetensors",
        "gpus": [{"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85520809984, "driver": "580.95.05", "count": 2}],
        "engine": "vllm 0.32.0",
        "suite": "demo",
        "rows_source": "; ".join(f"{name}: {rows}" for name, rows in ROWS.items()),
        "overall": 0.48,
    }
    common = {
        "version": "1.0",
        "settings": PromptSettings().model_dump(mode="json"),
        "rows": ROWS["arc_easy"],
        "metric": "acc",
    }
    assert first == {"questions": 220, "score": 0.55, "stderr": 0.0335, "shots": 5, "cut": 3, **common}
    common = {
        "version": "1.0",
        "settings": PromptSettings().model_dump(mode="json"),
        "rows": ROWS["wikitext"],
        "metric": "word_perplexity",
    }
    assert last == {"questions": 62, "score": 17.3, "stderr": None, "shots": 0, "cut": 0, **common}


def test_a_summary_reads_back_unchanged(tmp_path: Path) -> None:
    summary = summarize(task("arc_easy", 0.1 + 0.2), perplexity(17.3))
    summary.write(tmp_path / file_name(summary))
    assert read_summary(tmp_path / file_name(summary)) == summary


def test_perplexities_alone_have_no_overall_score() -> None:
    assert summarize(perplexity(17.3)).overall is None
    assert summarize(task("arc_easy", 0.0), perplexity(17.3)).overall == 0.0


def test_one_question_has_no_standard_error() -> None:
    assert summarize(task("arc_easy", 1.0, items=1, stderr=0.0)).benchmarks["arc_easy"].stderr is None
    assert summarize(task("arc_easy", 1.0, items=2, stderr=0.0)).benchmarks["arc_easy"].stderr == 0.0


def test_a_time_is_stored_in_utc_and_one_without_a_zone_is_refused() -> None:
    late = datetime(2026, 11, 21, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    summary = summary_of(scores_of(task("arc_easy", 0.5)), "a/b", "unknown", [], late)
    assert summary.timestamp.isoformat() == "2026-11-22T04:30:00+00:00"
    assert file_name(summary) == "2026-11-22_a_b_arc_easy.json"
    with pytest.raises(ValueError, match="timezone"):
        summary_of(scores_of(task("arc_easy", 0.5)), "a/b", "unknown", [], late.replace(tzinfo=None))


def test_a_failed_evaluation_has_no_summary() -> None:
    with pytest.raises(PrerequisiteError, match=r"a/b has no scores to summarize: The server died\. Fix the cause"):
        summarize(task("arc_easy", 0.5), repository="a/b", failure="The server died.")
    with pytest.raises(PrerequisiteError, match="it was evaluated on no benchmark"):
        summarize()


@pytest.mark.parametrize(
    ("tasks", "complaint"),
    [
        ([task("arc_easy", math.nan)], "finite number"),
        ([task("arc_easy", -0.01)], "greater than or equal to 0"),
        ([task("arc_easy", 1.01)], "acc is 1.01, which is not a share from 0 to 1"),
        ([task("arc_easy", 0.5, items=0)], "greater than or equal to 1"),
        ([task("arc_easy", 0.5), task("arc_easy", 0.6)], "two scores for one benchmark: arc_easy, arc_easy"),
    ],
)
def test_an_invalid_score_is_refused(tasks: list[TaskScore], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        summarize(*tasks)


def test_the_chat_template_is_distinguished_from_other_settings() -> None:
    plain = PromptSettings(generation=({"until": ["\n"]},), filter="strict-match")
    wrapped = plain.model_copy(update={"chat_template": True})
    assert summarize(task("gsm8k", 0.5, settings=wrapped)).benchmarks["gsm8k"].settings == wrapped
    assert reasons(task("gsm8k", 0.5, settings=wrapped), task("gsm8k", 0.5, settings=plain)) == (
        "chat template yes and no",
    )
    flexible = plain.model_copy(update={"filter": "flexible-extract", "generation": ()})
    assert reasons(task("gsm8k", 0.5, settings=plain), task("gsm8k", 0.5, settings=flexible)) == (
        "filter strict-match and flexible-extract",
        "other generation settings",
    )


@pytest.mark.parametrize(
    ("repository", "part"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB_SmolLM2-135M-Instruct"),
        ("smollm2", "local_smollm2"),
        ("/models/my smol", "local_my-smol"),
        ("../smol/", "local_smol"),
        ("C:\\models\\smol:8b", "local_C-models-smol-8b"),
        ("router/meta/Llama-3.1", "router-meta_Llama-3.1"),
        ("org/模型*<v1>?", "org_-v1-"),
        ("/", "local_model"),
        ("o" * 43 + "/" + "m" * 81, "o" * 42 + "_" + "m" * 80),
    ],
)
def test_a_file_name_is_safe_everywhere(repository: str, part: str) -> None:
    assert file_name(summarize(task("arc_easy", 0.5), repository=repository)) == f"2026-11-21_{part}_arc_easy.json"


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["arc_easy", "hellaswag", "piqa"], "arc_easy-hellaswag-piqa"),
        (list("abcdef"), "a-b-c-d-e-f"),
        (list("abcdefg"), "demo-canopy"),
        (["a" * 40, "b" * 39], "a" * 40 + "-" + "b" * 39),
        (["a" * 40, "b" * 40], "demo-canopy"),
    ],
)
def test_a_file_name_contains_the_suite_if_the_benchmarks_are_many_or_long(names: list[str], part: str) -> None:
    summary = summarize(*(task(name, 0.5) for name in names), repository="a/b", suite="demo,canopy")
    assert file_name(summary) == f"2026-11-21_a_b_{part}.json"


def test_the_longest_file_name_can_be_written(tmp_path: Path) -> None:
    summary = summarize(task("a" * 81, 0.5), repository="o" * 300 + "/" + "m" * 300, suite="s" * 300)
    summary.write(tmp_path / file_name(summary))
    assert len(file_name(summary)) == 220


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an nvidia-smi with this script before all others."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_gpus_of_the_same_kind_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = 'echo "NVIDIA H100 80GB HBM3, 81559, 580.95.05"'
    smi(tmp_path, monkeypatch, f'{line}\n{line}\necho "NVIDIA GB10, [N/A], 580.95.05"')
    assert gpus_here() == [H100, Gpu(name="NVIDIA GB10", memory_bytes=None, driver="580.95.05", count=1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        'echo "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."; exit 9',
        'echo "NVIDIA H100 80GB HBM3, 81559, 580.95.05"; exit 15',
        'echo "No devices were found"',
        r"printf '\377\376'",
        "exec sleep 60",
    ],
)
def test_a_failing_or_hanging_nvidia_smi_means_no_gpus(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(tmp_path, monkeypatch, script)
    assert gpus_here(timeout_s=1.0) == []


def test_a_machine_without_nvidia_smi_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_here() == []


def test_an_nvidia_smi_that_is_not_executable_means_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "exit 0")
    (tmp_path / "nvidia-smi").chmod(0o644)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_here() == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not a summary that this version can read: Invalid JSON: EOF"),
        (b"{", "is not a summary that this version can read: Invalid JSON: EOF"),
        (b"\xff", "cannot be read: 'utf-8' codec"),
        (b"[]", "is not a summary that this version can read: Input should be an object"),
        (b"{}", "is not a summary that this version can read: timestamp: Field required"),
        (
            scores_of(task("arc_easy", 0.5)).model_dump_json().encode(),
            "is not a summary that this version can read: time",
        ),
    ],
)
def test_a_file_that_is_not_a_summary_is_named(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_bytes(content)
    with pytest.raises(PrerequisiteError) as refusal:
        read_summary(path)
    assert str(refusal.value).startswith(f"{path} {complaint}")
    assert str(refusal.value).endswith("Give a summary that `quantgate eval` wrote.")


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="none.json cannot be read: .*No such file"):
        read_summary(tmp_path / "none.json")
    with pytest.raises(PrerequisiteError, match="cannot be read: .*Is a directory"):
        read_summary(tmp_path)


def test_a_summary_with_impossible_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_text(summarize(task("arc_easy", 0.5)).model_dump_json().replace('"score":0.5', '"score":NaN'))
    with pytest.raises(PrerequisiteError, match=r"benchmarks: arc_easy: score: Input should be a finite number"):
        read_summary(path)


def test_a_difference_is_b_minus_a_in_points_and_relative() -> None:
    comparison = compared(
        summarize(task("arc_easy", 0.5), perplexity(16.0)), summarize(task("arc_easy", 0.45), perplexity(20.0))
    )
    assert comparison.benchmarks["arc_easy"].difference == pytest.approx(-0.05)
    assert comparison.benchmarks["arc_easy"].relative == pytest.approx(-0.1)
    assert (comparison.benchmarks["wikitext"].difference, comparison.benchmarks["wikitext"].relative) == (4.0, 0.25)
    assert comparison.overall == comparison.benchmarks["arc_easy"]


def test_a_score_of_zero_has_no_relative_difference() -> None:
    one, other = summarize(task("gsm8k", 0.0)), summarize(task("gsm8k", 0.02))
    assert compared(one, other).benchmarks["gsm8k"].model_dump() == {
        "difference": 0.02,
        "relative": None,
        "not_comparable": (),
    }
    assert "+2.0 points" in comparison_text(one, other)
    assert "points (" not in comparison_text(one, other)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shots": 0}, "shots 5 and 0"),
        ({"items": 100}, "questions 220 and 100"),
        ({"metric": "acc_norm"}, "metric acc and acc_norm"),
        ({"version": "2.0"}, "task version 1.0 and 2.0"),
        ({"settings": PromptSettings(chat_template=True)}, "chat template no and yes"),
        ({"settings": PromptSettings(generation=({"until": ["\\n"]},))}, "other generation settings"),
    ],
)
def test_benchmarks_with_different_settings_are_not_compared(changes: dict[str, Any], reason: str) -> None:
    assert reasons(task("arc_easy", 0.5, shots=5), task("arc_easy", 0.5, **{"shots": 5, **changes})) == (reason,)


def test_all_different_settings_are_listed() -> None:
    assert reasons(task("piqa", 0.5, shots=5), task("piqa", 0.5, items=9)) == ("shots 5 and 0", "questions 220 and 9")


def test_differences_outside_the_benchmark_do_not_prevent_a_comparison() -> None:
    assert reasons(task("arc_easy", 0.5, stderr=0.01, cut=1), task("arc_easy", 0.6, stderr=0.02, cut=2)) == ()
    alone, among = summarize(task("arc_easy", 0.5)), summarize(task("hellaswag", 0.4), task("arc_easy", 0.6))
    assert compared(alone, among).benchmarks["arc_easy"].not_comparable == ()


def test_different_rows_are_not_compared() -> None:
    one, other = (
        summarize(task("arc_easy", 0.5)),
        summarize(task("arc_easy", 0.5), row_origins=(origin("arc_easy", "a folder, sha256 0"),)),
    )
    assert compared(one, other).benchmarks["arc_easy"].not_comparable == ("other rows",)


def overall(one: Iterable[TaskScore], other: Iterable[TaskScore]) -> tuple[str, ...]:
    return compared(summarize(*one), summarize(*other)).overall.not_comparable


def test_overall_scores_are_compared_only_for_the_same_benchmarks_and_settings() -> None:
    arc, piqa = task("arc_easy", 0.5), task("piqa", 0.6)
    assert overall([arc, piqa], [piqa, arc]) == ()
    assert overall([arc, piqa], [arc]) == overall([arc], [perplexity(9.0)]) == ("means of other benchmarks",)
    assert overall([arc, piqa], [arc, task("piqa", 0.6, shots=1)]) == ("piqa is not",)
    assert overall([arc, perplexity(9.0)], [arc]) == ()
    assert overall([perplexity(9.0)], [perplexity(8.0)]) == ()


def test_the_table_has_both_scores_the_difference_and_no_verdict() -> None:
    one = summarize(
        task("arc_easy", 0.5545),
        task("hellaswag", 0.41, shots=10, metric="acc_norm"),
        task("piqa", 0.65, cut=2),
        perplexity(17.25),
    )
    other = summarize(
        task("arc_easy", 0.5289),
        task("hellaswag", 0.40, metric="acc_norm"),
        perplexity(18.5),
        repository="org/[red]int8",
        engine="vllm 0.33.0",
    )
    assert [
        line.strip() for line in comparison_text(one, other, 110).splitlines() if "──" not in line and line.strip()
    ] == [
        "A  HuggingFaceTB/SmolLM2-135M-Instruct, bf16 safetensors, vllm 0.32.0, 2026-11-21 12:00 UTC",
        "B  org/[red]int8, bf16 safetensors, vllm 0.33.0, 2026-11-21 12:00 UTC",
        "Benchmark                      A                B  B less A",
        "arc_easy         0.5545 ± 0.0335  0.5289 ± 0.0335  −2.6 points (−4.6 %)",
        "acc                220 questions    220 questions",
        "hellaswag        0.4100 ± 0.0335  0.4000 ± 0.0335  not comparable: shots 10 and 0",
        "acc_norm           220 questions    220 questions",
        "piqa             0.6500 ± 0.0335                —  not comparable: only A has it",
        "acc                220 questions",
        "wikitext                 17.2500          18.5000  +1.25 (+7.2 %)",
        "word_perplexity     62 questions     62 questions",
        "overall                   0.5382           0.4645  not comparable: means of other benchmarks",
        READING,
        "The token limit cut off 2 of A's 220 answers on piqa.",
        "The engines differ: A ran on vllm 0.32.0, B on vllm 0.33.0.",
        NO_VERDICT,
    ]


def test_no_number_is_wrapped_in_a_narrow_terminal() -> None:
    one = summarize(task("ifeval", 0.5545, metric="prompt_level_strict_acc"))
    other = summarize(task("ifeval", 0.5289, metric="prompt_level_strict_acc"))
    for number in ("0.5545 ± 0.0335", "0.5289 ± 0.0335", "−2.6 points (−4.6 %)"):
        assert number in comparison_text(one, other, 80)


def test_a_model_does_not_differ_from_itself() -> None:
    one = summarize(task("arc_easy", 0.5545))
    assert comparison_text(one, one).count("0.0 points (0.0 %)") == 2


def test_the_json_contains_both_summaries_and_exact_differences() -> None:
    one, other = summarize(task("arc_easy", 0.1 + 0.2)), summarize(task("piqa", 0.5), task("arc_easy", 0.5))
    comparison = json.loads(compared_json(one, other))
    assert Summary.model_validate(comparison["a"]) == one
    assert Summary.model_validate(comparison["b"]) == other
    assert comparison["benchmarks"]["arc_easy"]["difference"] == 0.5 - (0.1 + 0.2)
    assert comparison["benchmarks"]["piqa"] == {
        "difference": None,
        "relative": None,
        "not_comparable": ["only B has it"],
    }
    assert comparison["overall"]["not_comparable"] == ["means of other benchmarks"]
    assert comparison["notes"] == [NO_VERDICT]
