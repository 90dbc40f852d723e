"""Read a YAML file that a person edits; each error names the file, the line and the allowed values."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from quantgate.components.errors import PrerequisiteError

Read = TypeVar("Read", bound=BaseModel)
Where = tuple[int | str, ...]

CORRECT = "Correct the file."
MERGE_KEY = "tag:yaml.org,2002:merge"
MOST_CHARACTERS = 200_000
"""PyYAML reads so many in seconds; lm-eval's longest definition has 61,000."""


def parse(kind: type[Read], text: str, source: str) -> Read:
    """The value in the YAML `text`; raises PrerequisiteError, with the file's name `source`, for invalid text."""
    node = composed(text, source)
    if not isinstance(node, yaml.MappingNode):
        allowed = ", ".join(kind.model_fields)
        raise PrerequisiteError(f"{source}, line 1: a list of keys is expected, of {allowed}. {CORRECT}")
    with readable(source):
        content = yaml.SafeLoader("").construct_document(node)
    faults = [f"line {line}: {message}" for line, message in duplicates(node)]
    try:
        value = kind.model_validate(content)
    except ValidationError as error:
        faults += [
            f"line {line_of(node, fault['loc'])}: {describe_error(kind, fault['loc'], fault)}"
            for fault in error.errors()
        ]
    if faults:
        raise PrerequisiteError(f"{source}, {'; '.join(faults)}. {CORRECT}")
    return value


class NotPlainError(yaml.MarkedYAMLError):
    """The text has an alias or a merge key."""


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases and merge keys: with them, nine short lines become millions of values."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; raises NotPlainError for an alias or a merge key, before any value is built."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases (*name) are not allowed, write the values out"
            raise NotPlainError(None, None, problem, event.start_mark)  # type: ignore[arg-type]  # the C mark is not used
        node: yaml.Node | None = super().compose_node(parent, index)
        if node is not None and node.tag == MERGE_KEY:
            problem = "merge keys (<<) are not allowed, write the values out"
            raise NotPlainError(None, None, problem, node.start_mark)
        return node


def composed(text: str, source: str) -> yaml.Node | None:
    """The nodes of the YAML `text`; raises PrerequisiteError for invalid or long text, aliases and merge keys."""
    if len(text) > MOST_CHARACTERS:
        raise PrerequisiteError(
            f"{source} has {len(text):,} characters, and at most {MOST_CHARACTERS:,} are read. {CORRECT}"
        )
    with readable(source):
        node: yaml.Node | None = yaml.compose(text, Loader=PlainLoader)
    return node


@contextmanager
def readable(source: str) -> Iterator[None]:
    """Raise PrerequisiteError, with the line if it is known, for YAML that the block cannot read."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        kind = "" if isinstance(error, NotPlainError) else "this is not YAML: "
        raise PrerequisiteError(f"{source}, line {line}: {kind}{error.problem}. {CORRECT}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PrerequisiteError(f"{source}: this is not YAML: {error}. {CORRECT}") from error


def fault(text: str, source: str, where: Where, message: str) -> PrerequisiteError:
    """The error for a value of valid YAML, at pydantic's location of it."""
    node = composed(text, source)
    return PrerequisiteError(f"{source}, line {line_of(node, where) if node else 1}: {message}. {CORRECT}")


def duplicates(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """The line and the message of each duplicate key: YAML would silently use the last."""
    if not isinstance(node, yaml.MappingNode):
        return
    keys: set[Hashable] = set()
    for key, value in node.value:
        if key.value in keys:
            yield key.start_mark.line + 1, f"{key.value} is given twice"
        keys.add(key.value)
        yield from duplicates(value)


def line_of(node: yaml.Node, where: Where) -> int:
    """The line of the value at pydantic's location, or of the nearest enclosing value in the text."""
    line: int = node.start_mark.line + 1
    for step in where:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
            continue
        if not isinstance(node, yaml.MappingNode):
            break
        item = next(((key, value) for key, value in node.value if key.value == str(step)), None)
        if item is None:
            break
        line, node = item[0].start_mark.line + 1, item[1]
    return line


def describe_error(kind: type[BaseModel], where: Where, error: Any) -> str:
    """The message for pydantic's error at that location, with the allowed values."""
    name = ".".join(str(part) for part in where if part != "[key]")
    if error["type"] == "extra_forbidden":
        return f"unknown key {name}; the keys are {', '.join(fields_at(kind, where))}"
    if error["type"] == "missing":
        return f"{name} is missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def fields_at(kind: type[BaseModel], where: Where) -> list[str]:
    """The keys that are allowed at the level of the location's last key."""
    fields = kind.model_fields
    for step in where[:-1]:
        annotation = fields[str(step)].annotation if str(step) in fields else None
        arguments = get_args(annotation)
        for inner in (annotation, *arguments, *(part for one in arguments for part in get_args(one))):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                fields = inner.model_fields
    return list(fields)
