"""The sentence of each verdict, for a release manager: what was measured, its bound, and the limit.

What to do is in `next_steps`; whoever shows a sentence shows the next step beside it.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from components.evidence.case import Case
from components.evidence.change import Change, about, confidence_text, percent
from components.evidence.drops import DropTest
from components.evidence.limits import Limit
from components.evidence.looks import SCREEN_ALLOWANCE
from components.evidence.no_loss import NoLossTest
from components.evidence.worst_cluster import WorstClusterTest
from components.policies.policy import Band, side
from components.run.artifacts import is_flow_task


def passed(case: Case, band: Band, alpha: float) -> str:
    """Why a variant passes its limits and gets this band."""
    average = Limit("average", "drop", band.upper, case.average)
    band_end = f"{'not over' if band.upper_belongs else 'under'} {case.use_case.describe_limit(band.upper)}"
    bound = case.average.upper(alpha)
    conclusion = "so that the drop" if bound is not None and bound < 0 else "which"
    average_drop = (
        f"{_change(average, case)}, {_confidence(alpha)} {_at_most(average, case, alpha)}, {conclusion} is {band_end}"
    )
    parts = [f"{band.opening} for {case.use_case.name}: {average_drop}"]
    for limit in case.limits:
        change = "" if limit.what == "average" else f"{_change(limit, case)}, {_at_most(limit, case, alpha)}, "
        parts.append(f"{change}the limit{'' if change else ' on the average'} is {_limit(limit, case)}")
    return "; ".join(parts)


def rejected(case: Case, exceeded: list[Limit]) -> str:
    """Why a variant is rejected: the limits that it exceeds with confidence."""
    parts = [
        f"{_change(limit, case)}, {_confidence(case.rejecting)} {_at_least(limit, case)},"
        f" the limit is {_limit(limit, case)}"
        for limit in exceeded
    ]
    return f"Rejected for {case.use_case.name}: {'; '.join(parts)}"


def inconclusive(case: Case, unproven: list[Limit], alpha: float) -> str:
    """Which limits are undecided, and how many more questions would decide them."""
    parts = list(dict.fromkeys(_describe_undecided(limit, case, alpha) for limit in unproven))
    later = case.alpha_of_next_run(alpha)
    needed = [limit.test.further_items(limit.limit, later) for limit in unproven]
    counts = [items for items in needed if items is not None]
    if len(counts) == len(needed):
        many = max(counts) > 1
        count = f"about {about(max(counts))} more questions are" if many else "one more question is"
        parts.append(f"{count} needed (80 % power)")
    elif only_by_chance(unproven):
        parts.append("with more questions the two passes may agree more closely")
    elif all(limit.test.informative for limit in unproven) and not case.variant.chosen:
        parts.append("more questions of the same kind are not likely to decide it")
    return f"Inconclusive for {case.use_case.name}: {'; '.join(parts)}"


def only_by_chance(limits: Iterable[Limit]) -> bool:
    """Whether some limits are below the noise floor, and each of them only because the questions are few."""
    below = [limit for limit in limits if not limit.test.decidable(limit.limit)]
    return bool(below) and all(
        isinstance(limit.test, DropTest) and limit.test.may_become_decidable(limit.limit) for limit in below
    )


def ways(case: Case, alpha: float) -> list[str]:
    """Where the policy counts margins: what the answers and the margins show alone, and where margins do not count."""
    parts = []
    for limit in case.shown:
        if isinstance(limit.test, DropTest) and (by_margins := limit.test.by_margins):
            both = ("by right and wrong answers alone", limit.test.by_answers), ("by margins alone", by_margins)
            alone = ((name, replace(limit, test=test)) for name, test in both)
            parts += [f"{name} {_change(way, case)}, {_at_most(way, case, alpha)}" for name, way in alone]
    for name, task in case.tasks.items():
        if task.only_answers:
            parts.append(f"on {name} only right and wrong answers count, because {task.only_answers}")
        if task.smoothed and task.smoothed.contradicted:
            parts.append(
                f"on {name} the answers contradict the margins, so the answers must show it with full confidence"
            )
    return list(dict.fromkeys(parts))


def reservations(case: Case, *, settled: bool) -> list[str]:
    """The caveats of a verdict: tasks without information, limits left out, questions not evaluated."""
    scores = case.variant.scores
    caveats = []
    near_chance = ", ".join(
        f"{name} ({task.before:.3f}, chance {case.chance[name]:.3f})"
        for name, task in case.tasks.items()
        if not task.informative and (not is_flow_task(name) or name in case.use_case.tasks)
    )
    if near_chance:
        caveats.append(f"the baseline is not significantly above chance on {near_chance}, so no pass can rest on that")
    if undecidable := [edge for edge in case.use_case.edges if not case.average.decidable(edge)]:
        caveats.append(
            f"two passes of the baseline differ by more than {case.use_case.describe_limit(max(undecidable))}, so no"
            " smaller drop can be detected"
        )
    missing = [name for name in case.use_case.tasks if name not in case.variant.answers]
    if missing:
        caveats.append(f"there are no answers for {', '.join(missing)}; the policy skips missing tasks")
    answered = sum(answers.items for name, answers in case.variant.answers.items() if not is_flow_task(name))
    if case.variant.chosen:
        planned = f" of {scores.planned_items:,}" if scores.planned_items else ""
        caveats.append(
            f"it answered only the screen's {answered:,}{planned} questions: tinyBenchmarks chose them, so they can"
            " reject a variant but not pass it, and each lower bound is reduced by the error of its estimates,"
            f" {100 * SCREEN_ALLOWANCE:g} points"
        )
    elif scores.look < scores.looks:
        reason = (
            "because more answers could not change the verdict"
            if settled
            else "enough for that run's policy only: evaluate the rest"
        )
        caveats.append(f"stopped early after {answered:,} of {scores.planned_items:,} questions, {reason}")
    if any(not origin.sha256 for origin in scores.row_origins):
        caveats.append(
            "lm-eval's samples contain neither token ids nor truncation, so only the prompts' texts were compared"
        )
    return caveats


def _describe_undecided(limit: Limit, case: Case, alpha: float) -> str:
    test = limit.test
    if isinstance(test, DropTest) and test.chosen:
        return (
            f"{_change(limit, case)} on the chosen questions, {_confidence(case.rejecting)} {_at_least(limit, case)},"
            f" which does not show that it is over the limit of {_limit(limit, case)}"
        )
    if isinstance(test, NoLossTest):
        if not test.informative:
            return f"the baseline passes no case of {limit.what}, so that none can be lost"
        if not test.decidable(limit.limit):
            return f"two passes of the baseline differ on {test.unstable:,.0f} cases of {limit.what}"
    if not test.informative and _is_drop(limit):
        subject = "any task" if limit.what == "average" else limit.what
        return (
            f"{_change(limit, case)}, which says nothing about the limit of {_limit(limit, case)}: no drop on {subject}"
            " can be detected, because the baseline may be guessing"
        )
    if not test.decidable(limit.limit) and isinstance(test, DropTest):
        return (
            f"{_change(limit, case)}; the limit of {_limit(limit, case)} on {limit.what} cannot be tested, because two"
            f" passes of the baseline differ by {_amount(test.noise.floor, limit, case)}"
        )
    return (
        f"{_change(limit, case)}, {_confidence(alpha)} {_at_most(limit, case, alpha)}, so it is not shown to be within"
        f" the limit of {_limit(limit, case)}"
    )


def _change(limit: Limit, case: Case) -> str:
    """`gsm8k fell 5.6 % (0.412 → 0.389)`."""
    test = limit.test
    if isinstance(test, DropTest):
        subject = case.use_case.average.subject if limit.what == "average" else limit.what
        if test.estimate is None:
            return f"{subject} was 0 for the baseline"
        return Change(subject, test.before, test.after, case.use_case.relative).describe(limit.limit)
    if isinstance(test, WorstClusterTest):
        pairs = test.worst.pairs
        before, after = (float(scores @ pairs.counts) / pairs.items for scores in (pairs.before, pairs.after))
        subject = f"the worst cluster of {limit.what} ({test.worst.name})"
        return Change(subject, before, after, case.use_case.relative).describe(limit.limit)
    if isinstance(test, NoLossTest):
        return f"{limit.what} lost {test.lost:,.0f} of the {test.cases:,.0f} cases that the baseline passes"
    measured = test.estimate or 0.0  # only a drop may have no estimate
    if limit.kind == "divergence":
        return f"the KL divergence on {limit.what} is {measured:.3g} nats"
    if limit.kind == "length":
        return f"the answers on {limit.what} are {_longer(measured, limit)}"
    if limit.kind == "cut":
        return f"{percent(measured, limit.limit)} of the answers on {limit.what} are cut"
    return f"the perplexity on {limit.what} is {_as_ratio(measured)} the baseline's"


def _at_most(limit: Limit, case: Case, alpha: float) -> str:
    """`a drop of at most 0.9 %`, the upper bound."""
    bound = limit.test.upper(alpha)
    if bound is None:
        return "without an upper bound"
    if limit.kind == "loss":
        return f"which shows that it loses at most {_amount(bound, limit, case)} of such cases"
    if not _is_drop(limit):
        most = "at least" if limit.kind == "length" and side(bound, 0) < 0 else "at most"  # at least 3 % shorter
        return f"{most} {_amount(bound, limit, case)}"
    if side(bound, 0) < 0:
        return f"a gain of at least {_amount(-bound, limit, case)}"
    return f"a drop of at most {_amount(bound, limit, case)}"


def _at_least(limit: Limit, case: Case) -> str:
    """`a drop of at least 2.4 %`, the lower bound."""
    bound = limit.test.lower(case.rejecting)
    if limit.kind == "loss":
        return f"that is at least {_amount(bound or 0.0, limit, case)} of such cases"
    if bound is None:
        return "without a lower bound"
    return f"{'a drop of ' if _is_drop(limit) else ''}at least {_amount(bound, limit, case)}"


def _is_drop(limit: Limit) -> bool:
    return limit.kind in ("drop", "cluster")


def _amount(value: float, limit: Limit, case: Case) -> str:
    if limit.kind == "divergence":
        return f"{value:.3g} nats"
    if limit.kind == "perplexity":
        return f"{_as_ratio(value)} the baseline's"
    if limit.kind == "length":
        return _longer(value, limit)
    if limit.kind in ("cut", "loss"):
        return percent(value, limit.limit)
    edges = (limit.limit, *(case.use_case.edges if limit.what == "average" else ()))
    return percent(value, *edges, unit="%" if case.use_case.relative else "points")


def _limit(limit: Limit, case: Case) -> str:
    if limit.kind == "divergence":
        return f"{limit.limit:g} nats"
    if limit.kind == "perplexity":
        return f"{_as_ratio(limit.limit)} the baseline's"
    if limit.kind == "loss":
        return "0: it may lose none"
    if limit.kind in ("length", "cut"):
        return f"{100 * limit.limit:g} %"
    return case.use_case.describe_limit(limit.limit)


def _as_ratio(logarithm: float) -> str:
    return f"{math.exp(logarithm):.4g} times"


def _longer(growth: float, limit: Limit) -> str:
    """`18.2 % longer`, of answers."""
    return f"{percent(abs(growth), limit.limit)} {'shorter' if side(growth, 0) < 0 else 'longer'}"


def _confidence(alpha: float) -> str:
    return f"with {confidence_text(alpha)} confidence"
