"""The report's section about flows: before and after, what is left out, what broke, and nothing of it elsewhere."""

from pathlib import Path

from quantgate.components.gate.flipped_items import examples, flips
from quantgate.components.report.flow_table import FlowRow, flow_rows, subject_of
from quantgate.components.report.pages import write_report
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.verdicts import Decision
from tests.test_gate_flows import NONE_LOST, decided, rows_of


def decision() -> Decision:
    """Two of ten JSON answers break; one flow is left out."""
    plan = EvaluationPlan(
        variants=("bf16", "int8"),
        store="s",
        results="r",
        flows=("canopy", '{"name": "ours", "cases": []}'),
        flows_kept="given",
        flows_left_out={"ours/call": "the model's chat template does not show tools"},
        flows_notes=("ours: the scorer x is left out",),
    )
    broken = examples(flips(rows_of("bf16", passing=10), rows_of("int8", passing=10, lost=2)))
    judged = decided(NONE_LOST, passing=10, lost=2, gained=1)
    return judged.model_copy(update={"plan": plan, "examples": broken})


def test_each_task_of_flows_is_a_row_before_and_after() -> None:
    cases, check = flow_rows(decision())
    assert cases.drop_upper is not None
    assert cases == FlowRow("int8", "all cases", 14, 10 / 14, 9 / 14, 2, 1, cases.drop_upper)
    assert (check.what, subject_of("flows:tutoring")) == ("check json_syntax", "use case tutoring")


def test_the_pages_show_what_broke_with_prompt_answers_check_and_reason(tmp_path: Path) -> None:
    write_report(decision(), tmp_path)
    for name in ("report.html", "report.md"):
        page = (tmp_path / name).read_text(encoding="utf-8").replace("&#39;", "'").replace("\\_", "_")
        section = page.partition("Does it still work in the application?")[2].partition("Variant by variant")[0]
        for text in (
            "all cases",
            "1 flow is left out, because the model's chat template does not show tools: ours/call.",
            "Left out of ours: the scorer x is left out.",
            "at most 19",
            "answer of bf16",
            "answer of int8",
            "json_syntax: it is not JSON",
            "case 8",
        ):
            assert text in section, (name, text)
        evidence = page.partition("McNemar")[2].partition("Does it still work")[0]
        assert "gsm8k" in evidence
        assert "flows" not in evidence
        assert "--flows canopy --flows ours.yaml" in page
        assert "Answers that changed" not in page
