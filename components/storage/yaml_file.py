"""Read a YAML file that a person edits; each error names the file, the line and the allowed values."""

from collections.abc import Hashable, Iterator
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from components.errors import PrerequisiteError

Read = TypeVar("Read", bound=BaseModel)
Where = tuple[int | str, ...]

CORRECT = "Correct the file."


def parse(kind: type[Read], text: str, source: str) -> Read:
    """The value in the YAML `text`; raises PrerequisiteError, with the file's name `source`, for invalid text."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PrerequisiteError(f"{source}, line {line}: this is not YAML: {error.problem}. {CORRECT}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PrerequisiteError(f"{source}: this is not YAML: {error}. {CORRECT}") from error
    if not isinstance(node, yaml.MappingNode):
        allowed = ", ".join(kind.model_fields)
        raise PrerequisiteError(f"{source}, line 1: a list of keys is expected, of {allowed}. {CORRECT}")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise PrerequisiteError(f"{source}: aliases (*name) are not allowed, write the values out. {CORRECT}")
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


def fault(text: str, source: str, where: Where, message: str) -> PrerequisiteError:
    """The error for a value of valid YAML, at pydantic's location of it."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
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
        for inner in (annotation, *get_args(annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                fields = inner.model_fields
    return list(fields)
