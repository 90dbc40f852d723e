"""What a run can show, before it starts: the gate's own tests on answers that nobody has given yet.

A copy of the baseline answers every question as the baseline does. Its verdict is computed, not drawn, and only a
variant that answers better than the baseline could get a better one. The verdicts of other variants are drawn from an
assumed share of flipped answers.

Simplified: right and wrong answers decide alone, also where the policy counts margins, which need fewer questions as a
rule. The probabilities are those of the last look, and the run's other variants do not ship, so that Holm's
method leaves this one its share of the error. A task's clusters do not differ. Limits on perplexity, on longer and on
cut answers are left out: the assumptions say nothing about them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from components.errors import PrerequisiteError
from components.evidence import assumed_answers, margin
from components.evidence.assumed_answers import AFTER, BEFORE, COPY, LOSSLESS, TYPICAL, Assumed, PlannedTask
from components.evidence.candidate import Candidate
from components.evidence.case import Case, averaged, limits_of
from components.evidence.drops import DropTest, Task
from components.evidence.further_items import LimitTest, further, with_power
from components.evidence.limits import ClippedTest, Limit
from components.evidence.looks import error_share
from components.evidence.margin import ABSOLUTE, RELATIVE, Pairs
from components.evidence.no_loss import NoLossTest
from components.evidence.spending import describe_attempt, error_of
from components.evidence.worst_cluster import PairedCluster, WorstClusterTest
from components.policies.policy import MOST_NATS, UseCase
from components.run.artifacts import Scores, Weights
from components.run.attempts import Attempt

VERDICTS = ("ship", "monitor", "ab_test", "inconclusive", "reject")
VERDICT_NAMES = {"ab_test": "A/B test"}
"""In sentences and tables, where it is not the verdict's own name."""
PASSING = ("ship", "monitor")
LEFT_OUT = ("max_perplexity_ratio", "max_longer_answers", "max_cut_answers")
DRAWS, SEED = 400, 20261127
ANSWERS = (1, 4, 8, 16)
"""Numbers of answers to each question, to compare."""
MORE_ANSWERS = (2, 4, 8, 16, 32)
"""Numbers of answers to each question that are advised where the questions are few."""


@dataclass(frozen=True)
class Prospect:
    """The policy, the questions, and what shares the error probability: variants, looks, attempts."""

    use_case: UseCase
    tasks: tuple[PlannedTask, ...]
    """At least one: tasks with scores."""
    variants: int = 1
    looks: int = 1
    measured: bool = False
    """Whether the baseline's scores are measured, not assumed."""
    attempt: Attempt | None = None
    """None if attempts are not counted."""

    @property
    def alpha(self) -> float:
        """The error probability that a pass may use: of the first variant in Holm's order, at the last look."""
        allowed = error_of(self.use_case.confidence, self.attempt)
        return allowed * error_share(self.looks, self.looks) / max(self.variants, 1)

    @property
    def left_out(self) -> list[str]:
        """The policy's limits about which the assumptions say nothing."""
        return [name for name in LEFT_OUT if getattr(self.use_case, name)]

    @property
    def items(self) -> int:
        """The number of questions of all tasks."""
        return sum(task.items for task in self.tasks)

    @cached_property
    def copy(self) -> str:
        """The verdict on a perfect copy of the baseline."""
        return _case(self, COPY).verdict(self.alpha)

    @cached_property
    def best(self) -> str:
        """The verdict on a copy of the baseline that a copy passes most easily: it answers every question right."""
        return self.with_perfect_baseline().copy

    def with_perfect_baseline(self) -> "Prospect":
        """The same with a baseline that answers every question right."""
        return replace(self, tasks=tuple(replace(task, score=1.0) for task in self.tasks))

    def with_answers(self, samples: int) -> "Prospect":
        """The same with so many answers to each question of its generated tasks, sampled at a temperature."""
        tasks = (replace(task, samples=samples, sampled=True) if task.generated else task for task in self.tasks)
        return replace(self, tasks=tuple(tasks))


@dataclass(frozen=True)
class Need:
    """One limit, and how many questions are enough for it."""

    what: str
    """`gsm8k at most 2 %`, `average under 1 %`."""
    planned: int
    enough: int | None
    """None if no number is."""
    answers: int | None = None
    """How many answers to each generated question are enough too; None if the questions are, or if no number is."""

    @property
    def is_met(self) -> bool:
        """Whether the planned questions are enough."""
        return self.enough is not None and self.enough <= self.planned


@dataclass(frozen=True)
class Outlook:
    """What a run can show."""

    prospect: Prospect
    chances: tuple[tuple[Assumed, dict[str, float]], ...]
    """The probability of each verdict on each assumed variant."""
    needs: tuple[Need, ...]
    """For the first of them."""
    by_answers: tuple[tuple[int, float], ...] = ()
    """For the first of them, the probability of `ship` by the number of answers to each generated question."""


def outlook(prospect: Prospect, assumed: Sequence[Assumed] = (LOSSLESS, TYPICAL), draws: int = DRAWS) -> Outlook:
    """What a run can show about a copy of the baseline and these assumed variants."""
    drawn = tuple((variant, chances(prospect, variant, draws)) for variant in assumed)
    return Outlook(prospect, drawn, tuple(needs(prospect, assumed[0])))


def ships_by_answers(prospect: Prospect, assumed: Assumed, draws: int = DRAWS) -> tuple[tuple[int, float], ...]:
    """The probability that such a variant ships, by the number of sampled answers to each generated question.

    Empty if that number hardly matters: no generated task has a limit of its own, and not every task is generated.
    """
    limited = any(task.generated and task.name in prospect.use_case.max_drop for task in prospect.tasks)
    if not limited and not all(task.generated for task in prospect.tasks):
        return ()
    return tuple((samples, chances(prospect.with_answers(samples), assumed, draws)["ship"]) for samples in ANSWERS)


def check_copy_passes(prospect: Prospect) -> None:
    """Raise PrerequisiteError if not even a copy of the best possible baseline could ship or be monitored."""
    if not prospect.tasks or prospect.best in PASSING:
        return
    lacking = [
        f"{need.what} needs {need.enough:,} questions or more, {need.planned:,} are planned"
        for need in needs(prospect.with_perfect_baseline(), COPY, band="monitor")
        if need.enough is not None and not need.is_met
    ]
    name, described = prospect.use_case.name, f"Too few: {'; '.join(lacking)}. " if lacking else ""
    if prospect.attempt and prospect.attempt.number > 1:
        described += f"{describe_attempt(prospect.use_case.confidence, prospect.attempt)}. "
    raise PrerequisiteError(
        f"Not even a perfect copy of the baseline could pass {name} with these questions: its verdict would be"
        f" {VERDICT_NAMES.get(prospect.best, prospect.best)} at best. {described}Choose a suite with more questions,"
        " fewer variants or a wider policy (`quantgate power` shows what each can decide), or --no-check-power to go on"
        " all the same."
    )


def chances(prospect: Prospect, assumed: Assumed, draws: int = DRAWS, seed: int = SEED) -> dict[str, float]:
    """The probability of each verdict on such a variant, by the gate's own tests on drawn answers."""
    source = np.random.default_rng(seed)
    counted = Counter(_case(prospect, assumed, source).verdict(prospect.alpha) for _ in range(draws))
    return {verdict: counted[verdict] / draws for verdict in VERDICTS}


def needs(prospect: Prospect, assumed: Assumed = LOSSLESS, band: str = "ship") -> list[Need]:
    """The policy's limits and the end of the band, each with the questions that are enough for such a variant.

    Enough is for 80 % power; for a copy, whose answers are certain, the smallest number with which it passes.
    """
    needed_p = prospect.alpha if assumed == COPY else with_power(prospect.alpha)
    needed = [_need(prospect.use_case, limit, needed_p) for limit in _limits(prospect, assumed, band)]
    most = max((task.samples for task in prospect.tasks if task.generated), default=None)
    if assumed == COPY or most is None or all(need.is_met for need in needed):
        return needed
    for samples in (number for number in MORE_ANSWERS if number > most):
        limits = _limits(prospect.with_answers(samples), assumed, band)
        for place, (need, limit) in enumerate(zip(needed, limits, strict=True)):
            if not need.is_met and need.answers is None and _times(limit.test, 1).p_within(limit.limit) <= needed_p:
                needed[place] = replace(need, answers=samples)
    return needed


def _limits(prospect: Prospect, assumed: Assumed, band: str) -> tuple[Limit, ...]:
    """The policy's limits and the end of the band, with the expected answers of such a variant."""
    case = _case(prospect, assumed)
    end = next(row.upper for row in prospect.use_case.band_list() if row.verdict == band)
    return (*case.limits, Limit("average", "band", end, case.average))


def _need(use_case: UseCase, limit: Limit, needed_p: float) -> Need:
    items = _items(limit.test)

    def passes(questions: float) -> bool:
        return _times(limit.test, questions / items).p_within(limit.limit) <= needed_p

    more = further(passes, 1)
    subject = {"divergence": "divergence on ", "cluster": "every cluster of "}.get(limit.kind, "") + limit.what
    bound = f"{limit.limit:g} nats" if limit.kind == "divergence" else use_case.describe_limit(limit.limit)
    words = "under" if limit.kind == "band" else "at most"
    return Need(f"{subject} {words} {bound}", round(items), None if more is None else more + 1)


def _case(prospect: Prospect, assumed: Assumed, source: np.random.Generator | None = None) -> Case:
    """The gate's case for such a variant: its answers drawn from `source`, or without one the expected answers."""
    use_case, scale = prospect.use_case, RELATIVE if prospect.use_case.relative else ABSOLUTE
    tasks: dict[str, Task] = {}
    limits: list[Limit] = []
    for row in prospect.tasks:
        pairs, clusters = (
            assumed_answers.drawn(row, assumed, source) if source else assumed_answers.expected(row, assumed)
        )
        if use_case.clusters == "fixed":
            pairs = replace(pairs, clusters=None)
        weighted = replace(pairs, weight=use_case.average.weight(row.name))
        tasks[row.name] = Task(row.name, weighted, row.score, row.score, _informative(row, use_case.alpha))
        limits += _other_limits(use_case, row, assumed, clusters)
    average = DropTest(averaged(tasks), scale)
    drops = use_case.model_copy(update={"max_cluster_drop": {}})
    scores = Scores(variant="planned", suite="planned", stage="full", look=prospect.looks, looks=prospect.looks)
    variant = Candidate(Weights(variant="planned", baseline_digest=""), scores)
    every_limit = (*limits_of(drops, tasks, {}, {}, {}), *limits)
    return Case(use_case, variant, tasks, every_limit, average, {}, prospect.attempt)


def _other_limits(use_case: UseCase, row: PlannedTask, assumed: Assumed, clusters: Sequence[Pairs]) -> Iterator[Limit]:
    if row.name in use_case.max_cluster_drop and clusters:
        scale = RELATIVE if use_case.relative else ABSOLUTE
        test = WorstClusterTest([PairedCluster("", pairs) for pairs in clusters], scale)
        yield Limit(row.name, "cluster", use_case.max_cluster_drop[row.name], test)
    if row.name in use_case.max_divergence:
        yield Limit(row.name, "divergence", use_case.max_divergence[row.name], _divergence_test(row, assumed))


@cache
def _divergence_test(row: PlannedTask, assumed: Assumed) -> ClippedTest:
    return RememberingTest(assumed_answers.divergences(row, assumed, MOST_NATS))


@dataclass(frozen=True)
class RememberingTest(ClippedTest):
    """The test on expected answers, which are the same in every draw: each p-value is computed once."""

    @cached_property
    def _known(self) -> dict[tuple[str, float], float]:
        return {}

    def p_within(self, limit: float) -> float:
        """The p-value against "it is the limit or more"."""
        if ("within", limit) not in self._known:
            self._known["within", limit] = super().p_within(limit)
        return self._known["within", limit]

    def p_beyond(self, limit: float) -> float:
        """The p-value against "it is the limit or less"."""
        if ("beyond", limit) not in self._known:
            self._known["beyond", limit] = super().p_beyond(limit)
        return self._known["beyond", limit]


@cache
def _informative(task: PlannedTask, alpha: float) -> bool:
    """Whether so many questions show that the baseline does not guess."""
    alone = Pairs(BEFORE, AFTER, task.items * np.array([0, 0, task.score, 1 - task.score]))
    return margin.p_above(alone, task.chance) <= alpha


def _times(test: LimitTest, factor: float) -> LimitTest:
    """The test on `factor` times as many answers like these, enough to see that the baseline does not guess."""
    if isinstance(test, DropTest):
        more = (replace(task, pairs=task.pairs.times(factor), informative=True) for task in test.tasks)
        return DropTest(tuple(more), test.scale)
    if isinstance(test, WorstClusterTest | NoLossTest):
        return test.times(factor)
    if isinstance(test, ClippedTest):
        return replace(test, shares=test.shares.times(factor))
    raise TypeError(f"no answers are assumed for a {type(test).__name__}")


def _items(test: LimitTest) -> float:
    """The number of items of the test."""
    if isinstance(test, DropTest):
        return sum(task.pairs.items for task in test.tasks)
    if isinstance(test, WorstClusterTest):
        return sum(cluster.pairs.items for cluster in test.clusters)
    if isinstance(test, ClippedTest):
        return test.shares.items
    if isinstance(test, NoLossTest):
        return test.items
    raise TypeError(f"no answers are assumed for a {type(test).__name__}")
