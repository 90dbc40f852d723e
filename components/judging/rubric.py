"""Rubrics of flows: a judge decides whether an answer meets one. A missing verdict is never a pass or a fault."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from quantgate.components.flow_cases.flow_checks import JudgeRubric
from quantgate.components.flow_cases.flow_file import Flow
from quantgate.components.judging.chat_questions import ChatQuestion
from quantgate.components.judging.judge_endpoint import Asked, Judge
from quantgate.components.judging.judge_prompts import JudgeTask, own_rubric_task, read_answer, rubric_task

Name = TypeVar("Name")


@dataclass(frozen=True)
class RubricCheck:
    """One answer to decide about."""

    flow: Flow
    answers: tuple[str, ...]
    """The model's answers up to the one to decide about, one a turn, given ones included."""
    rubric: JudgeRubric
    model: str = ""
    """Whose answers they are, for the record; the judge does not read it."""

    @property
    def task(self) -> JudgeTask:
        """What the judge is shown."""
        said = tuple(turn.user for turn in self.flow.turns[: len(self.answers)])
        question = ChatQuestion(self.flow.id, self.flow.use_case, said, system=self.flow.system)
        if self.rubric.instructions:
            return own_rubric_task(question, self.answers, self.rubric.instructions, self.rubric.expected)
        return rubric_task(question, self.answers, self.rubric.criterion, self.rubric.expected)


def judged_rubrics(
    judge: Judge, checks: Mapping[Name, RubricCheck], advance: Callable[[int, int, str], None]
) -> dict[Name, Asked]:
    """For each check whether its answer meets the rubric (a bool), or why there is no verdict."""

    def about(name: Name) -> dict[str, object]:
        check = checks[name]
        return {"kind": "rubric", "model": check.model, "question": check.flow.id, "turn": len(check.answers)}

    return judge.ask_all({name: check.task for name, check in checks.items()}, read_answer, about, advance)


def missing_for_both(models: Sequence[Mapping[Name, Asked]]) -> set[Name]:
    """The checks without a verdict for any of the models: they count for none."""
    return {name for verdicts in models for name, asked in verdicts.items() if asked.failure}
