"""Grade the replies of several models, each turn of each question by itself: MT-Bench's single-answer grading."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quantgate.components.judging.chat_questions import ChatQuestion
from quantgate.components.judging.grade_scores import question_grade
from quantgate.components.judging.judge_endpoint import Asked, Judge
from quantgate.components.judging.judge_prompts import JudgeTask, grade_task, read_grade
from quantgate.components.judging.replies import ChatReplies

Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Failure:
    """A reply or a verdict that is missing."""

    model: str
    question: str
    reason: str


@dataclass(frozen=True)
class Graded:
    """The grades of each model by question, None where one is missing, and what is missing."""

    grades: Mapping[str, Mapping[str, float | None]]
    failures: tuple[Failure, ...]


def graded(
    judge: Judge,
    questions: Sequence[ChatQuestion],
    replies: Mapping[str, Mapping[str, ChatReplies]],
    advance: Advance,
) -> Graded:
    """The judge's grades of these replies, which are by model and question."""
    tasks: dict[tuple[str, str, int], JudgeTask] = {}
    for model, by_question in replies.items():
        for question in questions:
            said = by_question[question.id]
            turns = () if said.failure else range(len(question.turns))
            tasks |= {(model, question.id, turn): grade_task(question, said.turns, turn) for turn in turns}

    def about(name: tuple[str, str, int]) -> dict[str, object]:
        model, question, turn = name
        return {"kind": "grade", "model": model, "question": question, "turn": turn + 1}

    asked = judge.ask_all(tasks, read_grade, about, advance)
    failures = failed_replies(questions, replies)
    failures += [
        Failure(model, question, f"turn {turn + 1}: {one.failure}")
        for (model, question, turn), one in asked.items()
        if one.failure
    ]
    return Graded(
        {
            model: {question.id: _grade(asked, model, question, by_question[question.id]) for question in questions}
            for model, by_question in replies.items()
        },
        tuple(failures),
    )


def failed_replies(
    questions: Sequence[ChatQuestion], replies: Mapping[str, Mapping[str, ChatReplies]]
) -> list[Failure]:
    """The replies that are missing, with their reasons."""
    return [
        Failure(model, question.id, by_question[question.id].failure)
        for model, by_question in replies.items()
        for question in questions
        if by_question[question.id].failure
    ]


def _grade(
    asked: Mapping[tuple[str, str, int], Asked], model: str, question: ChatQuestion, replies: ChatReplies
) -> float | None:
    if replies.failure:
        return None
    return question_grade([asked[model, question.id, turn].verdict for turn in range(len(question.turns))])
