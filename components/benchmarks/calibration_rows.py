"""The rows of calibration data: from a JSONL file, from a data set of the hub or a mirror, or the embedded passages.

A row has one of these columns; of several, the first counts:

    messages            a chat: a list of objects with `role` and `content`
    text                a text
    prompt, completion  two texts, joined without a space between them, as TRL's trainers do
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantgate.components.benchmarks.splits import Split
from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.calibration import PASSAGES

HUB_PREFIX = "hf:"
HUB_ID = re.compile(r"hf:(?P<path>[\w.-]+/[\w.-]+)(/(?P<name>[\w.-]+))?(:(?P<split>[\w.-]+))?")
DEFAULT_SPLIT = "train"
FIRST_ROWS = 10_000
"""The most rows that are read of a data set; samples are drawn from these. A whole one takes gigabytes to load."""
COLUMNS = "messages, text, or prompt and completion"
CORRECT = "Correct the file."


@dataclass(frozen=True)
class CalibrationRow:
    """One row: a text, or the messages of a chat."""

    where: str
    """E.g. `mine.jsonl, line 7`, or the data set and its row."""
    parts: tuple[str, ...]
    """The text, the prompt and the completion, or the messages' contents."""
    roles: tuple[str, ...] = ()
    """Of the messages; empty for a text."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat, for a template."""
        return [{"role": role, "content": part} for role, part in zip(self.roles, self.parts, strict=True)]

    @property
    def plain(self) -> str:
        """The text; of a chat the contents without their roles, on lines of their own."""
        return ("\n" if self.roles else "").join(self.parts)


def hub_split(name: str) -> Split:
    """The split that a hub id names, e.g. `hf:OWNER/NAME:train_sft`; raises PrerequisiteError for another form."""
    found = HUB_ID.fullmatch(name)
    if not found:
        raise PrerequisiteError(
            f"--calibration is {name}. Write a data set of the hub as hf:OWNER/NAME:SPLIT, or"
            " hf:OWNER/NAME/CONFIG:SPLIT."
        )
    return Split(found["path"], found["name"] or "", found["split"] or DEFAULT_SPLIT)


def passages() -> list[CalibrationRow]:
    """The embedded passages, each once, named by its first row."""
    from quantgate.components.benchmarks.embedded import embedded

    numbers: dict[str, int] = {}
    for number, text in enumerate(embedded(PASSAGES).dataset()["passage"], 1):
        numbers.setdefault(text, number)
    return [CalibrationRow(f"{PASSAGES}, passage {number}", (text,)) for text, number in numbers.items()]


def rows_of_file(file: Path, shown: str = "") -> list[CalibrationRow]:
    """The rows of a JSONL file; raises PrerequisiteError with file (as `shown`) and line for one that is not valid."""
    shown = shown or str(file)
    try:
        lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise PrerequisiteError(f"The calibration file {shown} cannot be read: {error}. Give a JSONL file.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        where = f"{shown}, line {number}"
        try:
            if text := line.decode().strip():
                rows.append(row_of(json.loads(text), where))
        except UnicodeDecodeError as error:
            raise PrerequisiteError(f"{where}: this is not UTF-8: {error}. {CORRECT}") from error
        except json.JSONDecodeError as error:
            raise PrerequisiteError(f"{where}: this is not JSON: {error}. {CORRECT}") from error
        except (ValueError, RecursionError) as error:
            raise PrerequisiteError(f"{where}: {error}. {CORRECT}") from error
    if not rows:
        raise PrerequisiteError(f"{shown} is empty: it has no calibration text. Write one JSON object a line.")
    return rows


def rows_of_dataset(rows: Iterable[dict[str, Any]], shown: str) -> list[CalibrationRow]:
    """The rows of a data set; raises PrerequisiteError with data set and row for one that is not valid."""
    valid: list[CalibrationRow] = []
    for number, row in enumerate(rows, 1):
        where = f"{shown}, row {number}"
        try:
            valid.append(row_of(row, where))
        except ValueError as error:
            raise PrerequisiteError(f"{where}: {error}. Choose another data set or split.") from error
    if not valid:
        raise PrerequisiteError(f"{shown} is empty: it has no calibration text. Choose another data set or split.")
    return valid


def row_of(content: Any, where: str) -> CalibrationRow:
    """The row with that content; raises ValueError saying what is wrong with it."""
    if not isinstance(content, dict):
        raise ValueError(f"an object is expected, with {COLUMNS}")
    row = {name: value for name, value in content.items() if value is not None}
    if "messages" in row:
        return chat_of(row["messages"], where)
    names = ("text",) if "text" in row else ("prompt", "completion")
    if not all(name in row for name in names):
        raise ValueError(f"it has none of the columns {COLUMNS}; it has {', '.join(map(str, content)) or 'none'}")
    parts = tuple(full_text(row[name], name) for name in names)
    check(any(part.strip() for part in parts), f"{' and '.join(names)} is empty")
    return CalibrationRow(where, parts)


def chat_of(messages: Any, where: str) -> CalibrationRow:
    """The row with these messages."""
    check(isinstance(messages, Sequence) and messages and not isinstance(messages, str), "messages is not a list")
    for at, message in enumerate(messages):
        fits = isinstance(message, dict) and isinstance(message.get("role"), str)
        check(fits, f"messages[{at}] is not an object with role and content")
    contents = [full_text(message.get("content"), f"messages[{at}].content") for at, message in enumerate(messages)]
    check(any(part.strip() for part in contents), "all its messages are empty")
    return CalibrationRow(where, tuple(contents), tuple(message["role"] for message in messages))


def full_text(value: Any, name: str) -> str:
    """The value if it is a text that UTF-8 can hold."""
    check(isinstance(value, str), f"{name} is not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has half a character, which UTF-8 cannot hold: {error}") from error
    return str(value)


def check(holds: Any, refusal: str) -> None:
    """Raise ValueError with the message `refusal` unless `holds` is true."""
    if not holds:
        raise ValueError(refusal)
