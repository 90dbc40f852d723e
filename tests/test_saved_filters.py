"""Metrics and filters of lm-eval's samples: chosen by name, never by the order of the lines."""

import json
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.gate.saved import decide_saved, read_candidate
from quantgate.components.policies.policy import UseCase

STRICT, FLEXIBLE = "strict-match", "flexible-extract"


def saved(folder: Path, *, shuffled: bool = False) -> Path:
    """lm-eval's output for four items of one task with two filters; only the flexible one finds the answers."""
    folder.mkdir()
    rows = [
        {
            "doc_id": item,
            "filter": name,
            "arguments": [],
            "filtered_resps": [""],
            "exact_match": float(name == FLEXIBLE),
        }
        for name in (STRICT, FLEXIBLE)
        for item in range(4)
    ]
    lines = [json.dumps(row) for row in (reversed(rows) if shuffled else rows)]
    (folder / "samples_sums_1.jsonl").write_text("\n".join(lines), encoding="utf-8")
    filters = [{"name": STRICT}, {"name": FLEXIBLE}]
    results = {
        "configs": {"sums": {"output_type": "generate_until", "filter_list": filters}},
        "results": {"sums": {f"exact_match,{STRICT}": 0.0, f"exact_match,{FLEXIBLE}": 1.0}},
    }
    (folder / "results_1.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("metrics", "score"), [((), 0.0), (("exact_match",), 0.0), ((f"exact_match,{FLEXIBLE}",), 1.0)]
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_filter_is_chosen_by_name(tmp_path: Path, metrics: tuple[str, ...], score: float, shuffled: bool) -> None:
    assert read_candidate(saved(tmp_path / "one", shuffled=shuffled), metrics).scores.by_task() == {"sums": score}


@pytest.mark.fault("inputs", "The lines of lm-eval's samples with two filters are shuffled", "the same filter of both")
def test_shuffled_lines_compare_the_same_filter(tmp_path: Path) -> None:
    folders = [saved(tmp_path / "bf16"), saved(tmp_path / "int8", shuffled=True)]
    decision = decide_saved(UseCase(name="any", max_average_drop=0.05), folders)
    assert [scores.tasks[0].settings.filter for scores in decision.scores] == [STRICT, STRICT]
    assert [scores.by_task() for scores in decision.scores] == [{"sums": 0.0}, {"sums": 0.0}]


@pytest.mark.fault("inputs", "--metric names a metric or a filter that no task has", "refused with the list")
@pytest.mark.parametrize("metric", ["nosuch", "mc2", "exact_match,nofilter"])
def test_an_unknown_metric_is_refused_with_the_list(tmp_path: Path, metric: str) -> None:
    known = f"has no metric {metric}. Choose NAME or NAME,FILTER from: exact_match,{FLEXIBLE}, exact_match,{STRICT}"
    with pytest.raises(PrerequisiteError, match=known):
        read_candidate(saved(tmp_path / "one"), (metric,))
