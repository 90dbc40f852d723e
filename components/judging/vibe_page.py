"""A page on which people vote blind: each question with the replies A and B; a seed draws the order and the sides.

The page is one HTML file without any outside resource. It does not say which model is A: the key does, in a file of its
own that stays with whoever reads the votes.
"""

import json
import random
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Literal

from markupsafe import Markup

from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.chat_questions import ChatQuestion
from quantgate.components.judging.grading import Failure, failed_replies
from quantgate.components.judging.replies import ChatReplies
from quantgate.components.storage.artifact import Artifact
from quantgate.components.storage.page_templates import templates_of


class KeyEntry(Artifact):
    """One question of the page."""

    question: str
    category: str
    variant_is: Literal["A", "B"]


class VibeKey(Artifact):
    """Which model is A and which is B on a page."""

    form: Literal[1] = 1
    page: str
    """The page's digest, which its votes name."""
    seed: int
    baseline: str
    variant: str
    entries: tuple[KeyEntry, ...]
    missing: dict[str, str] = {}
    """The categories of questions that are not on the page, as a reply is missing, by question."""


def vibe_page(
    questions: Sequence[ChatQuestion],
    replies: Mapping[str, Mapping[str, ChatReplies]],
    seed: int,
) -> tuple[str, VibeKey, tuple[Failure, ...]]:
    """The page as HTML, its key, and the missing replies; `replies` are the baseline's and the variant's.

    Raises PrerequisiteError if no question has both replies.
    """
    baseline, variant = replies
    complete = [
        question
        for question in questions
        if not any(by_question[question.id].failure for by_question in replies.values())
    ]
    if not complete:
        reason = next(iter(failed_replies(questions, replies)))
        raise PrerequisiteError(
            f"No question has replies of both models; {reason.model}, {reason.question}: {reason.reason}"
        )
    source = random.Random(seed)
    source.shuffle(complete)
    sides: list[Literal["A", "B"]] = [source.choice(("A", "B")) for _ in complete]
    shown = []
    for question, side in zip(complete, sides, strict=True):
        turns_a, turns_b = (replies[variant if side == name else baseline][question.id].turns for name in ("A", "B"))
        turns = [{"user": user, "a": a, "b": b} for user, a, b in zip(question.turns, turns_a, turns_b, strict=True)]
        shown.append({"system": question.system, "turns": turns})
    page = sha256(json.dumps(shown).encode()).hexdigest()
    key = VibeKey(
        page=page,
        seed=seed,
        baseline=baseline,
        variant=variant,
        entries=tuple(
            KeyEntry(question=question.id, category=question.category, variant_is=side)
            for question, side in zip(complete, sides, strict=True)
        ),
        missing={question.id: question.category for question in questions if question not in complete},
    )
    return _html(page, shown), key, tuple(failed_replies(questions, replies))


def _html(page: str, shown: Sequence[Mapping[str, object]]) -> str:
    environment = templates_of("judging", autoescape=True)
    script = Markup(environment.get_template("vibe.js.j2").render())  # noqa: S704 (our own file, with no value in it)
    script = Markup("\n") + script
    allowed = b64encode(sha256(str(script).encode()).digest()).decode()
    return environment.get_template("vibe.html.j2").render(page=page, shown=shown, script=script, allowed=allowed)
