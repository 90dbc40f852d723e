"""What a report, the terminal and MLflow show of a search."""

import io
from pathlib import Path

from rich.console import Console

from quantgate.components.evidence.pareto import FrontRow, front
from quantgate.components.report.load_table import without_speed
from quantgate.components.report.pages import plots, write_report
from quantgate.components.report.story import stories
from quantgate.components.report.terminal import terminal_matrix
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.verdicts import Decision, LimitEvidence
from quantgate.components.track.mlflow_rows import run_row, variant_rows
from quantgate.components.tracking.facts import RunFiles
from tests.support import decided
from tests.support.loaded import BASELINE, load_test_of
from tests.support.reported import Page, make_decision, with_verdict


def searched() -> Decision:
    """A search that rejected int4-g128, ended with int8, and did not try int4-g64."""
    average = LimitEvidence(
        what="average", kind="drop", limit=0.05, estimate=0.09, lower=0.07, upper=0.11, outcome="exceeded"
    )
    plan = EvaluationPlan(variants=("bf16", "int8", "int4-g128", "int4-g64"), search=True, store="s", results="r")
    decision = with_verdict(make_decision(), 1, verdict="ship")
    decision = with_verdict(decision, 2, limits=[average.model_dump()])
    skipped = decision.weights[3].model_copy(update={"skipped": True, "failure": "Not tried: int8 ships."})
    decision = decision.model_copy(update={"weights": (*decision.weights[:3], skipped)})
    decision = with_verdict(decision, 3, verdict="skipped", sentence="Not tried: int8 ships.", size_bytes=0)
    tests = (load_test_of("bf16", BASELINE), load_test_of("int8", {1: 2 * BASELINE[1], 4: 1.5 * BASELINE[4]}))
    return decision.model_copy(update={"plan": plan, "load_tests": tests})


def placed(name: str, size: int, drop: float | None, speedup: float | None = None) -> FrontRow:
    return FrontRow(name, 1, size, speedup, drop, None, None, "")


def test_a_variant_is_behind_another_that_is_no_worse_and_somewhere_better() -> None:
    row = placed("a", 100, 0.02)
    assert row.is_behind(placed("b", 99, 0.02))
    assert row.is_behind(placed("b", 100, 0.01))
    assert not row.is_behind(placed("b", 100, 0.02)), "it is the same"
    assert not row.is_behind(placed("b", 99, 0.03)), "each is better in one"
    assert not row.is_behind(placed("b", 99, None))


def test_speed_counts_where_both_were_measured() -> None:
    slow, fast = placed("a", 100, 0.02, 1.0), placed("b", 100, 0.02, 1.5)
    assert slow.is_behind(fast)
    assert not fast.is_behind(slow)
    assert not slow.is_behind(placed("c", 99, 0.01, 0.9)), "it is slower"
    assert slow.is_behind(placed("c", 99, 0.01)), "its speed is not known"


def test_only_a_search_has_a_front_and_its_rows_say_why_it_went_on() -> None:
    assert front(make_decision()) == ()
    decision = searched()
    rows = {row.variant: row for row in front(decision)}
    assert list(rows) == ["bf16", "int8", "int4-g128", "int4-g64"]
    assert (rows["bf16"].drop, rows["bf16"].speedup, rows["int8"].speedup) == (0.0, 1.0, 1.5)
    assert (rows["int4-g128"].lower, rows["int4-g128"].upper) == (0.07, 0.11)
    assert [bool(row.why) for row in rows.values()] == [False, False, True, True]
    assert rows["int4-g64"].why == "Not tried: int8 ships."
    assert not rows["int4-g64"].is_placed
    assert [sentence.partition(" ")[0] for sentence in without_speed(decision)] == ["int4-g128"]


def test_report_terminal_and_mlflow_show_the_front(tmp_path: Path) -> None:
    decision = searched()
    html, markdown = write_report(decision, tmp_path)
    head, *rows = Page(html.read_text()).tables["front"]
    assert head == [
        "Variant",
        "Size",
        "Speed",
        "Average drop",
        "At least",
        "At most",
        "Front",
        "Why the search went on",
    ]
    assert rows[1][:4] == ["int8", "163 MB", "1.50×", "1.0 %"]
    assert rows[2][4:7] == ["7.0 %", "11.0 %", "yes"]
    assert rows[3] == ["int4-g64", "—", "—", "—", "—", "—", "—", "Not tried: int8 ships."]
    assert "| int4-g64 | — | — | — | — | — | — | Not tried: int8 ships. |" in markdown.read_text()
    assert "front.svg" in plots(decision)
    assert "front.svg" not in plots(make_decision())
    output = io.StringIO()
    Console(file=output, width=100).print(terminal_matrix(decision))
    assert "Search, the smallest first" in output.getvalue()
    for_mlflow = variant_rows(decision, decided.FACTS, RunFiles())
    assert [row.tags["pareto_front"] for row in for_mlflow] == ["yes", "yes", "yes", "none"]
    assert [row.tags["failure"] for row in for_mlflow] == ["none"] * 4, "that it was not tried is no failure"
    assert [story.failure for story in stories(decision)] == [""] * 4
    assert run_row(decision, decided.FACTS, RunFiles()).params["search"] == "true"
    assert "pareto_front" not in variant_rows(make_decision(), decided.FACTS, RunFiles())[0].tags
