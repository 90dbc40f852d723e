"""The test files of the Canopy course (`**/*_tests.yaml`), read as flow files.

Three forms are in use, and one file has one of them:

    tests: [{inputs: {prompt | messages}, expectations: {expected_result, expected_tools}}], scorers: [...]
    tests: [{prompt, expected_result}], scorers: [...]
    tests: [{prompt | text, expected_result}], scoring_params: {"basic::subset_of": ..., "llm-as-judge::...": ...}

The course sends each prompt to its backend, which adds a system prompt of its own; here the model itself is asked.
What cannot be asked of a model alone (rows in MLflow, retrieved documents, tools without a definition) is listed in
the flow file's `notes`, with what to do. A file `tools.json` beside it defines the tools.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from components.errors import PrerequisiteError
from components.flow_cases.flow_file import FlowFile
from components.storage.yaml_file import fault, parse

SUFFIX = "_tests.yaml"
DEFAULT_SCORERS = ("summary_quality", "is_shorter")
"""The scorers of a file that names none, as in the course's pipeline."""
JUDGED = ("summary_quality", "answer_quality")
CRITERION = "The answer is accurate and consistent with the expected answer."
TOOLS_FILE = "tools.json"
NEEDS_MORE = {
    "retrieval_relevance": "it needs the documents that the backend retrieved",
    "retrieval_groundedness": "it needs the documents that the backend retrieved",
    "tool_call_efficiency": "it needs the trace of an agent",
}
"""Scorers that need more than a model's answer."""

ReadBeside = Callable[[str], str | None]
"""The text of a file beside the tests, by its name; None when there is none."""


class CanopyInputs(BaseModel):
    """What is sent to the backend."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: str = ""
    messages: list[dict[str, str]] = []


class CanopyExpectations(BaseModel):
    """What is expected of the answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    expected_result: str = ""
    expected_tools: list[str] = []


class CanopyTest(BaseModel):
    """One entry of `tests`, in any of the forms."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    inputs: CanopyInputs = CanopyInputs()
    expectations: CanopyExpectations = CanopyExpectations()
    prompt: str = ""
    text: str = ""
    messages: list[dict[str, str]] = []
    expected_result: str = ""
    expected_tools: list[str] = []
    dataset: str = ""

    @property
    def asked(self) -> list[dict[str, str]]:
        """The messages."""
        prompt = self.inputs.prompt or self.prompt or self.text
        return self.inputs.messages or self.messages or ([{"role": "user", "content": prompt}] if prompt else [])

    @property
    def result(self) -> str:
        """The expected answer."""
        return self.expectations.expected_result or self.expected_result

    @property
    def tools(self) -> list[str]:
        """The names of the tools that must be called."""
        return self.expectations.expected_tools or self.expected_tools


class CanopyTests(BaseModel):
    """The content of a test file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    description: str = ""
    usecase: str = ""
    endpoint: str = ""
    scorers: list[str] | None = None
    scoring_params: dict[str, JsonValue] = {}
    judge_prompt: str = ""
    datasets: list[str] = []
    tests: list[CanopyTest] = []


def is_canopy(path: Path) -> bool:
    """Whether the file has the name of the course's test files."""
    return path.name.endswith(SUFFIX)


def read_canopy_file(text: str, source: str, beside: ReadBeside) -> FlowFile:
    """The test file as a flow file; raises PrerequisiteError with file and line."""
    file = parse(CanopyTests, text, source)
    tools, notes = _tools(beside, source), list(_left_out(file))
    cases: list[dict[str, Any]] = []
    for number, test in enumerate(file.tests, start=1):
        messages = test.asked
        if test.dataset:
            notes.append(f"test {number}: the rows of {test.dataset} are not in the file; add them as tests")
        if not messages:
            continue
        checks, lacking = _checks(file, test, tools, beside)
        notes += [f"test {number}: {reason}" for reason in lacking]
        if not checks:
            notes.append(f"test {number} is left out: no check of it can be made here")
            continue
        try:
            turns = _turns(messages)
        except ValueError as error:
            raise fault(text, source, ("tests", number - 1), str(error)) from error
        named = [tool for tool in tools if tool["function"]["name"] in test.tools]
        system = "\n\n".join(message.get("content", "") for message in messages if message.get("role") == "system")
        cases.append(
            {"id": str(number), "system": system, "turns": turns, "tools": tools if named else [], "checks": checks}
        )
    if not cases:
        raise PrerequisiteError(f"{source}: no test in it can be asked of a model alone. {'; '.join(notes)}".rstrip())
    content = {
        "name": _plain(file.name),
        "description": file.description,
        "use_case": _plain(file.usecase or file.endpoint.strip("/") or file.name).lower(),
        "cases": cases,
        "notes": notes,
    }
    return FlowFile.model_validate(content)


def _plain(name: str) -> str:
    """The name with the characters that a flow file's name may have."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_.-") else "-" for letter in name)
    return kept.strip("-_.") or "tests"


def _scorers(file: CanopyTests) -> list[str]:
    if file.scorers is not None:
        return file.scorers
    return list(file.scoring_params) or list(DEFAULT_SCORERS)


def _left_out(file: CanopyTests) -> Iterator[str]:
    """What the whole file asks for and a model alone cannot give."""
    for name in file.datasets:
        yield f"the rows of the MLflow dataset {name} are not in the file; export them as tests"
    known = (*JUDGED, "is_shorter", "tool_call_correctness")
    for scorer in _scorers(file):
        if reason := NEEDS_MORE.get(scorer):
            yield f"the scorer {scorer} is left out: {reason}"
        elif scorer not in known and not scorer.startswith(("basic::", "llm-as-judge::")):
            yield f"the scorer {scorer} is unknown and left out"


def _checks(
    file: CanopyTests, test: CanopyTest, tools: list[dict[str, Any]], beside: ReadBeside
) -> tuple[list[dict[str, Any]], list[str]]:
    """The checks of one test, and what it lacks for others."""
    checks: list[dict[str, Any]] = []
    lacking = []
    for scorer in _scorers(file):
        if scorer == "is_shorter":
            checks.append({"length": {"shorter_than_prompt": True}})
        elif scorer == "basic::subset_of" and test.result:
            checks.append({"contains": test.result})
        elif (scorer in JUDGED or scorer.startswith("llm-as-judge::")) and test.result:
            checks.append({"rubric": _rubric(file, scorer, test.result, beside)})
    if test.tools and "tool_call_correctness" in (
        *_scorers(file),
        *(() if file.scorers else ("tool_call_correctness",)),
    ):
        undefined = set(test.tools) - {tool["function"]["name"] for tool in tools}
        if undefined:
            lacking.append(f"the tools {', '.join(sorted(undefined))} have no definition; add {TOOLS_FILE} beside it")
        else:
            checks.append({"tools_called": test.tools})
    return checks, lacking


def _rubric(file: CanopyTests, scorer: str, expected: str, beside: ReadBeside) -> dict[str, str]:
    params = file.scoring_params.get(scorer)
    template = params.get("prompt_template") if isinstance(params, dict) else None
    name = file.judge_prompt or (template if isinstance(template, str) else "")
    return {"criterion": CRITERION, "expected": expected, "instructions": (beside(name) or "") if name else ""}


def _tools(beside: ReadBeside, source: str) -> list[dict[str, Any]]:
    """The definitions in `tools.json` beside the tests, if there is one."""
    text = beside(TOOLS_FILE)
    try:
        tools = json.loads(text) if text else []
    except ValueError as error:
        raise PrerequisiteError(f"{TOOLS_FILE} beside {source} is not JSON: {error}. Correct the file.") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) and "function" in tool for tool in tools):
        raise PrerequisiteError(f"{TOOLS_FILE} beside {source} is not a list of OpenAI's tools. Correct the file.")
    return tools


def _turns(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The turns of a list of messages; raises ValueError unless it ends with the user's."""
    turns: list[dict[str, str]] = []
    for message in messages:
        role, content = message.get("role", ""), message.get("content", "")
        if role == "user":
            turns.append({"user": content})
        elif role == "assistant" and turns and "assistant" not in turns[-1]:
            turns[-1]["assistant"] = content
        elif role != "system":
            raise ValueError(f"the message of the role {role or 'none'} has no place here: user, assistant in turn")
    if not turns or "assistant" in turns[-1]:
        raise ValueError("the last message must be the user's")
    return turns
