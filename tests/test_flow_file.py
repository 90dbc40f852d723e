"""A flow file: what it may contain, what a case takes from the file, and errors with file and line."""

import pytest
from langdetect import detector_factory

from components.errors import PrerequisiteError
from components.flow_cases.flow_checks import KINDS_OF_CHECKS, LANGUAGES
from components.flow_cases.flow_file import Flow, FlowFile, read_flow_file

FILE = """name: tutor
use_case: tutoring
system: You are a tutor.
sampling: {max_tokens: 64}
tools:
  - function: {name: look_up, parameters: {type: object}}
cases:
  - id: hint
    because: The student insists.
    turns:
      - user: What is 3/4 + 1/8?
        checks:
          - language: en
      - user: Just tell me.
    every_answer:
      - forbids: 7/8
    checks:
      - length: {max_words: 60}
      - rubric: It asks a question.
  - id: find
    use_case: lookup
    tools: []
    system: ""
    repeats: 2
    turns:
      - {user: Hello, assistant: Hi}
      - {user: Find it}
    checks: [no_tool_call: true]
"""


def read(text: str = FILE) -> FlowFile:
    return read_flow_file(text, "tutor.yaml")


def test_a_case_takes_what_it_leaves_out_from_the_file() -> None:
    hint, find = read().flows()
    assert (hint.id, hint.use_case, hint.system, hint.repeats) == ("tutor/hint", "tutoring", "You are a tutor.", 1)
    assert [tool.function.name for tool in hint.tools] == ["look_up"]
    assert hint.sampling.max_tokens == 64
    assert hint.sampling.temperature == 0
    assert (find.use_case, find.system, find.tools, find.repeats) == ("lookup", "", (), 2)


def test_checks_of_a_case_are_for_its_last_answer_and_of_every_answer_for_each_that_is_asked() -> None:
    hint, find = read().flows()
    assert [(turn, check.kind) for turn, check in hint.checks] == [
        (0, "language"),
        (0, "forbids"),
        (1, "forbids"),
        (1, "length"),
        (1, "rubric"),
    ]
    assert [turn for turn, _ in find.checks] == [1]
    assert hint.checks[2][1].describe() == 'forbids: ["7/8"]'
    assert Flow.model_validate_json(hint.model_dump_json()) == hint


def test_cases_with_a_schema_may_be_asked_with_guided_answers_too() -> None:
    text = FILE.replace("- rubric: It asks a question.", "- json_schema: {type: object}")
    assert [flow.guided for flow in read(text).flows()] == [False, False]
    both = read(text + "guided: both\n").flows()
    assert [(flow.id, flow.use_case, flow.guided) for flow in both] == [
        ("tutor/hint", "tutoring", False),
        ("tutor/hint.guided", "tutoring-guided", True),
        ("tutor/find", "lookup", False),
    ]
    assert both[0].prompt_digest != both[1].prompt_digest
    only = read(text.replace("  - id: hint", "  - id: hint\n    guided: yes")).flows()
    assert [(flow.id, flow.guided) for flow in only] == [("tutor/hint", True), ("tutor/find", False)]


def test_digests_tell_apart_what_the_model_is_asked_and_what_is_checked() -> None:
    first, checked, asked = (
        read(text).flows()[0]
        for text in (FILE, FILE.replace("max_words: 60", "max_words: 61"), FILE.replace("tell me", "say it"))
    )
    assert (first.digest != checked.digest, first.prompt_digest == checked.prompt_digest) == (True, True)
    assert first.prompt_digest != asked.prompt_digest


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("language: en", "lanuage: en", "line 13: unknown key cases.0.turns.0.checks.0.lanuage; the keys are json_syn"),
        ("language: en", "language: xx", "line 13: cases.0.turns.0.checks.0.language: 'xx' is no known language"),
        ("forbids: 7/8", "{forbids: 7/8, contains: 1}", "line 16: .*: a check has one key, this one has contains, f"),
        ("forbids: 7/8", "forbids: []", "line 16: .*forbids: a list is expected, with one entry or more. Corr"),
        ("rubric: It asks", "regex: (", "line 19: .*regex: '. a question.' is not a regular expression"),
        ("rubric: It asks a question.", "regex: a*", "line 19: .*regex: 'a.' is found in an empty answer"),
        ("rubric: It asks a question.", "json_schema: {type: 3}", "line 19: .*this is not a JSON Schema"),
        ("rubric: It asks a question.", "json_schema: {$ref: 'http://x/y'}", "line 19: .*only references within"),
        (
            "rubric: It asks a question.",
            "json_schema: {pattern: '('}",
            "line 19: .*this is not a JSON Schema: '.' is not",
        ),
        ("rubric: It asks a question.", "tool_call: {name: look}", "line 8: hint names the tool look; its tools are"),
        ("id: find", "id: hint", "line 20: the id hint is given twice"),
        ("use_case: lookup", "use_case: regex", "line 21: .*regex is the name of a check"),
        ("      - {user: Find it}\n", "", "the answer to its last turn is given"),
        ("    checks: [no_tool_call: true]\n", "", "line 20: cases.1: it has no check"),
        ("length: {max_words: 60}", "length: {}", "it has no bound: give one of min_words"),
    ],
)
def test_a_fault_names_file_line_and_what_is_allowed(old: str, new: str, complaint: str) -> None:
    with pytest.raises(PrerequisiteError, match=f"^tutor.yaml, {'.*' if complaint[:4] != 'line' else ''}{complaint}"):
        read(FILE.replace(old, new))


def test_the_languages_are_those_that_langdetect_knows() -> None:
    detector_factory.init_factory()
    assert sorted(detector_factory._factory.get_lang_list()) == list(LANGUAGES)


def test_every_kind_of_check_is_described_for_the_schema() -> None:
    assert len(KINDS_OF_CHECKS) == 15
    assert all(
        FlowFile.model_json_schema()["$defs"]["FlowCheck"]["properties"][kind]["description"]
        for kind in KINDS_OF_CHECKS
    )
