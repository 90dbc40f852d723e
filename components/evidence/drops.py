"""The drop of a score as a statistical test: one task, or the mean of several."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from quantgate.components.evidence import margin
from quantgate.components.evidence.choice_margins import Smoothed
from quantgate.components.evidence.further_items import further, with_power
from quantgate.components.evidence.looks import SCREEN_ALLOWANCE
from quantgate.components.evidence.margin import Pairs, Scale
from quantgate.components.evidence.noise import Noise
from quantgate.components.policies.policy import ANSWERS_ERROR


@dataclass(frozen=True)
class Task:
    """One task: the variant's answers paired with the baseline's."""

    name: str
    pairs: Pairs
    before: float
    """The baseline's score."""
    after: float
    """The variant's score."""
    informative: bool
    """Whether the baseline is significantly above chance."""
    again: Pairs | None = None
    """The baseline's answers paired with those of its second pass; None if it ran once."""
    again_flips: float | None = None
    """The share of the baseline's answers that flip in its second pass."""
    chosen: bool = False
    """Whether tinyBenchmarks chose the items: then they are no random sample of the benchmark."""
    smoothed: Smoothed | None = None
    """The scores by margins; None where right and wrong answers decide."""
    only_answers: str = ""
    """Why a policy with `evidence: margins` decides by answers here; empty if it does not."""

    @property
    def by_margins(self) -> "Task":
        """The task with the scores by margins in place of the answers, if it has them."""
        if self.smoothed is None:
            return self
        pairs = self.smoothed.pairs
        before, after = (float(scores @ pairs.counts) / pairs.items for scores in (pairs.before, pairs.after))
        return replace(self, pairs=pairs, before=before, after=after, smoothed=None)


@dataclass(frozen=True)
class DropTest:
    """The test of the drop of the tasks' mean score, weighted as the policy says.

    All tasks together can show that the drop is beyond a limit. To show that it is within a limit, all tasks together
    and the informative tasks alone must show it: a task on which the baseline only guesses has nothing to lose, and
    would dilute the drop.

    The drop on chosen items can only show that the drop is beyond a limit, and only by more than the allowance.

    Where tasks have scores by margins, these must show it, and so must the answers, with ANSWERS_ERROR times the error
    probability. If the answers contradict the margins of any task, they get no larger one.
    """

    tasks: tuple[Task, ...]
    scale: Scale
    p_values: dict[tuple[str, float], float] = field(default_factory=dict, compare=False, repr=False)
    """A cache of the computed p-values and bounds: one takes a while on many items."""

    @property
    def estimate(self) -> float | None:
        """The measured drop; None for a relative drop if the baseline scores 0."""
        return margin.drop(self._all, self.scale)

    @property
    def before(self) -> float:
        """The baseline's score, or the weighted mean of its scores."""
        return self._mean([task.before for task in self.tasks])

    @property
    def after(self) -> float:
        """The variant's score, or the weighted mean of its scores."""
        return self._mean([task.after for task in self.tasks])

    @property
    def informative(self) -> bool:
        """Whether any task can show a drop."""
        return any(task.informative for task in self.tasks)

    @property
    def noise(self) -> Noise:
        """The difference of two passes of the baseline; of no passes if one of the tasks has only one."""
        passes = tuple(task.again for task in self.tasks if task.again)
        return Noise(passes if len(passes) == len(self.tasks) else (), self.scale)

    @property
    def chosen(self) -> bool:
        """Whether tinyBenchmarks chose the items of any task."""
        return any(task.chosen for task in self.tasks)

    @property
    def allowance(self) -> float:
        """What the drop on chosen items may differ from that on all items; 0 for random samples."""
        if not self.chosen:
            return 0.0
        total = sum(task.pairs.weight for task in self.tasks)
        points = SCREEN_ALLOWANCE * sum(task.pairs.weight for task in self.tasks if task.chosen) / total
        if not self.scale.relative:
            return points
        return points / self.before if self.before > 0 else math.inf

    def decidable(self, limit: float) -> bool:
        """Whether the limit is at or above the noise floor."""
        return limit >= self.noise.floor

    def may_become_decidable(self, limit: float) -> bool:
        """Whether the limit is below the noise floor, but not clearly: with more items the passes may agree better."""
        return not self.decidable(limit) and not self.noise.clearly_above(limit)

    def p_within(self, limit: float) -> float:
        """The p-value against "the drop is the limit or more"; 1 if the test is impossible."""
        if not self.informative or self.chosen or not self.decidable(limit):
            return 1.0
        if self._ways:
            return max(way.p_within(limit) / error for way, error in self._ways)
        return self._once(
            "within", limit, lambda: max(margin.p_within(pairs, self.scale, limit) for pairs in self._supports)
        )

    def p_beyond(self, limit: float) -> float:
        """The p-value against "the drop is at most the limit", or at most the noise floor if that is higher.

        On chosen items: at most that and the allowance.
        """
        edge = max(limit, self.noise.floor) + self.allowance
        if edge >= margin.LARGEST_DROP:
            return 1.0
        if self._ways:
            return max(way.p_beyond(limit) / error for way, error in self._ways)
        return self._once("beyond", edge, lambda: margin.p_beyond(self._all, self.scale, edge))

    def upper(self, alpha: float) -> float | None:
        """The upper bound that matches `p_within`; None if there is none."""
        if self.estimate is None or not self.informative or self.chosen:
            return None
        if self._ways:
            bounds = [way.upper(min(alpha * error, 0.5)) for way, error in self._ways]
            return max((bound for bound in bounds if bound is not None), default=None)
        return self._once(
            "upper", alpha, lambda: max(margin.upper(pairs, self.scale, alpha) for pairs in self._supports)
        )

    def lower(self, alpha: float) -> float | None:
        """The lower bound that matches `p_beyond`; None if there is none."""
        if self.estimate is None:
            return None
        if self._ways:
            bounds = [way.lower(min(alpha * error, 0.5)) for way, error in self._ways]
            return None if None in bounds else min(bound for bound in bounds if bound is not None)
        bound = self._once("lower", alpha, lambda: margin.lower(self._all, self.scale, alpha)) - self.allowance
        return bound if math.isfinite(bound) else None

    def further_items(self, limit: float, alpha: float) -> int | None:
        """How many more items decide the limit at 80 % power, if the estimate is true; None if no number does."""
        if not self.informative or self.chosen or not self.decidable(limit):
            return None
        ways = self._ways or [(self, 1.0)]
        tests = [(pairs, with_power(alpha * error)) for way, error in ways for pairs in way._supports]
        sides = {(margin.drop(pairs, self.scale) or 0.0) < limit for pairs, _ in tests}
        if len(sides) > 1:
            return None  # two of the tests lie on different sides of the limit: more items do not help
        p = margin.p_within if sides == {True} else margin.p_beyond

        def settles(times: float) -> bool:
            return all(p([task.times(times) for task in pairs], self.scale, limit) <= enough for pairs, enough in tests)

        return further(settles, sum(task.pairs.items for task in self.tasks))

    @cached_property
    def by_answers(self) -> "DropTest":
        """The test by right and wrong answers alone."""
        return replace(self, tasks=tuple(replace(task, smoothed=None) for task in self.tasks), p_values={})

    @cached_property
    def by_margins(self) -> "DropTest | None":
        """The test by margins alone, by answers on the tasks that have none; None if no task has margins."""
        if not any(task.smoothed for task in self.tasks):
            return None
        return replace(self, tasks=tuple(task.by_margins for task in self.tasks), p_values={})

    @cached_property
    def _ways(self) -> list[tuple["DropTest", float]]:
        """The tests that must agree, each with the number of times the error probability that it may use.

        Empty where answers decide alone.
        """
        if self.by_margins is None:
            return []
        contradicted = any(task.smoothed and task.smoothed.contradicted for task in self.tasks)
        return [(self.by_margins, 1.0), (self.by_answers, 1.0 if contradicted else ANSWERS_ERROR)]

    def _once(self, side: str, limit: float, compute: Callable[[], float]) -> float:
        if (side, limit) not in self.p_values:
            self.p_values[side, limit] = compute()
        return self.p_values[side, limit]

    def _mean(self, scores: list[float]) -> float:
        weights = [task.pairs.weight for task in self.tasks]
        return sum(weight * score for weight, score in zip(weights, scores, strict=True)) / sum(weights)

    @property
    def _all(self) -> list[Pairs]:
        return [task.pairs for task in self.tasks]

    @property
    def _supports(self) -> list[list[Pairs]]:
        informative = [task.pairs for task in self.tasks if task.informative]
        return [self._all, informative] if len(informative) < len(self.tasks) else [self._all]
