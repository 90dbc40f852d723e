"""A flow file: what an application asks a model, and the checks of its answers, as YAML.

    name: tutor
    use_case: tutoring
    system: You are a tutor. Never give the solution away.
    cases:
      - id: fractions-1
        because: The system prompt is followed less well by quantized models when the student insists.
        turns:
          - user: What is 3/4 + 1/8? Just tell me.
        checks:
          - forbids: ["7/8"]
          - length: {max_words: 80}

What a case leaves out comes from the file. The model answers every turn, and its answers stay in the conversation;
`checks` of the case are for the last answer, those of a turn for the answer to that turn.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, JsonValue, ValidationError, model_validator

from components.errors import PrerequisiteError
from components.flow_cases.flow_checks import KINDS_OF_CHECKS, STRICT, FlowCheck
from components.storage.artifact import Artifact
from components.storage.yaml_file import describe_error, fault, parse

MOST_REPEATS = 32
SEED = 20261127
"""The seed of the first answer to a case; the next ones have the next numbers."""


def use_case_name(name: str) -> str:
    """The name; raises ValueError for that of a check, because both name tasks of the gate."""
    if name in KINDS_OF_CHECKS:
        raise ValueError(f"{name} is the name of a check, choose another name for the use case")
    return name


def not_empty(value: Any) -> Any:
    """The list; raises ValueError for an empty one, and for what is none."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("a list is expected, with one entry or more")
    return value


Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
UseCaseName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$"), AfterValidator(use_case_name)]
Text = Annotated[str, Field(min_length=1)]
Checks = Annotated[tuple[FlowCheck, ...], Field(strict=False)]


class ToolFunction(BaseModel):
    """A function that the model may call."""

    model_config = STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    """The name."""
    description: str = ""
    """What it does, for the model."""
    parameters: dict[str, JsonValue] = {"type": "object", "properties": {}}
    """The JSON Schema of its arguments."""


class FlowTool(BaseModel):
    """A tool, as OpenAI's API has it."""

    model_config = STRICT

    type: Literal["function"] = "function"
    """The kind of the tool."""
    function: ToolFunction
    """The function."""


class FlowSampling(BaseModel):
    """How an answer is generated: by default greedily and with a seed."""

    model_config = STRICT

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of the probability from which a token is drawn."""
    max_tokens: Annotated[int, Field(ge=1, le=32768)] = 256
    """The most tokens of an answer."""
    seed: int = SEED
    """The seed of the first answer; the answers of further repeats have the next numbers."""
    stop: Annotated[tuple[Text, ...], Field(strict=False, max_length=4)] = ()
    """The texts that end an answer."""


class FlowTurn(BaseModel):
    """One message of the user, and the checks of the model's answer."""

    model_config = STRICT

    user: Text
    """The user's message."""
    assistant: str | None = None
    """The answer, where it is given and not asked for: an example before the real turn."""
    returns: dict[str, str] = {}
    """What each tool returns if the model calls it: the model is then asked again, with the result."""
    checks: Checks = ()
    """The checks of the answer to this message."""

    @model_validator(mode="after")
    def _checks_an_answer(self) -> Self:
        if self.assistant is not None and (self.checks or self.returns):
            raise ValueError("its answer is given (assistant), so nothing can be checked or returned")
        return self


Guided = Literal["no", "yes", "both"]


def as_guided(value: Any) -> Any:
    """YAML reads `no` and `yes` as truth values."""
    return ("no", "yes")[value] if isinstance(value, bool) else value


GuidedAnswers = Annotated[Guided, BeforeValidator(as_guided, json_schema_input_type=Guided | bool)]
Turns = Annotated[tuple[FlowTurn, ...], Field(strict=False), BeforeValidator(not_empty)]
Tools = Annotated[tuple[FlowTool, ...], Field(strict=False)]


class FlowCase(BaseModel):
    """One conversation with its checks. What it leaves out comes from the file."""

    model_config = STRICT

    id: Id
    """The case's name in the file."""
    because: str = ""
    """Why quantization might break it."""
    use_case: UseCaseName | None = None
    """The use case that it belongs to."""
    system: str | None = None
    """The system prompt; an empty one is none."""
    turns: Turns
    """The user's messages, in their order."""
    tools: Tools | None = None
    """The tools that the model may call."""
    sampling: FlowSampling | None = None
    """How the answers are generated."""
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)] | None = None
    """How often the case is asked, each time with another seed."""
    checks: Checks = ()
    """The checks of the last answer."""
    every_answer: Checks = ()
    """The checks of every answer."""
    guided: GuidedAnswers | None = None
    """Whether the server makes the answers fit the case's JSON Schema; both asks the case twice, to compare."""

    @model_validator(mode="after")
    def _checks_something(self) -> Self:
        if self.turns[-1].assistant is not None:
            raise ValueError("the answer to its last turn is given, so the model is asked nothing")
        if not (self.checks or self.every_answer or any(turn.checks for turn in self.turns)):
            raise ValueError("it has no check, so no answer could be wrong")
        return self


class Flow(Artifact):
    """A case with everything that it needs: what a run asks, and the only thing that later steps read."""

    id: str
    """FILE/CASE."""
    use_case: str
    because: str = ""
    system: str = ""
    turns: tuple[FlowTurn, ...]
    """Each with all its checks."""
    tools: tuple[FlowTool, ...] = ()
    sampling: FlowSampling = FlowSampling()
    repeats: int = 1
    guided: bool = False
    """Whether the server makes each answer fit its JSON Schema (vLLM's guided decoding)."""
    refused: str = ""
    """Why it cannot be asked here; empty when it can."""

    @property
    def checks(self) -> tuple[tuple[int, FlowCheck], ...]:
        """Each check, with the number of the turn whose answer it is for."""
        return tuple((number, check) for number, turn in enumerate(self.turns) for check in turn.checks)

    @property
    def needs_tools(self) -> bool:
        """Whether it shows the model tools, or checks its calls of them."""
        return bool(self.tools) or any(check.needs_tools for _, check in self.checks)

    @property
    def digest(self) -> str:
        """sha256 of what the model is asked, and of the checks: different content is never paired."""
        content = self.model_dump(mode="json", exclude={"because", "refused", "repeats"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def prompt_digest(self) -> str:
        """sha256 of what the model is asked: messages, tools and sampling. Its own answers are not part of it."""
        turns = [turn.model_dump(mode="json", exclude={"checks"}) for turn in self.turns]
        asked = self.model_dump(mode="json", include={"system", "tools", "sampling", "guided"}) | {"turns": turns}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class FlowSet(Artifact):
    """All flows of a run."""

    names: tuple[str, ...]
    """Of the files, in the order in which they were given."""
    flows: tuple[Flow, ...]
    notes: tuple[str, ...] = ()
    """What of the files is left out, for readers."""

    @property
    def asked(self) -> tuple[Flow, ...]:
        """The flows that can be asked here."""
        return tuple(flow for flow in self.flows if not flow.refused)

    @property
    def digest(self) -> str:
        """sha256 of all flows."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class FlowFile(BaseModel):
    """The content of a flow file."""

    model_config = STRICT

    name: Id
    """The file's name in reports."""
    description: str = ""
    """What the flows are about."""
    use_case: UseCaseName = "application"
    """The use case of all cases that name none: a policy may limit it, as `flows:tutoring`."""
    system: str = ""
    """The system prompt."""
    tools: Tools = ()
    """The tools that the model may call, as OpenAI's API has them."""
    sampling: FlowSampling = FlowSampling()
    """How the answers are generated."""
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)] = 1
    """How often each case is asked."""
    every_answer: Checks = ()
    """The checks of every answer to every case."""
    guided: GuidedAnswers = "no"
    """Whether the server makes the answers of cases with a JSON Schema fit it; both asks them twice, to compare."""
    cases: Annotated[tuple[FlowCase, ...], Field(strict=False), BeforeValidator(not_empty)]
    """The conversations."""
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Remarks for the report, as what another form of file has that is left out here."""

    def flows(self) -> tuple[Flow, ...]:
        """Its cases, each with what it takes from the file."""
        flows: list[Flow] = []
        for case in self.cases:
            flow, guided = self._flow(case), case.guided or self.guided
            guidable = any(check.json_schema for _, check in flow.checks)
            if guided != "yes" or not guidable:
                flows.append(flow)
            if guided != "no" and guidable:
                own = {"guided": True} if guided == "yes" else {"guided": True, **_compared(flow)}
                flows.append(flow.model_copy(update=own))
        return tuple(flows)

    def _flow(self, case: FlowCase) -> Flow:
        last = len(case.turns) - 1
        turns = tuple(
            turn.model_copy(
                update={
                    "checks": ()
                    if turn.assistant is not None
                    else (
                        *turn.checks,
                        *case.every_answer,
                        *self.every_answer,
                        *(case.checks if number == last else ()),
                    )
                }
            )
            for number, turn in enumerate(case.turns)
        )
        return Flow(
            id=f"{self.name}/{case.id}",
            use_case=case.use_case or self.use_case,
            because=case.because,
            system=self.system if case.system is None else case.system,
            turns=turns,
            tools=self.tools if case.tools is None else case.tools,
            sampling=case.sampling or self.sampling,
            repeats=case.repeats or self.repeats,
        )


def _compared(flow: Flow) -> dict[str, str]:
    """The id and the use case of the guided one of two flows."""
    return {"id": f"{flow.id}.guided", "use_case": f"{flow.use_case}-guided"}


def read_flow_file(text: str, source: str) -> FlowFile:
    """The flow file in the YAML text; raises PrerequisiteError with file and line."""
    return _checked(parse(FlowFile, text, source), text, source)


def read_flow_json(text: str, source: str) -> FlowFile:
    """The flow file in its JSON, as a plan has it; raises PrerequisiteError."""
    try:
        return _checked(FlowFile.model_validate_json(text), text, source)
    except ValidationError as error:
        first = error.errors()[0]
        message = describe_error(FlowFile, first["loc"], first)
        raise PrerequisiteError(f"{source}: {message}. Correct the file that it was read from.") from error


def _checked(file: FlowFile, text: str, source: str) -> FlowFile:
    """The file; raises PrerequisiteError for an id that is given twice, or a tool that a case does not have."""
    ids = [case.id for case in file.cases]
    for number, case in enumerate(file.cases):
        if case.id in ids[:number]:
            raise fault(text, source, ("cases", number, "id"), f"the id {case.id} is given twice")
        tools = [tool.function.name for tool in (file.tools if case.tools is None else case.tools)]
        if unknown := sorted(_named_tools(case) - set(tools)):
            named = f"{case.id} names the tool {', '.join(unknown)}; its tools are {', '.join(tools) or 'none'}"
            raise fault(text, source, ("cases", number), named)
    return file


def _named_tools(case: FlowCase) -> set[str]:
    """The tools that the case's checks and turns name."""
    checks = (*case.checks, *case.every_answer, *(check for turn in case.turns for check in turn.checks))
    named = {call.name for check in checks for call in check.tool_call or ()}
    named |= {name for check in checks for name in check.tools_called or ()}
    return named | {name for turn in case.turns for name in turn.returns}
