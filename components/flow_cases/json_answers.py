"""JSON in an answer, and JSON Schemas of it."""

import json
from typing import Any

import regex

FENCE = regex.compile(r"\A\s*```[A-Za-z0-9]*[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", regex.DOTALL)
SEARCH_S = 5.0
LONGEST = 100_000
"""Characters of an answer that are read as JSON."""


class NotJsonError(ValueError):
    """An answer is not JSON; the message says where it stops being JSON."""


def json_of(text: str, *, fenced: bool = True) -> Any:
    """The JSON value of the answer; raises NotJsonError. With `fenced` it may be in a Markdown code fence."""
    if len(text) > LONGEST:
        raise NotJsonError(f"the answer has {len(text):,} characters, and {LONGEST:,} are read")
    match = FENCE.match(text, timeout=SEARCH_S) if fenced else None
    try:
        return json.loads(match.group(1) if match else text, parse_constant=_refuse, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise NotJsonError(f"the answer is not JSON: {error}") from error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a key is given twice")
    return dict(pairs)


def check_schema(schema: dict[str, Any]) -> None:
    """Raise ValueError for what is no JSON Schema, or refers to a schema elsewhere."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"this is not a JSON Schema: {error.message}") from error
    if foreign := next((ref for ref in texts_at(schema, "$ref", "$dynamicRef") if not ref.startswith("#")), ""):
        raise ValueError(f"$ref to {foreign}: only references within the schema, as #/$defs/NAME, are followed")
    if "patternProperties" in json.dumps(schema):
        raise ValueError("patternProperties is not supported: its search cannot be bounded in time")


def texts_at(schema: Any, *keys: str) -> list[str]:
    """The texts at these keys, at any depth."""
    if isinstance(schema, list):
        return [text for part in schema for text in texts_at(part, *keys)]
    if not isinstance(schema, dict):
        return []
    own = [schema[key] for key in keys if isinstance(schema.get(key), str)]
    return own + [text for part in schema.values() for text in texts_at(part, *keys)]


def schema_fault(value: Any, schema: dict[str, Any]) -> str:
    """The first fault of the value by the schema; "" without any. Raises TimeoutError for a slow `pattern`."""
    import jsonschema
    from referencing import Registry

    kind = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _pattern})
    # an empty registry: nothing is ever fetched
    error = jsonschema.exceptions.best_match(kind(schema, registry=Registry()).iter_errors(value))
    if error is None:
        return ""
    where = ".".join(str(step) for step in error.absolute_path)
    return f"{where}: {error.message}" if where else str(error.message)


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Any:
    """JSON Schema's `pattern`, bounded in time."""
    from jsonschema import ValidationError

    if isinstance(instance, str) and not regex.search(pattern, instance, timeout=SEARCH_S):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")
