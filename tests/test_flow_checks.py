"""Every kind of check, on an answer that passes and on one that fails; the Canopy course's files."""

import json
import time
from pathlib import Path

import pytest

from components.errors import PrerequisiteError
from components.flow_cases.answer_checks import FAULTS, GivenAnswer, MadeCall, fault_of, sentences_of
from components.flow_cases.flow_checks import KINDS_OF_CHECKS, RUBRIC, FlowCheck
from components.flow_cases.flow_sources import flow_set, need_judge, read_file, read_flows

QUIZ = '{"questions": [{"q": "What is a cell?", "answer": 2}], "level": "easy"}'
SCHEMA = {"type": "object", "required": ["level"], "properties": {"level": {"type": "string", "pattern": "^e"}}}
CALL = {"name": "look_up", "arguments": {"code": "BIO101"}, "one_of": {"term": ["autumn", None]}}
BIO = MadeCall("look_up", '{"code": "BIO101"}')


def fault(kind: str, value: object, answer: str | GivenAnswer) -> str:
    check = FlowCheck.model_validate({kind: value})
    return fault_of(check, GivenAnswer(answer) if isinstance(answer, str) else answer)


@pytest.mark.parametrize(
    ("kind", "value", "passes", "fails", "reason"),
    [
        ("json_syntax", "strict", QUIZ, f"Sure: {QUIZ}", "not JSON: Expecting value"),
        ("json_syntax", "strict", QUIZ, f"```json\n{QUIZ}\n```", "not JSON"),
        ("json_syntax", "fenced", f"```json\n{QUIZ}\n```", f"{QUIZ}\nDone.", "Extra data"),
        ("json_syntax", "strict", "[1]", QUIZ[:-1], "not JSON"),
        ("json_syntax", "strict", "[1]", "[NaN]", "NaN is not JSON"),
        ("json_syntax", "strict", "[1]", '{"a": 1, "a": 2}', "a key is given twice"),
        ("json_schema", SCHEMA, QUIZ, '{"level": 3}', "level: 3 is not of type 'string'"),
        ("json_schema", SCHEMA, QUIZ, '{"level": "hard"}', "level: 'hard' does not match '.e'"),
        ("json_schema", SCHEMA, QUIZ, "{}", "'level' is a required property"),
        ("fields", {"questions.0.answer": 2}, QUIZ, QUIZ.replace("2", "3"), "questions.0.answer is 3, not 2"),
        ("fields", {"level": 1}, '{"level": 1.0}', '{"level": true}', "level is true, not 1"),
        (
            "language",
            "de",
            "Das ist ein Satz über die Zelle und ihren Kern.",
            "This is a sentence.",
            "in en, not in de",
        ),
        ("length", {"max_words": 3}, "one two three", "one two three four", "4 words, at most 3"),
        ("length", {"min_words": 3}, "one two three", "one two", "2 words, at least 3"),
        ("length", {"max_characters": 3}, " abc ", "abcd", "4 characters, at most 3"),
        ("length", {"max_sentences": 2}, "It is 1.5 m. Really?", "One. Two. Three.", "3 sentences, at most 2"),
        ("contains", ["Cell", "wall"], "the cell WALL", "the cell", "it lacks 'wall'"),
        ("forbids", ["7/8", "seven eighths"], "Try again.", "It is Seven\nEighths", "contains 'seven eighths'"),
        ("answer", 5, "It is 5.", "It is 15, or 5.5 or 1,5", "does not contain '5'"),
        ("answer", ["1,000", "a thousand"], "About 1000 m", "About 10000 m", "'1,000' or 'a thousand'"),
        ("regex", r"\b[A-D]\)", "B) cells", "cells", "nothing in it matches"),
        ("format", "list", "Two:\n- a\n- b", "- a", "1 lines begin"),
        ("format", "list", "1. a\n2) b", "a, b", "0 lines begin"),
        ("format", "table", "| a | b |\n|---|:--|\n| 1 | 2 |", "a | b\n1 | 2", "no Markdown table"),
        ("format", "no_preamble", "Surely a cell is small.", "Sure! A cell", "begins with 'Sure'"),
        ("format", "no_preamble", "A cell", "Here's a summary", "begins with \"Here's"),
        ("refusal", True, "I\u2019m sorry, but I can't help.", "The solution is 4.", "does not decline"),
        ("refusal", False, "You can't divide by 0.", "I cannot share that.", "declines: 'I cannot'"),
    ],
)
def test_a_check_passes_one_answer_and_says_why_another_fails(
    kind: str, value: object, passes: str, fails: str, reason: str
) -> None:
    assert fault(kind, value, passes) == ""
    assert reason.replace("'.e'", "'^e'") in fault(kind, value, fails)


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ((BIO,), ""),
        ((MadeCall("look_up", '{"term": "autumn", "code": "BIO101"}'),), ""),
        ((), "it called no tool, and should have called look_up"),
        ((MadeCall("find", '{"code": "BIO101"}'),), "it called find({"),
        ((MadeCall("look_up", '{"code": "BIO102"}'),), 'look_up: code is "BIO102", not "BIO101"'),
        ((MadeCall("look_up", "{}"),), 'look_up: code is null, not "BIO101"'),
        ((MadeCall("look_up", '{"code": "BIO101"'),), "look_up: the answer is not JSON"),
        ((MadeCall("look_up", '{"code": "BIO101", "term": "May"}'),), 'term is "May", not one of ["autumn", null]'),
        ((MadeCall("look_up", '{"code": "BIO101", "year": 1}'),), "look_up: it was called with year too"),
        ((BIO, BIO), "it also called look_up"),
    ],
)
def test_a_tool_call_has_the_right_name_and_arguments_and_is_alone(calls: tuple[MadeCall, ...], reason: str) -> None:
    found = fault("tool_call", CALL, GivenAnswer("", calls))
    assert (found == "") == (reason == "")
    assert reason in found


def test_parallel_calls_may_come_in_any_order_and_a_call_may_be_forbidden() -> None:
    both = [{"name": "look_up", "any_arguments": True}, {"name": "find"}]
    assert fault("tool_call", both, GivenAnswer("", (MadeCall("find", ""), BIO))) == ""
    assert "called find({})" in fault("tool_call", CALL, GivenAnswer("", (MadeCall("find", "{}"),)))
    assert fault("tools_called", "look_up", GivenAnswer("", (BIO,))) == ""
    assert fault("tools_called", ["look_up", "find"], GivenAnswer("", (BIO,))) == "it did not call find"
    assert fault("no_tool_call", True, "Hello") == ""
    assert fault("no_tool_call", True, GivenAnswer("", (BIO,))).startswith("it called look_up")


def test_an_answer_may_have_to_be_shorter_than_the_prompt() -> None:
    assert fault("length", {"shorter_than_prompt": True}, GivenAnswer("abc", prompt_characters=4)) == ""
    assert "4 characters" in fault("length", {"shorter_than_prompt": True}, GivenAnswer("abcd", prompt_characters=4))


def test_a_slow_pattern_ends_as_an_error_and_never_as_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.flow_cases.answer_checks.SEARCH_S", 0.05)
    started = time.monotonic()
    with pytest.raises(PrerequisiteError, match="not done with an answer after"):
        fault("regex", "(a|aa)+$", "a" * 60 + "b")
    assert time.monotonic() - started < 5


def test_every_kind_is_checked_here_but_the_judges() -> None:
    assert {*FAULTS, RUBRIC} == set(KINDS_OF_CHECKS)
    with pytest.raises(ValueError, match="decided by a judge"):
        fault(RUBRIC, "It is kind.", "Hello")
    assert sentences_of("1. One.\n2. Two") == ["One.", "\nTwo"]


NEW_FORM = """name: student-assistant
usecase: student-assistant
endpoint: /student-assistant
scorers: [answer_quality, tool_call_correctness, tool_call_efficiency, is_shorter]
judge_prompt: judge_prompt.txt
datasets: [questions-of-may]
tests:
  - inputs: {prompt: "Who can help me with machine learning?"}
    expectations: {expected_result: Dr. Chen, expected_tools: [find_professors]}
  - inputs:
      messages:
        - {role: system, content: Be brief.}
        - {role: user, content: Hello}
        - {role: assistant, content: Hi}
        - {role: user, content: "What is a canopy?"}
    expectations: {expected_result: The crowns of trees}
"""
OLD_FORM = """name: summary_tests
model: llama32
endpoint: /summarize
scoring_params:
  "llm-as-judge::base": {judge_model: llama32, prompt_template: judge_prompt.txt, type: llm_as_judge}
  "basic::subset_of": null
tests:
  - prompt: Llama 3.2 is a state-of-the-art language model.
    expected_result: Llama 3.2 is a model.
  - prompt: ""
    expected_result: ""
  - dataset: "huggingface:small-canopy-qa"
"""


def test_a_canopy_file_is_read_as_it_is_and_says_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "agent_tests.yaml").write_text(NEW_FORM)
    (tmp_path / "judge_prompt.txt").write_text("Judge {{ outputs }}.")
    file = read_file(tmp_path / "agent_tests.yaml")
    first, second = file.flows()
    assert (first.id, first.use_case) == ("student-assistant/1", "student-assistant")
    assert [check.kind for _, check in first.checks] == ["rubric", "length"]
    assert first.checks[0][1].rubric is not None
    assert first.checks[0][1].rubric.expected == "Dr. Chen"
    assert first.checks[0][1].rubric.instructions == "Judge {{ outputs }}."
    assert second.system == "Be brief."
    assert [(turn.user, turn.assistant) for turn in second.turns] == [("Hello", "Hi"), ("What is a canopy?", None)]
    assert [note.partition(":")[0] for note in file.notes] == [
        "the rows of the MLflow dataset questions-of-may are not in the file; export them as tests",
        "the scorer tool_call_efficiency is left out",
        "test 1",
    ]
    (tmp_path / "tools.json").write_text(json.dumps([{"type": "function", "function": {"name": "find_professors"}}]))
    first, _ = read_file(tmp_path / "agent_tests.yaml").flows()
    assert [check.kind for _, check in first.checks] == ["rubric", "length", "tools_called"]
    assert [tool.function.name for tool in first.tools] == ["find_professors"]


def test_the_older_form_of_a_canopy_file_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "Summary").mkdir()
    (tmp_path / "Summary" / "summary_tests.yaml").write_text(OLD_FORM)
    (tmp_path / "Summary" / "values.yaml").write_text("replicas: 1\n")
    entries = read_flows([str(tmp_path)])
    flows = flow_set(entries)
    assert [flow.id for flow in flows.flows] == ["summary_tests/1"]
    assert [check.describe() for _, check in flows.flows[0].checks][1] == 'contains: ["Llama 3.2 is a model."]'
    assert flows.flows[0].use_case == "summarize"
    assert flows.notes == (
        "summary_tests: test 3: the rows of huggingface:small-canopy-qa are not in the file; add them as tests",
    )
    assert need_judge(flows.flows) == ["summary_tests/1"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: a\ntests: [{prompt: x}]\n", "no test in it can be asked of a model alone. test 1 is left out"),
        (
            NEW_FORM.replace('role: user, content: "What', 'role: tool, content: "What'),
            "line 10: the message of the rol",
        ),
        (NEW_FORM.replace("name: s", "nam: s"), "line 1: name is missing"),
    ],
)
def test_a_canopy_file_with_nothing_to_ask_is_an_error(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "a_tests.yaml").write_text(text.replace("[answer_quality", "[is_shorter, answer_quality"))
    if text.startswith("name: a\n"):
        (tmp_path / "a_tests.yaml").write_text(text + "scorers: [answer_quality]\n")
    with pytest.raises(PrerequisiteError, match=complaint):
        read_file(tmp_path / "a_tests.yaml")


def test_unknown_flows_and_two_files_of_one_name_are_errors(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="neither a pack nor a file or folder with flows. The packs are"):
        read_flows(["no-such-pack"])
    for name in ("a_tests.yaml", "b_tests.yaml"):
        (tmp_path / name).write_text(OLD_FORM)
    with pytest.raises(PrerequisiteError, match="Two flow files have the name summary_tests. Rename one"):
        read_flows([str(tmp_path)])
