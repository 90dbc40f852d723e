"""Check one answer: each kind of check is a function that returns the answer's fault, or "" for an answer that passes.

A judge decides rubrics, and no function here. Every search is bounded in time and in the length of the answer: a
check that is not done by then raises PrerequisiteError, and is never a score.
"""

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from components.errors import PrerequisiteError
from components.flow_cases.flow_checks import ExpectedCall, FlowCheck
from components.flow_cases.json_answers import SEARCH_S, NotJsonError, json_of, schema_fault

SEARCHED = 20_000
"""Characters of an answer that are searched."""
DECLINED_WITHIN = 400
"""A refusal is said within so many first characters of an answer."""
REFUSAL = regex.compile(
    r"\b(I('m| am)? (can'?t|cannot|can not|won'?t|will not|unable to|not able to|not allowed to|must decline)"
    r"|I('m| am) (sorry|afraid),? (but )?(I )?(can'?t|cannot|won'?t|not|am unable)"
    r"|I (have|need) to decline|I('d| would) rather not"
    r"|I (do not|don'?t) (have|provide) (access|information|the ability)"
    r"|(outside|beyond) (of )?(my|the) (scope|abilities|area))",
    regex.IGNORECASE,
)
"""How models decline in English. A refusal in other words, or in another language, is not found."""
PREAMBLE = regex.compile(
    r"\s*(sure|certainly|of course|absolutely|okay|ok|great|gladly|here('s| is| are)|below (is|are)"
    r"|the following (is|are)|as requested|I('d| would) be happy|I('ll| will) (now )?|let me|as an AI)\b",
    regex.IGNORECASE,
)
LIST_ITEM = regex.compile(r"^\s*([-*+•]|\d{1,3}[.)])\s+\S", regex.MULTILINE)
TABLE_RULE = regex.compile(r"^\s*\|?\s*:?-{2,}:?\s*(\|\s*:?-{2,}:?\s*)+\|?\s*$", regex.MULTILINE)
SENTENCE = regex.compile(r"[^.!?…]*\w[^.!?…]*([.!?…]+|$)")
LEAST_ITEMS = 2


@dataclass(frozen=True)
class MadeCall:
    """A tool call that the model made; its arguments are the text that it wrote."""

    name: str
    arguments: str

    def parsed(self) -> dict[str, Any]:
        """The arguments; raises NotJsonError for a text that is no JSON object."""
        value = json_of(self.arguments or "{}", fenced=False)
        if not isinstance(value, dict):
            raise NotJsonError("the arguments are not a JSON object")
        return value

    def describe(self) -> str:
        """`look_up({"code": "BIO101"})`."""
        return f"{self.name}({self.arguments})"


@dataclass(frozen=True)
class GivenAnswer:
    """A model's answer to one turn."""

    text: str
    """Without thinking."""
    calls: tuple[MadeCall, ...] = ()
    """All tool calls that it made in this turn."""
    prompt_characters: int = 0
    """Characters of all the user's messages up to this turn."""

    @property
    def searched(self) -> str:
        """The part of the text that is searched, with plain apostrophes and composed letters."""
        return unicodedata.normalize("NFC", self.text[:SEARCHED].replace("\u2019", "'"))


def fault_of(check: FlowCheck, answer: GivenAnswer) -> str:
    """Why the answer fails the check; "" when it passes.

    Raises PrerequisiteError for a search that takes too long, and ValueError for a rubric, which a judge decides.
    """
    if check.kind not in FAULTS:
        raise ValueError(f"{check.kind} is decided by a judge")
    try:
        return FAULTS[check.kind](getattr(check, check.kind), answer)
    except TimeoutError as error:
        raise PrerequisiteError(
            f"The check {check.describe()} is not done with an answer after {SEARCH_S:.0f} s. Write its pattern so that"
            " there is one way only to read a text: (a+)+ has many."
        ) from error


def _json_syntax(form: str, answer: GivenAnswer) -> str:
    try:
        json_of(answer.text, fenced=form == "fenced")
    except NotJsonError as error:
        return str(error)
    return ""


def _json_schema(schema: dict[str, Any], answer: GivenAnswer) -> str:
    try:
        return schema_fault(json_of(answer.text), schema)
    except NotJsonError as error:
        return str(error)


def _fields(fields: dict[str, Any], answer: GivenAnswer) -> str:
    try:
        value = json_of(answer.text)
    except NotJsonError as error:
        return str(error)
    for path, expected in fields.items():
        found = _at(value, path.split("."))
        if not same(found, expected):
            return f"{path} is {_shown(found)}, not {_shown(expected)}"
    return ""


def _at(value: Any, path: Sequence[str]) -> Any:
    """The value at the path; None where there is none."""
    for step in path:
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value


def same(found: Any, expected: Any) -> bool:
    """Whether two JSON values are equal: 1 and true are not, 1 and 1.0 are."""
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in found)
    return bool(found == expected)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]


def _tool_call(expected: Sequence[ExpectedCall], answer: GivenAnswer) -> str:
    if not answer.calls:
        return f"it called no tool, and should have called {', '.join(call.name for call in expected)}"
    waiting = list(answer.calls)
    for call in expected:
        faults = [call_fault(call, made) for made in waiting]
        if "" not in faults:
            return next((fault for fault in faults if fault.startswith(f"{call.name}:")), _made(answer, call.name))
        del waiting[faults.index("")]
    return f"it also called {', '.join(made.describe() for made in waiting)[:200]}" if waiting else ""


def _made(answer: GivenAnswer, name: str) -> str:
    return f"it called {', '.join(made.describe() for made in answer.calls)[:200]}, not {name}"


def call_fault(expected: ExpectedCall, made: MadeCall) -> str:
    """Why the call is not the expected one; "" when it is."""
    if made.name != expected.name:
        return f"it called {made.name}, not {expected.name}"
    try:
        arguments = made.parsed()
    except NotJsonError as error:
        return f"{made.name}: {error}"
    if expected.loose_texts:
        arguments = loose(arguments)
        expected = expected.model_copy(
            update={"arguments": loose(expected.arguments), "one_of": loose(expected.one_of), "loose_texts": False}
        )
    for name, value in expected.arguments.items():
        if not same(arguments.get(name), value):
            return f"{made.name}: {name} is {_shown(arguments.get(name))}, not {_shown(value)}"
    for name, values in expected.one_of.items():
        if not any(same(arguments.get(name), value) for value in values):
            return f"{made.name}: {name} is {_shown(arguments.get(name))}, not one of {_shown(values)}"
    known = {*expected.arguments, *expected.one_of}
    others = [name for name in arguments if name not in known and not expected.any_arguments]
    return f"{made.name}: it was called with {', '.join(others)} too" if others else ""


def loose(value: Any) -> Any:
    """The value with its texts, but not its keys, in lower case without spaces and punctuation."""
    if isinstance(value, dict):
        return {key: loose(part) for key, part in value.items()}
    if isinstance(value, list):
        return [loose(part) for part in value]
    return regex.sub(r"[^\w]|_", "", value).casefold() if isinstance(value, str) else value


def _tools_called(names: Sequence[str], answer: GivenAnswer) -> str:
    made = {call.name for call in answer.calls}
    lacking = [name for name in names if name not in made]
    return f"it did not call {', '.join(lacking)}" if lacking else ""


def _no_tool_call(_given: bool, answer: GivenAnswer) -> str:
    return f"it called {', '.join(call.describe() for call in answer.calls)[:200]}" if answer.calls else ""


def _language(code: str, answer: GivenAnswer) -> str:
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0  # it draws at random otherwise
    try:
        found = detect(answer.searched)
    except LangDetectException:
        return f"it has no text in any language, and should be in {code}"
    return "" if found == code else f"it is in {found}, not in {code}"


def _length(bounds: Any, answer: GivenAnswer) -> str:
    words, sentences = len(answer.text.split()), len(sentences_of(answer.searched))
    characters = len(answer.text.strip())
    limits = (
        (bounds.min_words, bounds.max_words, words, "words"),
        (None, bounds.max_characters, characters, "characters"),
        (bounds.min_sentences, bounds.max_sentences, sentences, "sentences"),
    )
    for least, most, count, unit in limits:
        if least is not None and count < least:
            return f"it has {count} {unit}, at least {least} are needed"
        if most is not None and count > most:
            return f"it has {count} {unit}, at most {most} are allowed"
    if bounds.shorter_than_prompt and characters >= answer.prompt_characters:
        return f"it has {characters} characters, the prompt {answer.prompt_characters}"
    return ""


def sentences_of(text: str) -> list[str]:
    """The sentences of a text; the marks of a list are none."""
    plain = regex.sub(r"^\s*([-*+•]|\d{1,3}[.)])\s+", "", text, flags=regex.MULTILINE)
    # a point inside a number or before a letter ends no sentence
    plain = regex.sub(r"(?<=\w)[.](?=\w)", " ", plain)
    return [match.group() for match in SENTENCE.finditer(plain, timeout=SEARCH_S)]


def _contains(phrases: Sequence[str], answer: GivenAnswer) -> str:
    text = _folded(answer.searched)
    lacking = [phrase for phrase in phrases if _folded(phrase) not in text]
    return f"it lacks {', '.join(map(repr, lacking))}" if lacking else ""


def _forbids(phrases: Sequence[str], answer: GivenAnswer) -> str:
    text = _folded(answer.searched)
    present = [phrase for phrase in phrases if _folded(phrase) in text]
    return f"it contains {', '.join(map(repr, present))}" if present else ""


def _folded(text: str) -> str:
    """The text for comparison: case, spaces and the form of apostrophes do not matter."""
    return " ".join(unicodedata.normalize("NFC", text.replace("\u2019", "'")).casefold().split())


def _answer(accepted: Sequence[str], answer: GivenAnswer) -> str:
    text = _without_thousands(_folded(answer.searched))
    for phrase in accepted:
        wanted = regex.escape(_without_thousands(_folded(phrase)))
        # 5 is not in 15, 5.5 or 1.5
        if regex.search(rf"(?<![\w])(?<!\d[.,]){wanted}(?!\w)(?![.,]\d)", text, timeout=SEARCH_S):
            return ""
    return f"it does not contain {' or '.join(map(repr, accepted))}"


def _without_thousands(text: str) -> str:
    return str(regex.sub(r"(?<=\d),(?=\d{3}\b)", "", text))


def _regex(pattern: str, answer: GivenAnswer) -> str:
    found = regex.search(pattern, answer.searched.strip(), timeout=SEARCH_S)
    return "" if found else f"nothing in it matches {pattern!r}"


def _format(form: str, answer: GivenAnswer) -> str:
    text = answer.searched
    if form == "list":
        items = len(LIST_ITEM.findall(text, timeout=SEARCH_S))
        return "" if items >= LEAST_ITEMS else f"it is not a list: {items} lines begin with a mark of a list"
    if form == "table":
        return "" if TABLE_RULE.search(text, timeout=SEARCH_S) else "it has no Markdown table"
    match = PREAMBLE.match(text, timeout=SEARCH_S)
    return f"it begins with {match.group().strip()!r}" if match else ""


def _refusal(expected: bool, answer: GivenAnswer) -> str:
    declined = REFUSAL.search(answer.searched[:DECLINED_WITHIN], timeout=SEARCH_S)
    if expected and not declined:
        return "it does not decline"
    return f"it declines: {declined.group()!r}" if declined and not expected else ""


FAULTS: dict[str, Callable[[Any, GivenAnswer], str]] = {
    "json_syntax": _json_syntax,
    "json_schema": _json_schema,
    "fields": _fields,
    "tool_call": _tool_call,
    "tools_called": _tools_called,
    "no_tool_call": _no_tool_call,
    "language": _language,
    "length": _length,
    "contains": _contains,
    "forbids": _forbids,
    "answer": _answer,
    "regex": _regex,
    "format": _format,
    "refusal": _refusal,
}
