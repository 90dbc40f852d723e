"""The evidence form of the gate: every drop with confidence bounds from paired answers, and no verdict beyond them.

    passed        the upper bound of every limit is within it (intersection-union: all must, so none is corrected)
    exceeded      the lower bound of one is beyond it
    inconclusive  neither; with the number of further items that would settle it

A variant that passes its limits gets the best band whose end the average drop is surely within. The promise: with the
policy's confidence, no variant of the run is given a better verdict than it deserves. So the variants share the error
by Holm's method: each that ships leaves its share to the others; a variant's bands are one chain, and cost nothing.
A rejection keeps the confidence for each variant by itself.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from components.evidence import flips, margin, sentences
from components.evidence.answers import Answers
from components.evidence.candidate import Candidate
from components.evidence.case import Case, case
from components.evidence.change import about
from components.evidence.limits import DropTest, Limit, Task
from components.evidence.margin import ABSOLUTE
from components.evidence.next_steps import next_step
from components.policies.policy import UseCase
from components.run.artifacts import Comparison, LimitEvidence, TaskEvidence, Verdict

LARGEST_LOGARITHM = 700.0


def settled(found: Case, variants: int, *, only_reject: bool = False) -> bool:
    """Whether no further answer could change the verdict, in a run of so many variants; at any look but the last.

    After the tiny stage a variant is stopped only to reject it.
    """
    if found.exceeded():
        return True
    alpha = found.use_case.alpha * found.share / variants
    band = found.band(alpha)
    if only_reject or band is None or found.unproven(alpha):
        return False
    better = [edge for edge in found.use_case.edges if edge < band.upper and found.average.decidable(edge)]
    return not better or found.average.p_beyond(better[-1]) <= found.rejecting


def judge_all(use_case: UseCase, baseline: Candidate, variants: Sequence[Candidate]) -> list[Verdict]:
    """The verdicts on variants that may be compared with the baseline, in their order."""
    cases = [case(use_case, baseline, each) for each in variants]
    return [
        _judge(each, baseline, use_case.alpha * each.share / divisor)
        for each, divisor in zip(cases, holm_divisors([each.p_ship for each in cases], use_case.alpha), strict=True)
    ]


def holm_divisors(p_values: Sequence[float], alpha: float) -> list[int]:
    """By what each hypothesis' error is divided (S. Holm, Scandinavian J. of Statistics 6 (1979) 65-70).

    The smallest p-value is held against alpha / k, the next against alpha / (k - 1), until one fails: it and all after
    it keep that divisor.
    """
    divisors, divisor, failed = [0] * len(p_values), len(p_values), False
    for place in sorted(range(len(p_values)), key=lambda each: p_values[each]):
        divisors[place] = divisor
        failed = failed or p_values[place] > alpha / divisor
        divisor -= not failed
    return divisors


def compare(variants: Sequence[Candidate]) -> tuple[Comparison, ...]:
    """Every pair of variants on the items that both answered, on the mean score, corrected by Holm."""
    found = []
    for one, other in combinations(variants, 2):
        ours, theirs = _common(one.answers, other.answers), _common(other.answers, one.answers)
        if not ours or any(not each.items for each in ours.values()):
            continue
        tasks = [margin.pairs(ours[name].scores, theirs[name].scores, ours[name].clusters) for name in ours]
        lost = margin.drop(tasks, ABSOLUTE) or 0.0
        p = min(2 * min(margin.p_within(tasks, ABSOLUTE, 0.0), margin.p_beyond(tasks, ABSOLUTE, 0.0)), 1.0)
        names = (one.name, other.name) if lost >= 0 else (other.name, one.name)
        found.append(Comparison(better=names[0], worse=names[1], difference=abs(lost), p=p))
    return tuple(
        each.model_copy(update={"p": p}) for each, p in zip(found, holm_adjusted([e.p for e in found]), strict=True)
    )


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """The p-values as Holm's method corrects them: to be held against alpha itself."""
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        so_far = max(so_far, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = so_far
    return adjusted


def _common(ours: Mapping[str, Answers], theirs: Mapping[str, Answers]) -> dict[str, Answers]:
    return {
        name: each.only(theirs[name].table["id"])
        for name, each in ours.items()
        if name in theirs and each.units is None
    }


def _judge(found: Case, baseline: Candidate, alpha: float) -> Verdict:
    """The verdict, `alpha` being what the variant's pass may err by."""
    name = found.variant.name
    exceeded, unproven, band = found.exceeded(), found.unproven(alpha), found.band(alpha)
    rows = tuple(_row(each, found, alpha) for each in found.shown)
    if exceeded:
        verdict, reason = "reject", sentences.rejected(found, exceeded)
    elif band and not unproven:
        verdict, reason = band.verdict, sentences.passed(found, band, alpha)
    else:
        verdict, reason = "inconclusive", sentences.inconclusive(found, unproven, alpha)
    scores = found.variant.scores
    return Verdict(
        variant=name,
        verdict=verdict,
        sentence="; ".join([reason, *sentences.reservations(found, settled=verdict != "inconclusive")]) + ".",
        next_step=_ask_more(rows) if verdict == "inconclusive" else next_step(verdict, name),
        size_bytes=found.variant.weights.size_bytes,
        scores=scores.by_task(),
        drops={
            task: drop
            for task, each in found.tasks.items()
            if (drop := margin.drop([each.pairs], found.average.scale)) is not None
        },
        average_drop=found.average.estimate,
        form="evidence",
        confidence=1 - alpha,
        limits=rows,
        tasks=tuple(_task_evidence(found, baseline, each, alpha) for each in found.tasks.values()),
        perplexity_ratios=_perplexity_ratios(found.variant.answers, baseline.answers),
        items=sum(each.items for each in found.variant.answers.values()),
        planned_items=scores.planned_items or sum(each.items for each in scores.tasks),
    )


def _ask_more(rows: tuple[LimitEvidence, ...]) -> str:
    """The next step after an inconclusive verdict: with the number of questions that would do, where one would."""
    needed = [each.further_items for each in rows if each.outcome not in ("passed", "exceeded")]
    usual = next_step("inconclusive", "")
    known = [each for each in needed if each is not None]
    if not known or len(known) < len(needed):
        return usual.replace("Evaluate more questions, or A/B test the variant", "A/B test the variant")
    return usual.replace(
        "more questions",
        f"about {about(max(known))} more questions (80 % power)"
        if max(known) > 1
        else "one more question (80 % power)",
    )


def _row(limit: Limit, found: Case, alpha: float) -> LimitEvidence:
    test, rejecting = limit.test, found.rejecting
    if test.p_beyond(limit.limit) <= rejecting:
        outcome = "exceeded"
    elif test.p_within(limit.limit) <= alpha:
        outcome = "passed"
    elif not test.informative:
        outcome = "uninformative"
    else:
        outcome = "open" if test.decidable(limit.limit) else "undecidable"
    unlogged = _unlogged if limit.kind == "perplexity" else float
    bounds = (test.estimate, test.lower(rejecting), test.upper(alpha))
    estimate, lower, upper = (None if each is None else unlogged(each) for each in bounds)
    return LimitEvidence(
        what=limit.what,
        kind=limit.kind,
        limit=unlogged(limit.limit) or limit.limit,
        estimate=estimate,
        lower=lower,
        upper=upper,
        outcome=outcome,
        further_items=test.further_items(limit.limit, alpha) if outcome == "open" else None,
    )


def _perplexity_ratios(ours: Mapping[str, Answers], theirs: Mapping[str, Answers]) -> dict[str, float]:
    """Of each task that has one; none for a ratio that no number holds."""
    measured = {name: flips.perplexity_ratio(theirs[name].only(each.table["id"]), each) for name, each in ours.items()}
    ratios = {name: _unlogged(each.mean) for name, each in measured.items() if each}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _unlogged(value: float) -> float | None:
    """The ratio whose logarithm it is; None for one that no number holds."""
    return math.exp(value) if value < LARGEST_LOGARITHM else None


def _task_evidence(found: Case, baseline: Candidate, task: Task, alpha: float) -> TaskEvidence:
    mine = found.variant.answers[task.name]
    theirs = baseline.answers[task.name].only(mine.table["id"])
    turned = flips.flips(theirs.scores, mine.scores)
    low, high = turned.interval(found.use_case.confidence)
    moved = flips.divergence(theirs, mine)
    one = DropTest((task,), found.average.scale)
    return TaskEvidence(
        task=task.name,
        items=mine.items,
        clusters=len(task.pairs.clusters.items) if task.pairs.clusters else 0,
        informative=task.informative,
        drop_lower=one.lower(found.rejecting),
        drop_upper=margin.upper([task.pairs], one.scale, alpha) if one.estimate is not None else None,
        lost=turned.lost,
        gained=turned.gained,
        flip_rate=turned.rate,
        flip_rate_lower=low,
        flip_rate_upper=high,
        mcnemar_p=turned.p,
        kl=moved.mean if moved else None,
        kl_stderr=moved.error if moved and math.isfinite(moved.error) else None,
        noise_floor=task.floor,
    )
