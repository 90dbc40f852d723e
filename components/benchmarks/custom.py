"""Custom tasks: a folder with `set.yaml` and `items.jsonl` becomes a task of lm-eval.

`set.yaml` says how the answers are scored. `items.jsonl` has one item a line, with `id`, `question`, optionally a
`context` before the question and a `cluster` (items that belong together), and an `answer`:

    choice  the right one of its `choices`: its position, counted from 0, or its text
    exact   the right text, or a list of right texts
    regex   a regular expression that the model's answer must match somewhere

`sets/canopy` is an example.
"""

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import regex
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.yaml_file import CORRECT, describe_error, parse

if TYPE_CHECKING:
    import datasets

SETS = Path(__file__).parent / "sets"
SET_FILE, ITEMS_FILE = "set.yaml", "items.jsonl"
SPLIT = "test"

ANSWER_CHARACTERS = 4096
"""A regular expression is searched in this many first characters of an answer."""
SEARCH_S = 5.0
FAULTS_SHOWN = 5


def check(holds: Any, refusal: str) -> None:
    """Raise ValueError with the message `refusal` unless `holds` is true."""
    if not holds:
        raise ValueError(refusal)


def full_text(value: str) -> str:
    """The text without surrounding white space; raises ValueError when it is empty."""
    check(value.strip(), "it is empty")
    return value.strip()


def as_id(value: Any) -> Any:
    """The id as text; a whole number is accepted too."""
    check(type(value) in (int, str), "it must be a text or a whole number")
    return str(value)


def as_accepted(value: Any) -> Any:
    """The tuple of right texts, from one text or a list of texts."""
    texts = [value] if isinstance(value, str) else value
    fits = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
    check(fits, "it must be a text or a list of texts")
    return tuple(texts)


def as_pattern(value: Any) -> Any:
    """A tuple with the regular expression; raises ValueError for one that matches an empty answer."""
    check(isinstance(value, str), "it must be the text of a regular expression")
    try:
        pattern = regex.compile(value)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from error
    check(not pattern.search(""), f"{value!r} is found in an empty answer, which would be scored as right")
    return (value,)


Text = Annotated[str, AfterValidator(full_text)]
# YAML and JSON have lists where a frozen value has tuples
Choices = Annotated[tuple[Text, ...], Field(min_length=2, strict=False)]
Texts = Annotated[list[str], Field(min_length=1)]
Stops = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]


class Settings(BaseModel):
    """The content of a custom task's `set.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$")]
    """The task's name in policies and reports."""
    description: Annotated[Text, Field(pattern="^.+$")]
    """What the task tests, in one line."""
    answer: Literal["choice", "exact", "regex"]
    """How answers are given and scored: a choice among several, an exact text, or a text that matches a pattern."""
    instruction: str = ""
    """The text before every item."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """The limit of tokens for a generated answer; `stop` and `ignore_case` apply to generated answers too."""
    stop: Stops = ("\n",)
    """The texts that end a generated answer."""
    ignore_case: bool = True
    """Whether upper and lower case count as equal."""
    sensitive_to: str = ""
    """The ability of a model that the task measures."""

    @model_validator(mode="after")
    def _fits_the_answer(self) -> Self:
        unused = [name for name in ("max_tokens", "stop", "ignore_case") if name in self.model_fields_set]
        fits = self.answer != "choice" or not unused
        check(fits, f"{', '.join(unused)}: only for answers that the model writes, exact and regex")
        return self


class Item(BaseModel):
    """One question of a set."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    id: Annotated[Text, BeforeValidator(as_id, json_schema_input_type=str | int)]
    """The item's own name or number in its file."""
    question: Text
    """The question."""
    context: str = ""
    """A text before the question."""
    cluster: str = ""
    """The name of a group of items that belong together, e.g. because they are about one text."""


class ChoiceItem(Item):
    """A multiple-choice item."""

    choices: Choices
    """The answers to choose from, all different."""
    answer: int
    """The right choice: its position, counted from 0, or its text."""

    @field_validator("choices")
    @classmethod
    def _differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check(len(set(value)) == len(value), "two of them are the same")
        return value

    @field_validator("answer", mode="before", json_schema_input_type=int | str)
    @classmethod
    def _position(cls, value: Any, info: ValidationInfo) -> Any:
        choices = info.data.get("choices", ())
        if isinstance(value, str) and choices:
            check(value.strip() in choices, f"{value!r} is not among the choices")
            return choices.index(value.strip())
        outside = type(value) is int and choices and not 0 <= value < len(choices)
        check(not outside, f"{value} is not a position of a choice: positions are 0 to {len(choices) - 1}")
        return value


class ExactItem(Item):
    """An item whose right answers are the texts in `answer`."""

    answer: Annotated[tuple[Text, ...], BeforeValidator(as_accepted, json_schema_input_type=str | Texts)]
    """The right text, or a list of right texts."""


class RegexItem(Item):
    """An item whose right answers match the regular expression, the only text in `answer`."""

    answer: Annotated[tuple[str, ...], BeforeValidator(as_pattern, json_schema_input_type=str)]
    """A regular expression that the model's answer must match somewhere."""


AnyItem = ChoiceItem | ExactItem | RegexItem
KINDS: dict[str, type[AnyItem]] = {"choice": ChoiceItem, "exact": ExactItem, "regex": RegexItem}


@dataclass(frozen=True)
class CustomSet:
    """A test set as its two files describe it; Settings explains the first fields."""

    name: str
    description: str
    answer: str
    instruction: str
    max_tokens: int
    stop: tuple[str, ...]
    ignore_case: bool
    sensitive_to: str
    items: tuple[AnyItem, ...]
    digest: str
    """sha256 over both files."""
    folder: str

    @property
    def metric(self) -> str:
        """lm-eval's name of the set's metric.

        Choices of a custom task are phrases of unequal length, and `acc` would prefer the shortest. `acc_norm` divides
        a choice's log-likelihood by its number of characters.
        """
        return "acc_norm" if self.answer == "choice" else "exact_match"

    @property
    def chance(self) -> float:
        """What guessing scores."""
        shares = [1 / len(item.choices) for item in self.items if isinstance(item, ChoiceItem)]
        return fmean(shares) if shares else 0.0


def read_set(folder: Path) -> CustomSet:
    """The test set in the folder; raises PrerequisiteError with file, line and fault."""
    texts, digest = {}, hashlib.sha256()
    for file in (folder / SET_FILE, folder / ITEMS_FILE):
        try:
            data = file.read_bytes()
            texts[file.name] = data.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            needed = f"A test set is a folder with {SET_FILE} and {ITEMS_FILE}, both in UTF-8"
            raise PrerequisiteError(f"{file} cannot be read: {error}. {needed}.") from error
        digest.update(hashlib.sha256(data).digest())
    settings = parse(Settings, texts[SET_FILE], str(folder / SET_FILE))
    items = read_items(texts[ITEMS_FILE], settings, str(folder / ITEMS_FILE))
    return CustomSet(**settings.model_dump(), items=items, digest=digest.hexdigest(), folder=str(folder))


def read_items(text: str, settings: Settings, source: str) -> tuple[AnyItem, ...]:
    """The items that the lines of the text describe; raises PrerequisiteError with the first faults."""
    items, faults, line_of = [], [], dict[str, int]()
    # not splitlines: JSON allows U+2028 and its like inside a text
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = item_of(line, settings)
            check(item.id not in line_of, f"the id {item.id} is on line {line_of.get(item.id)} already")
        except ValidationError as error:
            faults += [
                f"line {number}: {describe_error(KINDS[settings.answer], fault['loc'], fault)}"
                for fault in error.errors()
            ]
        except ValueError as error:
            faults.append(f"line {number}: {error}")
        else:
            line_of[item.id] = number
            items.append(item)
    if not items and not faults:
        faults.append("line 1: there is no item")
    if faults:
        more = [f"and {len(faults) - FAULTS_SHOWN} more"] if len(faults) > FAULTS_SHOWN else []
        raise PrerequisiteError(f"{source}, {'; '.join(faults[:FAULTS_SHOWN] + more)}. {CORRECT}")
    return tuple(items)


def item_of(line: str, settings: Settings) -> AnyItem:
    """The item that one line describes; raises ValueError (pydantic's is one) saying what is wrong."""
    try:
        content = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"this is not JSON: {error}") from error
    kind = KINDS[settings.answer]
    check(isinstance(content, dict), f"an object is expected, of {', '.join(kind.model_fields)}")
    item = kind.model_validate(content)
    for text in item.answer if isinstance(item, ExactItem) else ():
        ends = [stop for stop in settings.stop if stop in text]
        check(not ends, f"answer: {text!r} can never be written, as {ends} ends an answer (stop in {SET_FILE})")
    return item


def rows(test_set: CustomSet) -> "datasets.Dataset":
    """The items in order, with the columns id, question, context, choices (empty unless chosen), answer, cluster."""
    import datasets

    text = datasets.Value("string")
    answer = datasets.Value("int64") if test_set.answer == "choice" else [text]
    columns = {"id": text, "question": text, "context": text, "choices": [text], "answer": answer, "cluster": text}
    return datasets.Dataset.from_list(
        [{"choices": (), **item.model_dump()} for item in test_set.items], features=datasets.Features(columns)
    )


def task_config(test_set: CustomSet) -> dict[str, Any]:
    """The config of lm-eval's ConfigurableTask, but for `custom_dataset`, which gives `rows` as the split `test`."""
    config: dict[str, Any] = {
        "task": test_set.name,
        "test_split": SPLIT,
        "num_fewshot": 0,
        # a function: lm-eval renders texts with Jinja, to which braces in an item or an instruction would be code
        "doc_to_text": partial(prompt, instruction=test_set.instruction),
        "doc_to_target": "answer",
        "metadata": {"version": test_set.digest[:12]},
    }
    if test_set.answer == "choice":
        metrics = ["acc", "acc_norm"]
        config |= {"output_type": "multiple_choice", "doc_to_choice": "choices"}
    else:
        metrics = ["exact_match"]
        until = {
            "until": list(test_set.stop),
            "max_gen_toks": test_set.max_tokens,
            "do_sample": False,
            "temperature": 0.0,
        }
        score = partial(exact_score if test_set.answer == "exact" else regex_score, ignore_case=test_set.ignore_case)
        config |= {"output_type": "generate_until", "generation_kwargs": until, "process_results": score}
    means = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics]
    return {**config, "metric_list": means}


def prompt(row: dict[str, Any], instruction: str = "") -> str:
    """What the model reads before it answers."""
    parts = (instruction.strip(), row["context"].strip(), f"Question: {row['question']}\nAnswer:")
    return "\n\n".join(part for part in parts if part)


def exact_score(row: dict[str, Any], answers: list[str], ignore_case: bool) -> dict[str, float]:
    """1 for an answer that is one of the accepted texts, without surrounding white space."""
    answer, *accepted = (compared(text, ignore_case) for text in (answers[0], *row["answer"]))
    return {"exact_match": float(answer in accepted)}


def compared(text: str, ignore_case: bool) -> str:
    """The text normalized for comparison: an é is the same letter as one code point or as two."""
    text = unicodedata.normalize("NFC", text.strip())
    return text.casefold() if ignore_case else text


def regex_score(row: dict[str, Any], answers: list[str], ignore_case: bool) -> dict[str, float]:
    """1 for an answer whose first ANSWER_CHARACTERS match the expression, without surrounding white space."""
    pattern = regex.compile(row["answer"][0], regex.IGNORECASE if ignore_case else 0)
    try:
        match = pattern.search(answers[0].strip()[:ANSWER_CHARACTERS], timeout=SEARCH_S)
    except TimeoutError as error:
        raise PrerequisiteError(
            f"The regular expression of item {row['id']} is not done with an answer after {SEARCH_S:.0f} s. Write it so"
            " that there is one way only to read a text: (a+)+ has many."
        ) from error
    return {"exact_match": float(match is not None)}
