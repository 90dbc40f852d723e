"""The checks of an answer, as a flow file has them: one key a check.

    - json_syntax: strict
    - tool_call: {name: look_up_course, arguments: {code: BIO101}}
    - length: {max_words: 60}

`kind` names the key. Checks of one kind are one task for the gate, `flows:json_syntax` for example.
"""

from typing import Annotated, Any, Literal, Self

import regex
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
RUBRIC = "rubric"
"""The kind of the check that a judge decides."""

CODES = """
af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt ro ru sk
sl so sq sv sw ta te th tl tr uk ur vi zh-cn zh-tw
"""
LANGUAGES = tuple(CODES.split())
"""The codes of the languages that langdetect knows."""

Phrase = Annotated[str, Field(min_length=1)]


def as_list(value: Any) -> Any:
    """A list, from one value or a list of values; raises ValueError for an empty list."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError("a list is expected, with one entry or more")
    return values


def as_phrases(value: Any) -> Any:
    """A list of texts, from one or several; a number is a text too, as YAML reads `answer: 42`."""
    return [str(phrase) if type(phrase) in (int, float) else phrase for phrase in as_list(value)]


def known_language(code: str) -> str:
    """The code; raises ValueError, with all codes, for an unknown one."""
    if code not in LANGUAGES:
        raise ValueError(f"{code!r} is no known language. The languages are {', '.join(LANGUAGES)}")
    return code


def as_rubric(value: Any) -> Any:
    """A rubric, from its criterion alone or a mapping."""
    return {"criterion": value} if isinstance(value, str) else value


def as_pattern_text(value: str) -> str:
    """The regular expression; raises ValueError for an invalid one, or one that is found in an empty answer."""
    try:
        pattern = regex.compile(value)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from error
    if pattern.search(""):
        raise ValueError(f"{value!r} is found in an empty answer, so this check would pass without an answer")
    return value


WrittenPhrase = Phrase | int | float
Phrases = Annotated[
    tuple[Phrase, ...],
    Field(strict=False),
    BeforeValidator(
        as_phrases, json_schema_input_type=WrittenPhrase | Annotated[list[WrittenPhrase], Field(min_length=1)]
    ),
]
Pattern = Annotated[str, AfterValidator(as_pattern_text)]
Count = Annotated[int, Field(ge=0)]


class ExpectedCall(BaseModel):
    """One call of a tool that the answer must have."""

    model_config = STRICT

    name: Annotated[str, Field(min_length=1)]
    """The tool's name."""
    arguments: dict[str, JsonValue] = {}
    """The arguments with their exact values."""
    one_of: dict[str, Annotated[list[JsonValue], Field(min_length=1)]] = {}
    """Arguments of which several values are right; null in the list means that it may be left out."""
    loose_texts: bool = False
    """Whether texts in arguments are compared without case, spaces and punctuation."""
    any_arguments: bool = False
    """Whether the call may have any arguments beside these."""


class LengthBounds(BaseModel):
    """The bounds of an answer's length."""

    model_config = STRICT

    min_words: Count | None = None
    """The fewest words."""
    max_words: Count | None = None
    """The most words."""
    max_characters: Count | None = None
    """The most characters."""
    min_sentences: Count | None = None
    """The fewest sentences."""
    max_sentences: Count | None = None
    """The most sentences."""
    shorter_than_prompt: bool = False
    """Whether the answer must have fewer characters than all the user's messages."""

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"it has no bound: give one of {', '.join(type(self).model_fields)}")
        return self


class JudgeRubric(BaseModel):
    """What a judge decides about an answer."""

    model_config = STRICT

    criterion: Annotated[str, Field(min_length=1)]
    """What a good answer does, in a sentence: the judge answers whether this one does it."""
    expected: str = ""
    """A reference answer for the judge."""
    instructions: str = ""
    """The judge's whole prompt, in place of the built-in one, with {{ inputs }}, {{ outputs }}, {{ expectations }}."""


OneOrMoreCalls = Annotated[
    tuple[ExpectedCall, ...],
    Field(strict=False),
    BeforeValidator(as_list, json_schema_input_type=ExpectedCall | Annotated[list[ExpectedCall], Field(min_length=1)]),
]
Format = Literal["list", "table", "no_preamble"]
JsonForm = Literal["strict", "fenced"]


class FlowCheck(BaseModel):
    """One check of an answer: exactly one key."""

    model_config = STRICT

    json_syntax: JsonForm | None = None
    """The answer is JSON and nothing else; `fenced` allows a Markdown code fence around it."""
    json_schema: dict[str, JsonValue] | None = None
    """A JSON Schema (2020-12) of the answer's JSON, which may be in a code fence."""
    fields: Annotated[dict[str, JsonValue], Field(min_length=1)] | None = None
    """Values in the answer's JSON by path, as `questions.0.answer`: each must be exactly this."""
    tool_call: OneOrMoreCalls | None = None
    """The calls of tools that the answer must have, in any order, and no others."""
    tools_called: Phrases | None = None
    """The names of the tools that the answer must call, with whatever arguments."""
    no_tool_call: Literal[True] | None = None
    """The answer must call no tool."""
    language: Annotated[str, AfterValidator(known_language)] | None = None
    """The answer's language, as langdetect names it: en, de, zh-cn."""
    length: LengthBounds | None = None
    """The bounds of the answer's length."""
    contains: Phrases | None = None
    """Phrases that the answer must contain, all of them; upper and lower case are the same."""
    forbids: Phrases | None = None
    """Phrases that the answer must not contain, none of them."""
    answer: Phrases | None = None
    """The right answer, or several that are right: one of them must be in the answer as whole words."""
    regex: Pattern | None = None
    """A regular expression that must match somewhere in the answer."""
    format: Format | None = None
    """The answer's form: a list, a Markdown table, or no preamble such as "Sure, here is"."""
    refusal: bool | None = None
    """Whether the model must decline, or must not; by the phrases with which models decline."""
    rubric: Annotated[JudgeRubric, BeforeValidator(as_rubric, json_schema_input_type=JudgeRubric | str)] | None = None
    """What a judge decides; needs a judge."""

    @model_validator(mode="after")
    def _is_one_check(self) -> Self:
        given = [name for name in KINDS_OF_CHECKS if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(KINDS_OF_CHECKS)
            raise ValueError(f"a check has one key, this one has {', '.join(given) or 'none'}. The checks are {names}")
        if self.json_schema is not None:
            from components.flow_cases.json_answers import check_schema

            check_schema(self.json_schema)
        return self

    @property
    def kind(self) -> str:
        """The check's key."""
        return next(name for name in KINDS_OF_CHECKS if getattr(self, name) is not None)

    @property
    def needs_tools(self) -> bool:
        """Whether the check is about calls of tools."""
        return self.kind in ("tool_call", "tools_called", "no_tool_call")

    def describe(self) -> str:
        """The check in one line: `length: {"max_words": 60}`."""
        return (
            f"{self.kind}: {self.model_dump_json(include={self.kind}, exclude_defaults=True)[len(self.kind) + 4 : -1]}"
        )


KINDS_OF_CHECKS = tuple(FlowCheck.model_fields)
"""The names of the checks."""
