"""The verdicts as JUnit XML and as a summary: every verdict, hostile text, and commands that end without a verdict."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from quantgate.components.report.junit import junit, junit_without_verdict
from quantgate.components.report.matrix import MARKS
from quantgate.components.report.pages import pull_request
from quantgate.components.run.verdicts import Decision
from quantgate.pipelines.cli.app import answer
from quantgate.pipelines.verdict_files import UNFINISHED, VerdictFiles
from tests.support.answered import answers_of, candidate_of, pair_of, write_results
from tests.test_report import decision_by_evidence

HOSTILE = "<b>&amp;\"'</failure> ]]> \x00\x1b[31m\u2028\ufffe\U0001f600 | `x` _a_"


def suites_of(text: str) -> dict[str, Any]:
    """Each suite of the file by its name."""
    return {str(suite.get("name")): suite for suite in ElementTree.fromstring(text)}


def decided(**changed: Any) -> Decision:
    """The decision with another first variant."""
    decision = decision_by_evidence()
    baseline, first, second = decision.verdicts
    return decision.model_copy(update={"verdicts": (baseline, first.model_copy(update=changed), second)})


@pytest.mark.parametrize(
    ("verdict", "result"),
    [
        ("ship", "system-out"),
        ("monitor", "system-out"),
        ("ab_test", "failure"),
        ("reject", "failure"),
        ("inconclusive", "failure"),
        ("not_comparable", "error"),
        ("failed", "error"),
    ],
)
def test_only_a_variant_that_may_ship_passes(verdict: str, result: str) -> None:
    suite = suites_of(junit(decided(verdict=verdict, sentence="The reason.", limits=())))["int8"]
    (case,) = suite
    assert [outcome.tag for outcome in case] == [result]
    assert "The reason." in str(case[0].text)
    counts = {name: int(str(suite.get(name))) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 1, "failures": result == "failure", "errors": result == "error", "skipped": 0}
    if result != "system-out":
        assert (case[0].get("type"), case[0].get("message")) == (verdict, "The reason.")


def test_every_verdict_is_mapped() -> None:
    for verdict in MARKS:
        assert len(suites_of(junit(decided(verdict=verdict)))) == (1 if verdict in ("reference", "skipped") else 2)


def test_each_limit_is_a_test_with_its_numbers() -> None:
    suites = suites_of(junit(decision_by_evidence()))
    assert list(suites) == ["int8", "int4-g64"], "nothing judges the baseline"
    kept, undecided = suites["int8"][1], suites["int4-g64"][1]
    assert (kept.get("classname"), kept.get("name")) == ("int8", "average, limit 5.0 %")
    assert kept[0].text == "measured −0.3 %, at least −1.0 %, at most 0.2 %"
    assert (undecided[0].tag, undecided[0].get("type")) == ("failure", "open")
    message = str(undecided[0].get("message"))
    assert message.startswith(
        "? inconclusive: the limit is 5.0 %, measured 5.2 %, at least 4.4 %, at most 6.1 %; about"
    )


@pytest.mark.fault("inputs", "a verdict's text has markup and control characters", "JUnit XML and summary stay valid")
def test_hostile_text_leaves_both_files_valid() -> None:
    text = junit(decided(verdict="failed", sentence=HOSTILE, next_step=HOSTILE))
    shown = HOSTILE.replace("\x00", "\\u0000").replace("\x1b", "\\u001b").replace("\ufffe", "\\ufffe")
    (error,) = suites_of(text)["int8"].iter("error")
    assert error.get("message") == shown
    assert str(error.text).startswith(f"{shown}\n{shown}\nPolicy: ")
    (error,) = suites_of(junit_without_verdict(HOSTILE + "\ud800"))["run"].iter("error")
    assert error.text == shown + "\\ud800"
    page = pull_request(decided(verdict="failed", sentence=HOSTILE, next_step=HOSTILE))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
    assert "<b>" not in html
    assert html.count("<tr>") == 4, "a row for the head and for each variant"
    assert html.count("| `x` _a_") == 2, "the next step and the reason stay text"


def test_the_summary_is_the_answer_the_matrix_the_reasons_and_the_policy() -> None:
    lines = pull_request(decision_by_evidence()).splitlines()
    assert lines[0] == "### Yes: int8 may replace bf16 for general-chat."
    assert sum(line.startswith("| ") for line in lines) == 4
    assert [line.split(":")[0] for line in lines if line.startswith("- ")] == ["- **int8**", "- **int4-g64**"]
    assert lines[-1].startswith("Policy: average drop: ship under 1 %")
    assert len(lines) < 20


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, ...]:
    """The options of `gate` for a baseline and a variant that lost many answers."""
    before, after = pair_of(700, 100, 8310, 4910)
    baseline = write_results(tmp_path / "bf16", candidate_of("bf16", {"mmlu": answers_of("mmlu", before)}))
    variant = write_results(tmp_path / "int8", candidate_of("int8", {"mmlu": answers_of("mmlu", after)}))
    return ("--baseline", str(baseline), "--variant", str(variant))


def left(*arguments: str | Path) -> int:
    """The exit status of `quantgate gate`."""
    with pytest.raises(SystemExit) as ended:
        answer(["gate", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_the_gate_writes_both_files(folders: tuple[str, ...], tmp_path: Path) -> None:
    xml, summary = tmp_path / "ci" / "gate.xml", tmp_path / "ci" / "gate.md"
    assert left(*folders, "--junit", xml, "--summary", summary) == 1
    assert suites_of(xml.read_text(encoding="utf-8"))["int8"].get("failures") == "2"
    assert summary.read_text(encoding="utf-8").startswith("### No: no variant may replace bf16 for general-chat.")
    assert sorted(file.name for file in xml.parent.iterdir()) == ["gate.md", "gate.xml"]


def test_a_command_without_a_verdict_replaces_an_earlier_one_by_its_reason(
    folders: tuple[str, ...], tmp_path: Path
) -> None:
    xml, summary = tmp_path / "gate.xml", tmp_path / "gate.md"
    for file in (xml, summary):
        file.write_text("an earlier verdict")
    assert left(*folders, "--policy", "/no.yaml", "--junit", xml, "--summary", summary) == 2
    (error,) = suites_of(xml.read_text(encoding="utf-8"))["run"].iter("error")
    assert str(error.get("message")).startswith("The policy /no.yaml cannot be read")
    assert "The policy /no.yaml cannot be read" in summary.read_text(encoding="utf-8")


def test_what_ends_in_the_middle_leaves_no_earlier_verdict(tmp_path: Path) -> None:
    files = VerdictFiles(tmp_path / "gate.xml", tmp_path / "gate.md")
    with pytest.raises(KeyboardInterrupt), files.prepared():
        raise KeyboardInterrupt
    assert UNFINISHED in (tmp_path / "gate.xml").read_text()
    assert UNFINISHED in (tmp_path / "gate.md").read_text()


def test_a_file_that_cannot_be_written_is_refused_first(
    folders: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    assert left(*folders, "--junit", tmp_path / "folder") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"quantgate: Cannot write {tmp_path}/folder: Is a directory. Choose another file.\n"


def test_a_file_in_the_runs_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        answer(["run", "--out", str(tmp_path / "run"), "--junit", str(tmp_path / "run" / "ci.xml")])
    assert ended.value.code == 2
    assert "Choose a place outside of it." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
