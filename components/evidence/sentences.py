"""What the evidence says, for a release manager: one sentence that holds the numbers that decided."""

import math

from components.evidence.candidate import HARNESS
from components.evidence.case import Case
from components.evidence.change import Change, about, percent
from components.evidence.limits import DropTest, Limit
from components.policies.policy import Band, side


def passed(found: Case, band: Band, alpha: float) -> str:
    """Why a variant gets the band that it gets."""
    average = Limit("average", "drop", band.upper, found.average)
    end = f"{'not over' if band.upper_belongs else 'under'} {found.use_case.in_words_of(band.upper)}"
    bound = found.average.upper(alpha)
    which = "so that the drop" if bound is not None and bound < 0 else "which"
    shown = f"{_moved(average, found)}, {_sure(alpha)} {_at_most(average, found, alpha)}, {which} is {end}"
    parts = [f"{band.opening} for {found.use_case.name}: {shown}"]
    for each in found.limits:
        moved = "" if each.what == "average" else f"{_moved(each, found)}, {_at_most(each, found, alpha)}, "
        parts.append(f"{moved}the limit{'' if moved else ' on it'} is {_limit(each, found)}")
    return "; ".join(parts)


def rejected(found: Case, exceeded: list[Limit]) -> str:
    """Why a variant is surely over its limits."""
    parts = [
        f"{_moved(each, found)}, {_sure(found.rejecting)} {_at_least(each, found)}, the limit is {_limit(each, found)}"
        for each in exceeded
    ]
    return f"Rejected for {found.use_case.name}: {'; '.join(parts)}"


def inconclusive(found: Case, unproven: list[Limit], alpha: float) -> str:
    """What is not settled, and what would settle it."""
    parts = list(dict.fromkeys(_open(each, found, alpha) for each in unproven))
    needed = [each.test.further_items(each.limit, alpha) for each in unproven]
    known = [each for each in needed if each is not None]
    if len(known) == len(needed):
        many = max(known) > 1
        count = f"about {about(max(known))} further questions" if many else "one further question"
        parts.append(f"{count} would settle it, at 80 % power")
    elif all(each.test.informative for each in unproven):
        parts.append("more of these questions are not likely to settle it")
    return f"Inconclusive for {found.use_case.name}: {'; '.join(parts)}"


def reservations(found: Case, *, settled: bool) -> list[str]:
    """What a reader must know beside it: tasks that can show nothing, limits left out, questions not asked."""
    scores = found.variant.scores
    told = []
    guessed = ", ".join(
        f"{name} ({each.before:.3f}, chance {found.chance[name]:.3f})"
        for name, each in found.tasks.items()
        if not each.informative
    )
    if guessed:
        told.append(f"the baseline is not surely above chance on {guessed}, which supports no pass")
    if undecidable := [edge for edge in found.use_case.edges if not found.average.decidable(edge)]:
        told.append(
            f"two passes of the baseline itself differ by more than {found.use_case.in_words_of(max(undecidable))}, so"
            " that no smaller drop can be told"
        )
    missing = [name for name in found.use_case.tasks if name not in found.variant.answers]
    if missing:
        told.append(f"nothing is known of {', '.join(missing)}, which the policy skips where it is missing")
    if scores.look < scores.looks:
        asked = sum(each.items for each in found.variant.answers.values())
        why = "as more could not change it" if settled else "for a policy that they settled: ask it the rest"
        told.append(f"stopped after {asked:,} of {scores.planned_items:,} questions, {why}")
    if scores.rows_source == HARNESS:
        told.append(
            "token ids and truncation are not in lm-eval's samples, so that only the prompts' texts were compared"
        )
    return told


def _open(limit: Limit, found: Case, alpha: float) -> str:
    test = limit.test
    if not test.informative and isinstance(test, DropTest):
        what = "any task" if limit.what == "average" else limit.what
        return f"no drop on {what} can show, as the baseline may be guessing"
    if not test.decidable(limit.limit):
        return (
            f"the limit of {_limit(limit, found)} on {limit.what} is undecidable here, as two passes of the baseline"
            " itself differ by more"
        )
    return (
        f"{_moved(limit, found)}, {_sure(alpha)} {_at_most(limit, found, alpha)}, which does not settle the limit of"
        f" {_limit(limit, found)}"
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
        return f"the choices on {limit.what} moved by {test.estimate:.3g} nats"
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
        return f"{_times(value)} it"
    edges = (limit.limit, *(found.use_case.edges if limit.what == "average" else ()))
    return percent(value, *edges, unit="%" if found.use_case.relative else "points")


def _limit(limit: Limit, found: Case) -> str:
    if limit.kind == "divergence":
        return f"{limit.limit:g} nats"
    if limit.kind == "perplexity":
        return f"{_times(limit.limit)} it"
    return found.use_case.in_words_of(limit.limit)


def _times(logarithm: float) -> str:
    return f"{math.exp(logarithm):.4g} times"


def _sure(alpha: float) -> str:
    return f"with {100 * (1 - alpha):.4g} % confidence"
