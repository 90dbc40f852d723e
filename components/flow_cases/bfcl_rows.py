"""Rows of the Berkeley Function-Calling Leaderboard (BFCL v3) as flows: `bfcl:20` is the first 20 of each category.

The rows are those of the data set llamastack/bfcl_v3, whose columns `turns`, `functions` and `ground_truth` are JSON
texts; BFCL's own names `question` and `function` are read too. They come from the hub, or from a mirror or folder, as a
benchmark's rows do. A call counts as right by BFCL's rule: the function's name, and of each argument one of the values
in `ground_truth`, where an empty text means that it may be left out; texts are compared without case and punctuation.
What BFCL's checker adds for other languages, executed calls and several turns is not here.
"""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantgate.components.benchmarks.splits import Split
from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.flow_file import FlowFile

if TYPE_CHECKING:
    from quantgate.components.benchmarks.splits import Source

NAME = "bfcl"
ROWS = Split("llamastack/bfcl_v3", "", "train")
CATEGORIES = ("simple", "multiple", "parallel", "irrelevance")
ENTRY = re.compile(rf"{NAME}:([1-9]\d*)")
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
"""BFCL's names of types, which are Python's, and JSON Schema's; `any` is no restriction."""


def bfcl_file(count: int, source: "Source") -> FlowFile:
    """The flows of the first `count` rows of each category; raises PrerequisiteError when the source lacks them."""
    rows = source.split(ROWS)
    if rows is None:
        raise PrerequisiteError(f"{source.description} has no {ROWS.file}, the rows of {NAME}.")
    cases: list[dict[str, Any]] = []
    notes = []
    for category in CATEGORIES:
        of_category = [row for row in rows.dataset if category_of(row) == category]
        readable = [case for row in of_category if (case := case_of(row, category))]
        cases += readable[:count]
        if len(readable) < min(count, len(of_category)):
            notes.append(f"{category}: only {len(readable)} of its {len(of_category)} rows can be read as flows")
    if not cases:
        raise PrerequisiteError(f"{ROWS.file} of {source.description} has no row of {', '.join(CATEGORIES)}.")
    origin = f"{ROWS.path} from {source.description}, {rows.of}, sha256 {rows.sha256[:16]}"
    content = {"name": NAME, "description": origin, "use_case": NAME, "cases": cases, "notes": notes}
    return FlowFile.model_validate(content | {"sampling": {"max_tokens": 256}})


def category_of(row: Mapping[str, Any]) -> str:
    """The row's category: a column, or the beginning of its id."""
    named = row.get("subset") or row.get("test_category") or str(row.get("id", "")).rpartition("_")[0]
    return str(named)


def case_of(row: Mapping[str, Any], category: str) -> dict[str, Any] | None:
    """The row as a flow's case; None for a row of several turns, or with nested values in its ground truth."""
    turns = _json(row.get("turns") or row.get("question"))
    messages = turns[0] if turns and isinstance(turns[0], list) else turns
    functions = _json(row.get("functions") or row.get("function"))
    functions = functions if isinstance(functions, list) else [functions]
    users = [message["content"] for message in messages or () if message.get("role") == "user"]
    if len(users) != 1 or (turns and isinstance(turns[0], list) and len(turns) > 1):
        return None
    tools = [{"function": function_of(function)} for function in functions]
    system = "\n\n".join(message["content"] for message in messages if message.get("role") == "system")
    check: dict[str, Any] = {"no_tool_call": True}
    if category != "irrelevance":
        calls = calls_of(_json(row.get("ground_truth")))
        if not calls:
            return None
        check = {"tool_call": calls}
    return {
        "id": plain(str(row.get("id", ""))),
        "use_case": f"{NAME}-{category}",
        "system": system,
        "turns": [{"user": users[0]}],
        "tools": tools,
        "checks": [check],
    }


def calls_of(ground_truth: Any) -> list[dict[str, Any]]:
    """The expected calls; empty where a value is nested, which is compared by other rules."""
    calls = []
    for call in ground_truth or ():
        ((name, arguments),) = call.items()
        if any(isinstance(value, dict) for values in arguments.values() for value in values):
            return []
        one_of = {
            argument: [None if value == "" else value for value in values] for argument, values in arguments.items()
        }
        calls.append({"name": plain(name), "one_of": one_of, "loose_texts": True})
    return calls


def function_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """BFCL's function as OpenAI's API has it."""
    return {
        "name": plain(str(function["name"])),
        "description": str(function.get("description") or ""),
        "parameters": schema_of(function.get("parameters") or {"type": "object", "properties": {}}),
    }


def schema_of(value: Any) -> Any:
    """The schema with JSON Schema's names of types."""
    if isinstance(value, list):
        return [schema_of(part) for part in value]
    if not isinstance(value, dict):
        return value
    changed = {key: schema_of(part) for key, part in value.items() if part is not None}
    kind = changed.get("type")
    if isinstance(kind, str) and kind in TYPES:
        changed = {key: part for key, part in changed.items() if key != "type"}
        changed |= {"type": TYPES[kind]} if TYPES[kind] else {}
    return changed


def plain(name: str) -> str:
    """The name with the characters that OpenAI's API allows, as BFCL itself writes it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def _json(value: Any) -> Any:
    """The value of a JSON text; another value is returned unchanged."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise PrerequisiteError(f"A row of {ROWS.file} has a text that is not JSON: {error}") from error
