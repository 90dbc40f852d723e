"""Read a policy that a person edits: what is wrong with it is told with the file, the line and what is allowed."""

from collections.abc import Hashable, Iterator
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from components.errors import PrerequisiteError

Read = TypeVar("Read", bound=BaseModel)
Where = tuple[int | str, ...]

CORRECT = "Correct the file."


def parse(kind: type[Read], text: str, source: str) -> Read:
    """The value that the YAML `text` describes; `source` names the file in what PrerequisiteError tells."""
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
        raise PrerequisiteError(f"{source}: aliases (*name) are not read here, write the values out. {CORRECT}")
    faults = [f"line {line}: {what}" for line, what in duplicates(node)]
    try:
        found = kind.model_validate(content)
    except ValidationError as error:
        faults += [f"line {line_of(node, each['loc'])}: {told(kind, each['loc'], each)}" for each in error.errors()]
    if faults:
        raise PrerequisiteError(f"{source}, {'; '.join(faults)}. {CORRECT}")
    return found


def duplicates(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """The line and the complaint of each key that stands twice: YAML would silently take the last."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[Hashable] = set()
    for key, value in node.value:
        if key.value in seen:
            yield key.start_mark.line + 1, f"{key.value} stands there twice"
        seen.add(key.value)
        yield from duplicates(value)


def line_of(node: yaml.Node, where: Where) -> int:
    """The line of what pydantic's location names, or of the nearest thing around it that the text has."""
    line: int = node.start_mark.line + 1
    for step in where:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def told(kind: type[BaseModel], where: Where, error: Any) -> str:
    """What is wrong at that place, and what is allowed there."""
    name = ".".join(str(each) for each in where if each != "[key]")
    if error["type"] == "extra_forbidden":
        return f"unknown key {name}; the keys are {', '.join(fields_at(kind, where))}"
    if error["type"] == "missing":
        return f"{name} is missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def fields_at(kind: type[BaseModel], where: Where) -> list[str]:
    """The keys that stand beside the last of the location."""
    fields = kind.model_fields
    for step in where[:-1]:
        inner = fields[str(step)].annotation if str(step) in fields else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            fields = inner.model_fields
    return list(fields)
