"""`quantgate gate` on saved results: a run's, lm-eval's own, and invalid ones."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.choice_margins import unusable
from quantgate.components.gate.saved import decide_saved, read_candidate
from quantgate.components.policies.policy import UseCase
from quantgate.pipelines.cli.app import answer
from tests.support.answered import answers_of, candidate_of, pair_of, write_results

Gate = Callable[..., tuple[int, str, str]]
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
{kind}"""
EXAM = """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 1.0}
"""
SUMS = """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], do_sample: false}
metric_list: [{metric: exact_match}]
metadata: {version: 1.0}
"""
PROSE = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
metadata: {version: 2.0}
"""


@pytest.fixture
def gate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Callable[..., tuple[int, str, str]]":
    """Run `quantgate gate …`; returns exit status, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            answer(["gate", *map(str, arguments)])
        return int(left.value.code or 0), *capsys.readouterr()

    return run


def results(folder: Path, *counts: tuple[int, int, int, int], **columns: Any) -> list[Path]:
    """The folders of a baseline and of variants whose answers to one task differ by these numbers."""
    folders = []
    for name, variant_counts in zip(("int8", "int4-g64", "int4-g128"), counts, strict=False):
        before, after = pair_of(*variant_counts)
        write_results(folder / "bf16", candidate_of("bf16", {"mmlu": answers_of("mmlu", before)}))
        folders.append(write_results(folder / name, candidate_of(name, {"mmlu": answers_of("mmlu", after, **columns)})))
    return [folder / "bf16", *folders]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "columns", "status", "verdict"),
    [
        ((10, 10, 9000, 5000), {}, 0, "ship"),
        ((120, 40, 9000, 5000), {}, 0, "monitor"),
        ((340, 20, 9000, 5000), {}, 1, "ab_test"),
        ((700, 100, 9000, 5000), {}, 1, "reject"),
        ((3, 0, 70, 30), {}, 3, "inconclusive"),
        ((3, 0, 70, 30), {"prompt_hash": ["another"] * 103}, 4, "not_comparable"),
    ],
)
def test_the_exit_status_is_the_verdict(
    tmp_path: Path, gate: Gate, counts: tuple[int, int, int, int], columns: dict[str, Any], status: int, verdict: str
) -> None:
    baseline, variant = results(tmp_path, counts, **columns)
    actual_status, out, err = gate("--baseline", baseline, "--variant", variant, "--json")
    assert (actual_status, err) == (status, "")
    assert [row["verdict"] for row in json.loads(out)] == ["reference", verdict]


@pytest.mark.slow
def test_the_worst_variant_decides_the_exit_status(tmp_path: Path, gate: Gate) -> None:
    baseline, *variants = results(tmp_path, (10, 10, 9000, 5000), (700, 100, 8310, 4910))
    named = [part for variant in variants for part in ("--variant", variant)]
    status, out, _ = gate("--baseline", baseline, *named)
    assert status == 1
    for phrase in ("✓ ship", "✗ reject", "Limits", "Flips", "int8: Ships for general-chat", "int4-g64: Rejected for"):
        assert phrase in out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--baseline", "/nowhere", "--variant", "/nowhere"), "/nowhere is not a directory"),
        (("--baseline", ".", "--variant", "."), "contains no results: neither full.json with full.parquet"),
        (
            ("--baseline", "{bf16}", "--variant", "{int8}", "--policy", "math-tutoring"),
            "limits gsm8k, which this suite",
        ),
        (("--baseline", "{bf16}", "--variant", "{int8}", "--policy", "/no.yaml"), "The policy /no.yaml cannot be read"),
        (("--baseline", "{bf16}", "--variant", "{int8}", "--policy", "{wrong}"), "line 2: unknown key max_drops"),
        (("--variant", "{int8}"), "Missing option '--baseline'"),
    ],
)
def test_a_mistake_is_one_message_and_exit_status_2(
    tmp_path: Path, gate: Gate, arguments: tuple[str, ...], what: str
) -> None:
    bf16, int8 = results(tmp_path, (3, 0, 70, 30))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: wrong\nmax_drops: {mmlu: 1 %}\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    filled = [argument.format(bf16=bf16, int8=int8, wrong=wrong) for argument in arguments]
    status, out, err = gate(*(str(tmp_path / "empty") if argument == "." else argument for argument in filled))
    assert (status, out) == (2, "")
    assert what in " ".join(err.split())


def test_a_damaged_file_is_reported_and_never_read_as_complete(tmp_path: Path) -> None:
    bf16, int8 = results(tmp_path, (3, 0, 70, 30))
    file = int8 / "full.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(PrerequisiteError, match=r"full\.parquet is not a readable file of per-item records"):
        decide_saved(UseCase(name="any", max_average_drop=0.05), [bf16, int8])
    file.unlink()
    with pytest.raises(PrerequisiteError, match="is missing: the gate compares item by item"):
        read_candidate(int8)
    (int8 / "full.json").write_text("{")
    with pytest.raises(PrerequisiteError, match="results that this version cannot read"):
        read_candidate(int8)


def test_two_folders_of_the_same_variant_are_distinguished_by_their_position(tmp_path: Path) -> None:
    bf16, _ = results(tmp_path, (3, 0, 70, 30))
    rows = decide_saved(UseCase(name="any", max_average_drop=0.05), [bf16, bf16]).verdicts
    assert [row.variant for row in rows] == [str(bf16), f"{bf16} (1)"]
    assert rows[1].average_drop == 0.0


@pytest.fixture
def harness(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the real lm-eval on tasks from files, with its model of random answers, and log the samples."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tasks = tmp_path_factory.mktemp("tasks")
    for subject, items in (("algebra", 40), ("law", 25)):
        file = tasks / f"{subject}.jsonl"
        rows = [{"question": f"{subject} {n}?", "choices": list("abcd"), "answer": n % 4} for n in range(items)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    law, algebra = tasks / "law.jsonl", tasks / "algebra.jsonl"
    kinds = {"exam_algebra": (algebra, EXAM), "exam_law": (law, EXAM), "sums": (law, SUMS), "prose": (law, PROSE)}
    for name, (file, kind) in kinds.items():
        (tasks / f"{name}.yaml").write_text(TASK.format(name=name, file=file, kind=kind), encoding="utf-8")
    group = "group: exam\ntask: [exam_algebra, exam_law]\naggregate_metric_list: [{metric: acc}]\n"
    (tasks / "exam.yaml").write_text(group, encoding="utf-8")
    for module in ("huggingface_hub.constants", "datasets.config"):  # nothing is fetched, and trying takes a minute
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)

    def evaluate(name: str, seed: int, tasks: Sequence[str] = ("exam", "sums", "prose"), **settings: Any) -> Path:
        folder = tmp_path_factory.mktemp("outputs") / name
        tracker = EvaluationTracker(output_path=str(folder))
        results = simple_evaluate(
            model="dummy",
            tasks=list(tasks),
            task_manager=manager,
            random_seed=seed,
            log_samples=True,
            bootstrap_iters=0,
            evaluation_tracker=tracker,
            **settings,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, task_samples in samples.items():
            tracker.save_results_samples(task_name=task, samples=task_samples)
        return folder

    return evaluate


@pytest.mark.slow
def test_lm_evals_own_results_are_judged_with_a_groups_tasks_as_clusters(harness: Callable[..., Path]) -> None:
    one, other = harness("one", 1), harness("other", 2)
    candidate = read_candidate(one)
    assert {task.task: (task.metric, task.items, task.chance) for task in candidate.scores.tasks} == {
        "exam": ("acc_norm", 65, 0.25),
        "sums": ("exact_match", 25, 0.0),
        "prose": ("word_perplexity", 25, 0.0),
    }
    (results_file,) = one.rglob("results_*.json")
    logged = json.loads(results_file.read_text())["results"]
    by_task = candidate.scores.by_task()
    assert by_task["exam"] == pytest.approx(
        np.average([logged[f"exam_{subject}"]["acc_norm,none"] for subject in ("algebra", "law")], weights=[40, 25])
    )
    assert by_task["prose"] == pytest.approx(logged["prose"]["word_perplexity,none"])
    assert unusable(candidate.answers["exam"], read_candidate(other).answers["exam"]) == ""
    assert unusable(candidate.answers["sums"], read_candidate(other).answers["sums"]) == "its answers have no choices"
    use_case = UseCase(name="any", max_drop={"exam": 0.02}, max_perplexity_ratio={"prose": 1.05})
    rows = decide_saved(use_case, [one, other]).verdicts
    assert [row.variant for row in rows] == ["one", "other"]
    assert rows[1].form == "evidence"
    assert rows[1].verdict in ("inconclusive", "reject")
    exam = next(task for task in rows[1].tasks if task.task == "exam")
    assert (exam.items, exam.clusters, exam.kl is not None) == (65, 2, True)


@pytest.mark.slow
def test_lm_evals_results_with_different_settings_are_not_comparable(harness: Callable[..., Path]) -> None:
    one, other = harness("one", 1), harness("other", 1, gen_kwargs="temperature=1")
    row = decide_saved(UseCase(name="any", max_average_drop=0.05), [one, other]).verdicts[1]
    assert row.verdict == "not_comparable"
    assert "on sums its prompt settings are " in row.sentence
    before, after = (read_candidate(folder).scores for folder in (one, other))
    assert {origin.describe() for origin in before.row_origins} == {
        f"{task}: lm-eval's samples" for task in ("exam", "sums", "prose")
    }
    of_sums, warm = (
        next(scored for scored in saved.tasks if scored.task == "sums").settings for saved in (before, after)
    )
    (cold_kwargs,), (warm_kwargs,) = of_sums.generation, warm.generation
    assert cold_kwargs == {"until": ["\n"], "do_sample": False}
    assert warm_kwargs["temperature"] == 1
    assert (of_sums.filter, of_sums.chat_template) == ("none", False)
    for samples in other.rglob("samples_sums_*.jsonl"):
        lines = samples.read_text(encoding="utf-8").splitlines()
        samples.write_text("\n".join(lines)[:-40], encoding="utf-8")
    with pytest.raises(PrerequisiteError, match=r"samples_sums_.* is damaged"):
        read_candidate(other)


@pytest.mark.slow
def test_each_tasks_newest_run_in_lm_evals_folder_counts_and_two_models_are_refused(
    harness: Callable[..., Path],
) -> None:
    folder = harness("both", 1, tasks=["exam"])
    place = next(folder.rglob("results_*.json")).parent
    for file in harness("later", 2, tasks=["sums"]).rglob("*_2*"):
        file.rename(place / file.name)
    assert list(read_candidate(folder).scores.by_task()) == ["sums", "exam"]
    (folder / "another").mkdir()
    (folder / "another" / "results_2026-01-01.json").write_text("{}")
    with pytest.raises(PrerequisiteError, match="contains the results of several models"):
        read_candidate(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"acc_norm": "N/A"}, "not in lm-eval's format"),
        ({"acc_norm": 0.7}, ", not the mean of its items"),
        ({"arguments": None, "doc_id": None}, ""),
    ],
)
def test_malformed_samples_are_reported_without_a_traceback(
    harness: Callable[..., Path], changes: dict[str, Any], what: str
) -> None:
    folder = harness("odd", 1, tasks=["exam"])
    (file,) = folder.rglob("samples_exam_law_*.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps({**row, **changes}) + "\n" for row in rows), encoding="utf-8")
    if what:
        with pytest.raises(PrerequisiteError, match=what):
            read_candidate(folder)
    else:
        assert "duplicate items" in read_candidate(folder).failure
