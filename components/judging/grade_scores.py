"""Grades from 1 to 10 by category, and the variant's drop with bounds: the same questions, paired.

A question's grade is the mean of its turns' grades. The bounds of the mean difference are those of the gate
(`components/evidence/margin.py`), on the grades as scores from 0 to 1; they are given in points of the scale.
"""

from collections.abc import Mapping
from math import fsum

import numpy as np

from quantgate.components.evidence import margin
from quantgate.components.judging.arena import ALPHA, EVERYTHING
from quantgate.components.judging.judge_prompts import LEAST, MOST
from quantgate.components.storage.artifact import Artifact

RANGE = MOST - LEAST


class CategoryGrades(Artifact):
    """A variant's grades beside the baseline's, in one category of questions or in all."""

    variant: str
    category: str
    questions: int
    """Those with grades of both models."""
    missing: int
    """Those without: for both models a question counts or does not."""
    baseline: float | None = None
    """The mean grade, 1 to 10; None without questions."""
    grade: float | None = None
    """The variant's."""
    drop: float | None = None
    """In points of the scale; below 0 the variant is better."""
    lower: float | None = None
    upper: float | None = None

    @property
    def finding(self) -> str:
        """What the bounds show: `better`, `worse` or `open`."""
        if self.lower is None or self.upper is None:
            return "open"
        return "worse" if self.lower > 0 else "better" if self.upper < 0 else "open"


Grades = Mapping[str, float | None]
"""A model's grade on each question; None where a reply or a judgement is missing."""


def question_grade(turns: list[float | None]) -> float | None:
    """The grade of a question from those of its turns; None if one is missing."""
    known = [grade for grade in turns if grade is not None]
    return fsum(known) / len(known) if known and len(known) == len(turns) else None


def compared_grades(
    variant: str, before: Grades, after: Grades, categories: Mapping[str, str]
) -> tuple[CategoryGrades, ...]:
    """The comparison over all questions, then that of each category if there are several."""
    names = sorted(set(categories.values()))
    groups = {EVERYTHING: list(before)}
    if len(names) > 1:
        groups |= {name: [question for question in before if categories[question] == name] for name in names}
    return tuple(_compared(variant, category, before, after, group) for category, group in groups.items())


def _compared(variant: str, category: str, before: Grades, after: Grades, questions: list[str]) -> CategoryGrades:
    both = [
        (one, other)
        for question in questions
        if (one := before[question]) is not None and (other := after[question]) is not None
    ]
    empty = CategoryGrades(variant=variant, category=category, questions=len(both), missing=len(questions) - len(both))
    if not both:
        return empty
    scores = (np.asarray(both, dtype=np.float64) - LEAST) / RANGE
    pairs = [margin.pairs(scores[:, 0], scores[:, 1])]
    means = [fsum(column) / len(both) for column in zip(*both, strict=True)]
    return empty.model_copy(
        update={
            "baseline": means[0],
            "grade": means[1],
            "drop": means[0] - means[1],
            "lower": RANGE * margin.lower(pairs, margin.ABSOLUTE, ALPHA),
            "upper": RANGE * margin.upper(pairs, margin.ABSOLUTE, ALPHA),
        }
    )
