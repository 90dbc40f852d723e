"""Questions of one or more turns: the 80 of MT-Bench, or a file of prompts.

MT-Bench is of L. Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena (NeurIPS 2023, arXiv 2306.05685).
Its rows are read from the hub or a mirror, as the data set HuggingFaceH4/mt_bench_prompts (Apache-2.0), or from a file
in the form of FastChat's `question.jsonl`.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantgate.components.benchmarks.splits import Split
from quantgate.components.errors import PrerequisiteError

if TYPE_CHECKING:
    from quantgate.components.benchmarks.splits import Source

MT_BENCH = "mt-bench"
MT_BENCH_SPLIT = Split("HuggingFaceH4/mt_bench_prompts", "", "train")
MT_BENCH_QUESTIONS = 80
TURNS = ("turns", "prompt", "messages")
"""The keys under which a row may have its turns."""
NO_CATEGORY = "all"
DIGITS = 12
"""Hex digits of the id of a row without one."""


@dataclass(frozen=True)
class ChatQuestion:
    """What a user says in one conversation, turn by turn."""

    id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()
    """A right answer to each turn; empty where there is none."""
    system: str = ""
    """The system prompt; empty for none."""


def mt_bench(source: "Source") -> tuple[ChatQuestion, ...]:
    """MT-Bench's questions from the hub or a mirror; raises PrerequisiteError for anything but its 80 questions."""
    rows = source.split(MT_BENCH_SPLIT)
    if rows is None:
        raise PrerequisiteError(
            f"{source.description} has no {MT_BENCH_SPLIT.stem}. Add it: quantgate mirror mt-bench DIR"
        )
    questions = checked(
        [question_of(dict(row), f"row {number}") for number, row in enumerate(rows.dataset, 1)], rows.of
    )
    if len(questions) != MT_BENCH_QUESTIONS or any(len(question.turns) != 2 for question in questions):
        raise PrerequisiteError(
            f"{source.description} has {len(questions)} questions in {MT_BENCH_SPLIT.stem}, and MT-Bench has "
            f"{MT_BENCH_QUESTIONS} of two turns. Make the mirror again, or name a file: --questions FILE."
        )
    return questions


def read_questions(file: Path) -> tuple[ChatQuestion, ...]:
    """The questions in a JSONL file; raises PrerequisiteError, with the line, for a row that is no question.

    A row has `turns` (a list), `prompt` (a text, or MT-Bench's list) or `messages` (OpenAI's form: an optional system
    message, then the user's), and may have `id`, `category`, `system` and `reference` (a text, or a list a turn).
    """
    return checked([question_of(row, f"{file}, line {line}") for line, row in lines_of(file)], str(file))


def lines_of(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """The file's JSON objects with their line numbers; raises PrerequisiteError for anything else."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PrerequisiteError(f"{file} cannot be read: {error}. Name a JSONL file.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PrerequisiteError(f"{file}, line {number}: this is not JSON: {error}. Correct the file.") from error
        if not isinstance(row, dict):
            raise PrerequisiteError(f"{file}, line {number}: an object with a prompt is expected. Correct the file.")
        rows.append((number, row))
    return rows


def question_of(row: Mapping[str, Any], where: str) -> ChatQuestion:
    """The question in a row of any of the known forms; raises PrerequisiteError, which names `where`."""
    given = [key for key in TURNS if row.get(key)]
    if len(given) != 1:
        found = "has none of" if not given else "has more than one of"
        raise PrerequisiteError(f"{where} {found} {', '.join(TURNS)}. Give it one: the user's words.")
    system, turns = as_turns(row[given[0]], where) if given[0] == "messages" else ("", row[given[0]])
    turns = [turns] if isinstance(turns, str) else turns
    references = row.get("reference") or ()
    references = [references] if isinstance(references, str) else references
    if not all_texts(turns) or not all_texts(references) or any(not turn.strip() for turn in turns):
        raise PrerequisiteError(f"{where}: a turn or reference is not a text, or is empty. Correct the file.")
    if references and len(references) != len(turns):
        raise PrerequisiteError(f"{where} has {len(turns)} turns and {len(references)} references. Give one a turn.")
    system = str(row.get("system") or system)
    return ChatQuestion(
        id=id_of(row, system, turns),
        category=str(row.get("category") or NO_CATEGORY),
        turns=tuple(turns),
        references=tuple(references),
        system=system,
    )


def as_turns(messages: Any, where: str) -> tuple[str, list[str]]:
    """The system prompt and the user's turns of OpenAI's messages.

    The models answer each turn themselves, so a saved answer of an assistant is refused.
    """
    if not isinstance(messages, list) or not messages:
        raise PrerequisiteError(f"{where}: messages is no list of messages. Correct the file.")
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    system = messages[0].get("content") or "" if roles[0] == "system" else ""
    spoken = messages[1:] if roles[0] == "system" else messages
    if not spoken or any(not isinstance(message, dict) or message.get("role") != "user" for message in spoken):
        raise PrerequisiteError(
            f"{where}: after an optional system message, all messages must be the user's: the models answer each turn "
            "themselves. Leave the assistant's messages out."
        )
    return str(system), [message.get("content") for message in spoken]


def all_texts(values: Any) -> bool:
    """Whether it is a list of texts."""
    return isinstance(values, Sequence) and all(isinstance(value, str) for value in values)


def id_of(row: Mapping[str, Any], system: str, turns: Sequence[str]) -> str:
    """The row's own id, or a hash of what the model reads."""
    own = next((row[key] for key in ("id", "question_id", "prompt_id") if row.get(key) not in (None, "")), None)
    content = json.dumps([system, *turns]).encode()
    return str(own) if own is not None else hashlib.sha256(content).hexdigest()[:DIGITS]


def checked(questions: list[ChatQuestion], source: str) -> tuple[ChatQuestion, ...]:
    """The questions; raises PrerequisiteError for none, and for an id that is there twice."""
    if not questions:
        raise PrerequisiteError(f"{source} has no questions.")
    twice = [name for name, count in Counter(question.id for question in questions).items() if count > 1]
    if twice:
        raise PrerequisiteError(f"{source} has the question {twice[0]} twice. Give each row an id of its own.")
    return tuple(questions)


def with_references(questions: Sequence[ChatQuestion], file: Path) -> tuple[ChatQuestion, ...]:
    """The questions with the reference answers in a file of FastChat's form; raises PrerequisiteError for others."""
    answers: dict[str, list[str]] = {}
    for line, row in lines_of(file):
        try:
            answers[str(row["question_id"])] = row["choices"][0]["turns"]
        except (KeyError, IndexError, TypeError) as error:
            raise PrerequisiteError(
                f"{file}, line {line}: a reference answer has question_id and choices[0].turns. Correct the file."
            ) from error
    for question in questions:
        turns = answers.get(question.id)
        if turns is not None and (not all_texts(turns) or len(turns) != len(question.turns)):
            raise PrerequisiteError(
                f"{file}: question {question.id} has {len(question.turns)} turns. Give a text for each."
            )
    return tuple(replace(one, references=tuple(answers.get(one.id, one.references))) for one in questions)


def chosen(questions: Sequence[ChatQuestion], limit: int, seed: int = 0) -> tuple[ChatQuestion, ...]:
    """At most `limit` questions, drawn evenly from the categories in a fixed order; all for 0."""
    if not limit or limit >= len(questions):
        return tuple(questions)
    shuffled = random.Random(seed).sample(questions, len(questions))
    rank: Counter[str] = Counter()
    order = []
    for place, question in enumerate(shuffled):
        order.append((rank[question.category], place, question))
        rank[question.category] += 1
    kept = {question.id for _, _, question in sorted(order, key=lambda entry: entry[:2])[:limit]}
    return tuple(question for question in questions if question.id in kept)
