"""What a model was asked and answered in one flow, and what each check found: one line of `flows.jsonl`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.answer_checks import GivenAnswer, MadeCall
from quantgate.components.storage.artifact import Artifact, write_text


class Request(Artifact):
    """One request and its answer, as they were sent and received."""

    sent: dict[str, Any]
    answer: dict[str, Any]


class TurnAnswer(Artifact):
    """The model's answer to one turn: its last text, and all its tool calls on the way."""

    text: str
    """Without thinking."""
    calls: tuple[tuple[str, str], ...] = ()
    """The name and the arguments of each tool call."""
    cut: bool = False
    """Whether the limit of tokens ended it."""
    tokens: int | None = None
    """Generated tokens of all its requests; None when the server does not say."""
    prompt_characters: int = 0

    def given(self) -> GivenAnswer:
        """The answer as the checks read it."""
        calls = tuple(MadeCall(name, arguments) for name, arguments in self.calls)
        return GivenAnswer(self.text, calls, self.prompt_characters)

    def describe(self) -> str:
        """The text and the calls, for readers."""
        calls = "\n".join(f"[calls {name}({arguments})]" for name, arguments in self.calls)
        return "\n".join(filter(None, [calls, self.text]))


class CheckOutcome(Artifact):
    """What one check found in one answer."""

    turn: int
    number: int
    """Its position among all the flow's checks."""
    kind: str
    check: str
    """The check in one line."""
    passed: bool | None
    """None when a judge gave no usable verdict: then the check has no score."""
    reason: str = ""
    """Why it failed, or has no score."""


class FlowExchange(Artifact):
    """One flow, asked once."""

    flow: str
    repeat: int
    requests: tuple[Request, ...]
    answers: dict[int, TurnAnswer]
    """By the turn's number; without turns whose answer was given."""
    checks: tuple[CheckOutcome, ...] = ()

    @property
    def passed(self) -> bool | None:
        """Whether all checks passed; None when one of them has no score.

        Also where another check failed: if only the failures among such cases counted, a judge without a verdict would
        speak against the model.
        """
        outcomes = [check.passed for check in self.checks]
        return None if None in outcomes else all(outcomes)


def write_exchanges(exchanges: Iterable[FlowExchange], file: Path) -> None:
    """Write the exchanges, a line each."""
    write_text(file, "".join(exchange.model_dump_json() + "\n" for exchange in exchanges))


def read_exchanges(file: Path) -> list[FlowExchange]:
    """The exchanges that `write_exchanges` wrote; raises PrerequisiteError for a damaged file."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
        return [FlowExchange.model_validate_json(line) for line in lines if line]
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise PrerequisiteError(f"{file} is not a readable file of flows: {str(error).splitlines()[0]}") from error
