"""`quantgate flows` with a judge: what the rubrics count for, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from quantgate.components.run.artifacts import Scores
from quantgate.components.run.results import FULL, VariantResults
from quantgate.components.servers import client
from tests.support.command import Done, quantgate
from tests.support.judge_server import Rule, judge_server, shown
from tests.support.scripted_chat import scripted

FLOWS = """name: ours
use_case: tutoring
cases:
  - id: asks
    turns: [{user: "What is 3/4?"}]
    checks: [rubric: It asks a question., contains: which]
  - id: hints
    turns: [{user: First}, {user: Then}]
    checks: [rubric: It gives a hint.]
"""


def asks(messages: list[dict[str, str]]) -> str | int:
    """Yes to an answer that asks; nonsense about one that says so."""
    last = [text for name, text in shown(messages) if name == "assistant"][-1]
    return "Hm." if "nonsense" in last else f"[[{'yes' if '?' in last else 'no'}]]"


def asked(folder: Path, out: str, rule: Rule | None, answers: dict[str, str], *options: str) -> Done:
    """The command on a model that gives these answers to the last message."""
    file = folder / "ours.yaml"
    file.write_text(FLOWS)

    def answer(body: dict[str, Any]) -> Any:
        return answers.get(body["messages"][-1]["content"], "which one?")

    arguments = ("flows", "--flows", str(file), "--out", str(folder / out), *options)
    with scripted(answer) as model:
        if rule is None:
            return quantgate(*arguments, "--endpoint", model.url)
        with judge_server(rule) as judge:
            named = ("--judge", judge.url, "--judge-model", "the-judge")
            return quantgate(*arguments, "--endpoint", model.url, *named)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.01)


def scores(folder: Path) -> dict[str, tuple[float, int]]:
    read = Scores.read(VariantResults(str(folder)).scores(FULL).path)
    return {task.task: (task.score, task.items) for task in read.tasks}


def test_a_rubric_passes_or_fails_as_the_judge_says(tmp_path: Path) -> None:
    done = asked(tmp_path, "out", asks, {"Then": "It is 1/2."})
    assert done.returncode == 0, done.stderr
    assert scores(tmp_path / "out") == {
        "flows": (0.5, 2),
        "flows:tutoring": (0.5, 2),
        "flows:rubric": (0.5, 2),
        "flows:contains": (1.0, 1),
    }


def test_a_rubric_without_a_verdict_has_no_score_and_counts_for_neither_model(tmp_path: Path) -> None:
    before = asked(tmp_path, "before", asks, {})
    assert (before.returncode, "Without a verdict" in before.stdout) == (0, False)
    after = asked(tmp_path, "after", asks, {"Then": "nonsense"}, "--baseline", str(tmp_path / "before"))
    assert after.returncode == 0, after.stderr
    assert scores(tmp_path / "after")["flows:rubric"] == (1.0, 1)
    words = "counted for no model: 1 of flows, 1 of flows:rubric, 1 of flows:tutoring"
    assert words in after.stdout
    assert "no verdict in 3 answers" in after.stdout
    rows = {line.split()[0]: line.split()[1:4] for line in after.stdout.splitlines() if line.startswith(" flows")}
    assert rows["flows:rubric"] == ["1", "1.000", "1.000"]
    assert rows["flows:contains"] == ["1", "1.000", "1.000"]


def test_if_the_judge_never_gives_a_verdict_no_rubric_has_a_score(tmp_path: Path) -> None:
    done = asked(tmp_path, "out", lambda _: "Hm.", {})
    assert done.returncode == 0, done.stderr
    assert scores(tmp_path / "out") == {"flows:contains": (1.0, 1)}
    assert "counted for no model: 2 of flows" in done.stdout


def test_a_rubric_needs_a_judge_and_a_judge_a_rubric_and_both_results_the_same_judge(tmp_path: Path) -> None:
    assert "--judge URL" in asked(tmp_path, "out", None, {}).stderr
    half = asked(tmp_path, "out", None, {}, "--judge", "http://127.0.0.1:9")
    assert (half.returncode, "both its URL and its served name" in half.stderr) == (2, True)
    assert asked(tmp_path, "before", asks, {}).returncode == 0
    judgements = tmp_path / "before" / "judgements.jsonl"
    judgements.write_text(judgements.read_text().replace('"judge": "the-judge"', '"judge": "another"'))
    other = asked(tmp_path, "after", asks, {}, "--baseline", str(tmp_path / "before"))
    assert (other.returncode, "another decided the baseline's rubrics" in other.stderr) == (2, True)


def test_the_model_cannot_judge_its_own_flows(tmp_path: Path) -> None:
    with scripted(lambda _: "[[yes]]") as model:
        (tmp_path / "ours.yaml").write_text(FLOWS)
        done = quantgate(
            *("flows", "--flows", str(tmp_path / "ours.yaml"), "--endpoint", model.url, "--out", str(tmp_path / "out")),
            *("--judge", model.url, "--judge-model", "tiny"),
        )
        assert (done.returncode, "prefers its own answers" in done.stderr, model.requests) == (2, True, [])
