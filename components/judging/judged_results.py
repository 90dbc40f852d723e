"""The outcome of an arena, of grading, or of people's votes: a frozen value in one JSON file."""

from collections.abc import Mapping, Sequence

from quantgate.components.judging.arena import PositionBias, Standing, standings
from quantgate.components.judging.chat_questions import ChatQuestion
from quantgate.components.judging.grade_scores import CategoryGrades, compared_grades
from quantgate.components.judging.grading import Failure, Graded
from quantgate.components.judging.judge_endpoint import Judge
from quantgate.components.judging.judge_prompts import PROMPTS
from quantgate.components.judging.pairwise import PairVerdicts
from quantgate.components.judging.votes import CountedVotes
from quantgate.components.storage.artifact import Artifact


class PromptFacts(Artifact):
    """A prompt that the judge may have got."""

    name: str
    version: int
    sha256: str


class JudgeFacts(Artifact):
    """Who judged."""

    model: str
    """The served name; for votes of people how many they were."""
    digest: str = ""
    prompts: tuple[PromptFacts, ...] = ()


class MissingVerdict(Artifact):
    """A reply or a verdict that is missing, for whose sake its question counts for neither model."""

    model: str
    question: str
    reason: str


class JudgedResult(Artifact):
    """Variants beside a baseline, as a judge or people see them."""

    kind: str
    """`arena`, `grades` or `votes`."""
    baseline: str
    source: str
    """Where the questions come from."""
    questions: int
    judge: JudgeFacts
    standings: tuple[Standing, ...] = ()
    grades: tuple[CategoryGrades, ...] = ()
    bias: PositionBias | None = None
    both_bad: int = 0
    votes: int = 0
    cut: dict[str, int] = {}
    """How many replies of each model the limit of tokens cut."""
    without_reference: int = 0
    """Questions about mathematics, reasoning or code without a reference answer."""
    missing: tuple[MissingVerdict, ...] = ()


NEED_REFERENCE = ("math", "reasoning", "coding")


def facts_of(judge: Judge, prefix: str) -> JudgeFacts:
    """The judge, with the prompts whose names begin with `prefix`."""
    prompts = [
        PromptFacts(name=name, version=prompt.version, sha256=prompt.sha256)
        for name, prompt in PROMPTS.items()
        if name.startswith(prefix)
    ]
    return JudgeFacts(model=judge.served.model, digest=judge.served.digest, prompts=tuple(prompts))


def missing_of(failures: Sequence[Failure]) -> tuple[MissingVerdict, ...]:
    """The failures as they are stored."""
    return tuple(MissingVerdict(model=one.model, question=one.question, reason=one.reason) for one in failures)


def without_reference(questions: Sequence[ChatQuestion]) -> int:
    """How many questions need a reference answer and have none."""
    return sum(question.category in NEED_REFERENCE and not question.references for question in questions)


def arena_result(
    judge: Judge, baseline: str, source: str, questions: Sequence[ChatQuestion], compared: PairVerdicts
) -> JudgedResult:
    """The outcome of comparisons."""
    categories = {question.id: question.category for question in questions}
    return JudgedResult(
        kind="arena",
        baseline=baseline,
        source=source,
        questions=len(questions),
        judge=facts_of(judge, "compare"),
        standings=tuple(row for name, shares in compared.shares.items() for row in standings(name, shares, categories)),
        bias=compared.bias,
        without_reference=without_reference(questions),
        missing=missing_of(compared.failures),
    )


def grades_result(
    judge: Judge, baseline: str, source: str, questions: Sequence[ChatQuestion], graded: Graded
) -> JudgedResult:
    """The outcome of grading."""
    categories = {question.id: question.category for question in questions}
    others: Mapping[str, Mapping[str, float | None]] = {
        name: grades for name, grades in graded.grades.items() if name != baseline
    }
    rows = [
        row
        for name, grades in others.items()
        for row in compared_grades(name, graded.grades[baseline], grades, categories)
    ]
    return JudgedResult(
        kind="grades",
        baseline=baseline,
        source=source,
        questions=len(questions),
        judge=facts_of(judge, "grade"),
        grades=tuple(rows),
        without_reference=without_reference(questions),
        missing=missing_of(graded.failures),
    )


def votes_result(baseline: str, variant: str, source: str, counted: CountedVotes) -> JudgedResult:
    """The outcome of people's votes."""
    people = f"{counted.voters} {'person' if counted.voters == 1 else 'people'}"
    return JudgedResult(
        kind="votes",
        baseline=baseline,
        source=source,
        questions=len(counted.shares),
        judge=JudgeFacts(model=people),
        standings=standings(variant, counted.shares, counted.categories),
        both_bad=counted.both_bad,
        votes=counted.votes,
    )
