"""One variant's evidence for a use case: its answers paired with the baseline's, and the test of each limit."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from components.evidence import choice_margins, flips, lengths, margin
from components.evidence.answers import Answers
from components.evidence.candidate import Candidate
from components.evidence.drops import DropTest, Task
from components.evidence.limits import ClippedTest, Limit, MeanTest
from components.evidence.looks import error_share
from components.evidence.margin import ABSOLUTE, RELATIVE, Pairs
from components.evidence.no_loss import NoLossTest, assumed_no_loss, no_loss_test
from components.evidence.spending import attempt_share, run_share
from components.evidence.worst_cluster import WorstClusterTest, worst_cluster_test
from components.policies.policy import MOST_NATS, Band, UseCase
from components.run.artifacts import is_flow_task
from components.run.attempts import Attempt


@dataclass(frozen=True)
class Case:
    """One variant's evidence for a use case."""

    use_case: UseCase
    variant: Candidate
    tasks: Mapping[str, Task]
    limits: tuple[Limit, ...]
    average: DropTest
    chance: Mapping[str, float]
    attempt: Attempt | None = None
    """None if attempts are not counted."""

    @property
    def look_share(self) -> float:
        """The share of the attempt's error that this look of this run may use."""
        return error_share(self.variant.scores.look, self.variant.scores.looks) * run_share(self.attempt)

    @property
    def share(self) -> float:
        """The share of the policy's error that a pass at this look may use."""
        return self.look_share * attempt_share(self.attempt)

    def alpha_of_next_run(self, alpha: float) -> float:
        """The error probability that a pass may use after more questions, where it is `alpha` now."""
        return alpha * run_share(self.attempt and self.attempt.next_run) / run_share(self.attempt)

    @property
    def p_ship(self) -> float:
        """The p-value against "it must not ship", corrected for look and attempt: the largest of all limits' (IUT)."""
        p_values = [limit.test.p_within(limit.limit) for limit in self.limits]
        return min(max([*p_values, self.average.p_within(self.use_case.bands.ship)]) / self.share, 1.0)

    @property
    def rejecting(self) -> float:
        """The error probability that a rejection at this look may use: each attempt's is its own."""
        return self.use_case.alpha * self.look_share

    @property
    def shown(self) -> tuple[Limit, ...]:
        """The limits, with the average's: the policy's own, or the end of the last band."""
        end = self.use_case.bands.ab_test
        if any(limit.what == "average" and limit.limit <= end for limit in self.limits):
            return self.limits
        return (*self.limits, Limit("average", "drop", end, self.average))

    def exceeded(self) -> list[Limit]:
        """The limits that the variant exceeds with confidence."""
        return [limit for limit in self.shown if limit.test.p_beyond(limit.limit) <= self.rejecting]

    def unproven(self, alpha: float) -> list[Limit]:
        """The limits that the variant is not shown to be within."""
        return [limit for limit in self.shown if limit.test.p_within(limit.limit) > alpha]

    def band(self, alpha: float) -> Band | None:
        """The best band whose end the average drop is within, with confidence."""
        bands = self.use_case.band_list()[:-1]
        return next((band for band in bands if self.average.p_within(band.upper) <= alpha), None)

    def verdict(self, alpha: float) -> str:
        """The verdict, if a pass may use the error probability `alpha`."""
        if self.exceeded():
            return "reject"
        band = self.band(alpha)
        return band.verdict if band and not self.unproven(alpha) else "inconclusive"


def case(use_case: UseCase, baseline: Candidate, variant: Candidate, attempt: Attempt | None = None) -> Case:
    """Pair the variant's answers with the baseline's; call `first_difference` before."""
    baseline, variant = with_clusters(use_case, baseline), with_clusters(use_case, variant)
    chance = {task_score.task: task_score.chance for task_score in baseline.scores.tasks}
    paired = tasks_of(baseline.answers, variant.answers, baseline.again, chance, use_case.alpha)
    if use_case.evidence == "margins":
        paired = {
            name: _by_margins(task, baseline.answers[name], variant.answers[name]) for name, task in paired.items()
        }
    tasks = {
        name: replace(
            task,
            smoothed=task.smoothed and task.smoothed.weighing(use_case.average.weight(name)),
            pairs=replace(task.pairs, weight=use_case.average.weight(name)),
            again=task.again and replace(task.again, weight=use_case.average.weight(name)),
            chosen=name in variant.chosen,
        )
        for name, task in paired.items()
    }
    limits = tuple(limits_of(use_case, tasks, baseline.answers, variant.answers, baseline.again))
    average = DropTest(averaged(tasks), RELATIVE if use_case.relative else ABSOLUTE)
    return Case(use_case, variant, tasks, limits, average, chance, attempt)


def with_clusters(use_case: UseCase, candidate: Candidate) -> Candidate:
    """The candidate, with clusters that are a sample or not, as the policy says."""
    if use_case.clusters == "random":
        return candidate
    answers, again = (
        {name: replace(answered, sampled=False) for name, answered in answers.items()}
        for answers in (candidate.answers, candidate.again)
    )
    return replace(candidate, answers=answers, again=again)


def tasks_of(
    baseline: Mapping[str, Answers],
    variant: Mapping[str, Answers],
    again: Mapping[str, Answers],
    chance: Mapping[str, float],
    alpha: float,
) -> dict[str, Task]:
    """Each task with scores, paired on the variant's items.

    Whether the baseline only guesses on the task is tested on all of the baseline's items.
    """
    return {
        name: _task(name, baseline[name], answers, again.get(name), chance[name], alpha)
        for name, answers in variant.items()
        if answers.units is None
    }


def _task(name: str, baseline: Answers, variant: Answers, again: Answers | None, chance: float, alpha: float) -> Task:
    paired = baseline.only(variant.table["id"])
    before, after = paired.scores, variant.scores
    again_pairs, again_flips = _two_passes(baseline, again)
    baseline_alone = margin.pairs(baseline.scores, np.zeros(baseline.items), baseline.clusters)
    return Task(
        name=name,
        pairs=margin.pairs(before, after, paired.clusters),
        before=float(before.mean()),
        after=float(after.mean()),
        informative=margin.p_above(baseline_alone, chance) <= alpha,
        again=again_pairs,
        again_flips=again_flips,
    )


def _by_margins(task: Task, baseline: Answers, variant: Answers) -> Task:
    """The task with scores by margins, or with the reason why it has none."""
    smoothed = choice_margins.smoothed(baseline, variant)
    return replace(task, smoothed=smoothed, only_answers="" if smoothed else choice_margins.unusable(baseline, variant))


def _two_passes(baseline: Answers, again: Answers | None) -> tuple[Pairs | None, float | None]:
    """The baseline's answers paired with those of its second pass, and the share that flips; None without a pass."""
    if again is None:
        return None, None
    first = baseline.only(again.table["id"])
    if not first.items:
        return None, None
    second = again.only(first.table["id"])
    flipped = flips.flips(first.scores, second.scores).rate
    return margin.pairs(first.scores, second.scores, first.clusters), flipped


def averaged(tasks: Mapping[str, Task]) -> tuple[Task, ...]:
    """The tasks that the average includes: flows have limits of their own."""
    return tuple(task for name, task in tasks.items() if not is_flow_task(name))


def limits_of(
    use_case: UseCase,
    tasks: Mapping[str, Task],
    baseline: Mapping[str, Answers],
    variant: Mapping[str, Answers],
    again: Mapping[str, Answers],
) -> Iterator[Limit]:
    """The use case's limits whose tasks were answered; those on tasks that the run lacks are left out.

    So are the limits on the divergence and on the clusters of chosen items: no error is published to correct them by.
    """
    scale = RELATIVE if use_case.relative else ABSOLUTE
    for name, limit in use_case.max_drop.items():
        if name in tasks and limit == 0 and is_flow_task(name):
            yield Limit(
                name, "loss", limit, _no_loss(tasks[name], baseline.get(name), variant.get(name), again.get(name))
            )
        elif name in tasks:
            yield Limit(name, "drop", limit, DropTest((tasks[name],), scale))
    if use_case.max_average_drop is not None and averaged(tasks):
        yield Limit("average", "drop", use_case.max_average_drop, DropTest(averaged(tasks), scale))
    for name, limit in use_case.max_cluster_drop.items():
        if name in tasks and not tasks[name].chosen:
            informative = tasks[name].informative
            test = worst_cluster_test(baseline[name], variant[name], scale, informative=informative)
            if test:
                yield Limit(name, "cluster", limit, test)
    for name, limit in use_case.max_divergence.items():
        if name in variant and not (name in tasks and tasks[name].chosen):
            yield Limit(name, "divergence", limit, _divergence_test(baseline[name], variant[name]))
    for name, ratio in use_case.max_perplexity_ratio.items():
        if name in variant and (log_ratio := flips.perplexity_ratio(*_paired(baseline[name], variant[name]))):
            yield Limit(name, "perplexity", math.log(ratio), MeanTest(log_ratio, variant[name].items))
    for name, growth in use_case.max_longer_answers.items():
        if name in variant and (growth_test := lengths.growth_test(*_paired(baseline[name], variant[name]))):
            yield Limit(name, "length", growth, growth_test)
    for name, share in use_case.max_cut_answers.items():
        if name in variant and (cut_test := lengths.cut_test(variant[name])):
            yield Limit(name, "cut", share, cut_test)


def unmeasurable(use_case: UseCase, baseline: Mapping[str, Answers], variant: Mapping[str, Answers]) -> str:
    """The first limit that cannot be tested on these answers, and why; empty if there is none."""

    def worst_cluster(before: Answers, after: Answers) -> WorstClusterTest | None:
        return worst_cluster_test(before, after, RELATIVE if use_case.relative else ABSOLUTE)

    benchmarks = [answers for name, answers in variant.items() if not is_flow_task(name)]
    if benchmarks and all(answers.units is not None for answers in benchmarks):
        return "all its tasks measure perplexity, so there is no score to compute a drop from"
    if variant and not benchmarks:
        return "all its tasks are flows, so there is no average to compute a drop from"
    for name in (*use_case.max_drop, *use_case.max_cluster_drop):
        if name in variant and variant[name].units is not None:
            return f"{name} measures perplexity and has no drop: limit it with max_perplexity_ratio"
    limited = (
        (worst_cluster, use_case.max_cluster_drop, "items in clusters"),
        (flips.divergences, use_case.max_divergence, "the log-likelihoods of choices"),
        (flips.perplexity_ratio, use_case.max_perplexity_ratio, "the log-likelihoods of documents"),
        (lengths.growth_test, use_case.max_longer_answers, "the number of tokens of generated answers"),
        (lambda _, answers: lengths.cut_test(answers), use_case.max_cut_answers, "generated answers"),
    )
    for measure, limits, needed in limited:
        for name in limits:
            if not variant or not baseline:
                return f"its limit on {name} needs per-item answers"
            if name in variant and measure(*_paired(baseline[name], variant[name])) is None:
                return f"its limit on {name} needs {needed}, which the task does not have"
    return ""


def _no_loss(task: Task, baseline: Answers | None, variant: Answers | None, again: Answers | None) -> NoLossTest:
    """The test of a limit of 0; without answers on what is assumed of them."""
    return no_loss_test(baseline, variant, again) if baseline and variant else assumed_no_loss(task.pairs)


def _paired(baseline: Answers, variant: Answers) -> tuple[Answers, Answers]:
    return baseline.only(variant.table["id"]), variant


def _divergence_test(baseline: Answers, variant: Answers) -> ClippedTest:
    paired = baseline.only(variant.table["id"])
    nats = flips.divergences(paired, variant)
    if nats is None:
        raise ValueError(f"{variant.task} has no choices: `unmeasurable` comes first")
    shares = np.minimum(nats, MOST_NATS) / MOST_NATS
    return ClippedTest(margin.pairs(shares, np.zeros(len(shares)), paired.clusters), unclipped=float(nats.mean()))
