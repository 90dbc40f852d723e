"""The sentence of each verdict, for a release manager: it contains the numbers that decided."""

import math

from components.evidence.candidate import HARNESS
from components.evidence.case import Case
from components.evidence.change import Change, about, percent
from components.evidence.limits import DropTest, Limit
from components.policies.policy import Band, side


def passed(found: Case, band: Band, alpha: float) -> str:
    """Why a variant passes its limits and gets this band."""
    average = Limit("average", "drop", band.upper, found.average)
    end = f"{'not over' if band.upper_belongs else 'under'} {found.use_case.in_words_of(band.upper)}"
    bound = found.average.upper(alpha)
    which = "so that the drop" if bound is not None and bound < 0 else "which"
    shown = f"{_moved(average, found)}, {_sure(alpha)} {_at_most(average, found, alpha)}, {which} is {end}"
    parts = [f"{band.opening} for {found.use_case.name}: {shown}"]
    for each in found.limits:
        moved = "" if each.what == "average" else f"{_moved(each, found)}, {_at_most(each, found, alpha)}, "
        parts.append(f"{moved}the limit{'' if moved else ' on the average'} is {_limit(each, found)}")
    return "; ".join(parts)


def rejected(found: Case, exceeded: list[Limit]) -> str:
    """Why a variant is rejected: the limits that it exceeds with confidence."""
    parts = [
        f"{_moved(each, found)}, {_sure(found.rejecting)} {_at_least(each, found)}, the limit is {_limit(each, found)}"
        for each in exceeded
    ]
    return f"Rejected for {found.use_case.name}: {'; '.join(parts)}"


def inconclusive(found: Case, unproven: list[Limit], alpha: float) -> str:
    """Which limits are undecided, and how many more questions would decide them."""
    parts = list(dict.fromkeys(_open(each, found, alpha) for each in unproven))
    needed = [each.test.further_items(each.limit, alpha) for each in unproven]
    known = [each for each in needed if each is not None]
    if len(known) == len(needed):
        many = max(known) > 1
        count = f"about {about(max(known))} more questions are" if many else "one more question is"
        parts.append(f"{count} needed (80 % power)")
    elif all(each.test.informative for each in unproven):
        parts.append("more questions of the same kind are not likely to decide it")
    return f"Inconclusive for {found.use_case.name}: {'; '.join(parts)}"


def reservations(found: Case, *, settled: bool) -> list[str]:
    """The caveats of a verdict: tasks without information, limits left out, questions not evaluated."""
    scores = found.variant.scores
    told = []
    guessed = ", ".join(
        f"{name} ({each.before:.3f}, chance {found.chance[name]:.3f})"
        for name, each in found.tasks.items()
        if not each.informative
    )
    if guessed:
        told.append(f"the baseline is not significantly above chance on {guessed}, so no pass can rest on that")
    if undecidable := [edge for edge in found.use_case.edges if not found.average.decidable(edge)]:
        told.append(
            f"two passes of the baseline differ by more than {found.use_case.in_words_of(max(undecidable))}, so no"
            " smaller drop can be detected"
        )
    missing = [name for name in found.use_case.tasks if name not in found.variant.answers]
    if missing:
        told.append(f"there are no answers for {', '.join(missing)}; the policy skips missing tasks")
    if scores.look < scores.looks:
        asked = sum(each.items for each in found.variant.answers.values())
        why = (
            "because more answers could not change the verdict"
            if settled
            else "enough for that run's policy only: evaluate the rest"
        )
        told.append(f"stopped early after {asked:,} of {scores.planned_items:,} questions, {why}")
    if scores.rows_source == HARNESS:
        told.append(
            "lm-eval's samples contain neither token ids nor truncation, so only the prompts' texts were compared"
        )
    return told


def _open(limit: Limit, found: Case, alpha: float) -> str:
    test = limit.test
    if not test.informative and isinstance(test, DropTest):
        what = "any task" if limit.what == "average" else limit.what
        return f"no drop on {what} can be detected, because the baseline may be guessing"
    if not test.decidable(limit.limit):
        return (
            f"the limit of {_limit(limit, found)} on {limit.what} cannot be tested, because two passes of the"
            " baseline differ by more"
        )
    return (
        f"{_moved(limit, found)}, {_sure(alpha)} {_at_most(limit, found, alpha)}, so it is not shown to be within"
        f" the limit of {_limit(limit, found)}"
    )


def _moved(limit: Limit, found: Case) -> str:
    """`gsm8k fell 5.6 % (0.412 → 0.389)`."""
    test = limit.test
    if isinstance(test, DropTest):
        before, after = (
            sum(each) / len(test.tasks) for each in zip(*((t.before, t.after) for t in test.tasks), strict=True)
        )
        what = "the average" if limit.what == "average" else limit.what
        if test.estimate is None:
            return f"{what} was 0 for the baseline"
        return Change(what, before, after, found.use_case.relative).told(limit.limit)
    if limit.kind == "divergence":
        return f"the KL divergence on {limit.what} is {test.estimate:.3g} nats"
    return f"the perplexity on {limit.what} is {_times(test.estimate)} the baseline's"


def _at_most(limit: Limit, found: Case, alpha: float) -> str:
    """`a drop of at most 0.9 %`, the upper bound."""
    bound = limit.test.upper(alpha)
    if bound is None:
        return "without an upper bound"
    if not isinstance(limit.test, DropTest):
        return f"at most {_amount(bound, limit, found)}"
    if side(bound, 0) < 0:
        return f"a gain of at least {_amount(-bound, limit, found)}"
    return f"a drop of at most {_amount(bound, limit, found)}"


def _at_least(limit: Limit, found: Case) -> str:
    """`a drop of at least 2.4 %`, the lower bound."""
    bound = limit.test.lower(found.rejecting)
    if bound is None:
        return "without a lower bound"
    return f"{'a drop of ' if isinstance(limit.test, DropTest) else ''}at least {_amount(bound, limit, found)}"


def _amount(value: float, limit: Limit, found: Case) -> str:
    if limit.kind == "divergence":
        return f"{value:.3g} nats"
    if limit.kind == "perplexity":
        return f"{_times(value)} the baseline's"
    edges = (limit.limit, *(found.use_case.edges if limit.what == "average" else ()))
    return percent(value, *edges, unit="%" if found.use_case.relative else "points")


def _limit(limit: Limit, found: Case) -> str:
    if limit.kind == "divergence":
        return f"{limit.limit:g} nats"
    if limit.kind == "perplexity":
        return f"{_times(limit.limit)} the baseline's"
    return found.use_case.in_words_of(limit.limit)


def _times(logarithm: float) -> str:
    return f"{math.exp(logarithm):.4g} times"


def _sure(alpha: float) -> str:
    return f"with {100 * (1 - alpha):.4g} % confidence"
