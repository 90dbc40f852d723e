"""One variant's evidence for a use case: its answers paired with the baseline's, and what each limit says of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from components.gate.candidate import Candidate
from components.gate.limits import DropTest, Limit, Task, limits_of, tasks_of
from components.gate.looks import error_share
from components.gate.margin import ABSOLUTE, RELATIVE
from components.gate.policy import Band, UseCase


@dataclass(frozen=True)
class Case:
    """One variant's evidence for a use case."""

    use_case: UseCase
    variant: Candidate
    tasks: Mapping[str, Task]
    limits: tuple[Limit, ...]
    average: DropTest
    chance: Mapping[str, float]

    @property
    def share(self) -> float:
        """Of the promised error, what the look at which these answers were taken may use."""
        return error_share(self.variant.scores.look, self.variant.scores.looks)

    @property
    def p_ship(self) -> float:
        """The p-value against "it must not ship", corrected for its look: the largest of all its limits' (IUT)."""
        found = [each.test.p_within(each.limit) for each in self.limits]
        return min(max([*found, self.average.p_within(self.use_case.bands.ship)]) / self.share, 1.0)

    @property
    def rejecting(self) -> float:
        """What a rejection at this look may err by."""
        return self.use_case.alpha * self.share

    @property
    def shown(self) -> tuple[Limit, ...]:
        """The limits, with the average's: the policy's own, or the end of the last band."""
        end = self.use_case.bands.ab_test
        if any(each.what == "average" and each.limit <= end for each in self.limits):
            return self.limits
        return (*self.limits, Limit("average", "drop", end, self.average))

    def exceeded(self) -> list[Limit]:
        """The limits that the variant is surely over."""
        return [each for each in self.shown if each.test.p_beyond(each.limit) <= self.rejecting]

    def unproven(self, alpha: float) -> list[Limit]:
        """The limits that the variant is not surely within."""
        return [each for each in self.shown if each.test.p_within(each.limit) > alpha]

    def band(self, alpha: float) -> Band | None:
        """The best band whose end the average drop is surely within."""
        bands = self.use_case.band_list()[:-1]
        return next((each for each in bands if self.average.p_within(each.upper) <= alpha), None)


def case(use_case: UseCase, baseline: Candidate, variant: Candidate) -> Case:
    """Pair the variant's answers with the baseline's, which must have been found comparable."""
    chance = {each.task: each.chance for each in baseline.scores.tasks}
    tasks = tasks_of(baseline.answers, variant.answers, baseline.again, chance, use_case.alpha)
    limits = tuple(limits_of(use_case, tasks, baseline.answers, variant.answers))
    average = DropTest(tuple(tasks.values()), RELATIVE if use_case.relative else ABSOLUTE)
    return Case(use_case, variant, tasks, limits, average, chance)
