"""This gate and others judge the same results: how often each ships what it must not, and how often what it may.

    python benchmarks/gates_compared.py [--draws 800] [--run FOLDER ...] [--limit 0.05]

Without --run, the results are simulated with a known truth: the drop of the average is nothing, exactly the limit, or
three times the limit (but no more than the share of answers that differ). The baseline scores 0.6 and the limit is
relative. Columns:

  false ship    how often the drop is the limit and the gate ships
  ships         how often there is no drop and the gate ships
  rejects       how often the drop is three times the limit and the gate rejects
  false reject  how often the drop is the limit and the gate rejects
  questions     how many of the questions it asks on average, for the three truths in their order

With --run, every variant of a run's folder is judged against its baseline, and so is the baseline's second pass, if
there was one (`quantgate run --noise-floor`), by a limit on the average. The truth is unknown then, except that the
second pass may ship. The gates, each with its authors' settings:

  quantgate       this gate at 95 % confidence, on all answers
  with looks      the same, stopping early
  before          the same as it was until 2026-11: a worst item for each task, older degrees of freedom
  paired t-test   one-sided at 95 %, on the items' differences; it ignores clusters
  nel gate        NVIDIA NeMo Evaluator, src/nemo_evaluator/engine/gate.py at ac66aff5: each task's two-sided 95 %
                  interval of the drop, in points, must end within the limit; with clusters, Miller's standard error
  stderr overlap  ships unless lm-eval's score ± 1.96 standard errors of the two models are apart
  pooled McNemar  LLM-Accuracy-Stats (arXiv 2602.10144): rejects if the one-sided exact test of all tasks' flips
                  together is significant at 5 %, else ships
  point rule      ships if the measured drop is at most the limit
"""

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import bdtr, stdtr, stdtrit

from quantgate.components.evidence import margin
from quantgate.components.evidence.candidate import Candidate
from quantgate.components.evidence.clusters import Clusters, jackknife
from quantgate.components.evidence.gamma_tail import tail
from quantgate.components.evidence.looks import error_share, look_shares
from quantgate.components.evidence.margin import RELATIVE, Pairs
from quantgate.components.evidence.saved_answers import read_ours
from quantgate.components.models.variants import BASELINE

SEED, ALPHA, SCORE = 20261127, 0.05, 0.6
TINY = 100
"""The questions of each task at the first look."""
BEFORE, AFTER = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0])
OPENLLM = (14_042, 10_042, 1172, 1267, 1319, 817)
MMLU = (1534, 895, 783, 612, 545, *51 * (186,), 187)
"""The sizes of MMLU's five largest subjects, and about the average size of the others."""

Numbers = NDArray[np.float64]
Results = Sequence[Pairs]
Gate = Callable[[Results, float], int]
"""1 for ship, -1 for reject, 0 for neither, from the tasks and the relative limit on their average."""


@dataclass(frozen=True)
class Scenario:
    """One block of the table."""

    name: str
    sizes: tuple[int, ...]
    differing: float
    limit: float
    clusters: tuple[int, ...] = ()
    """The sizes of the clusters of the only task; empty for independent items."""
    spread: float = 0.0
    """The standard deviation of the clusters' true drops, in points of 1."""

    @property
    def truths(self) -> tuple[float, float, float]:
        """The relative drops: none, the limit, and three times the limit if the answers that differ allow it."""
        return 0.0, self.limit, min(3 * self.limit, self.differing / SCORE)

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the questions that is answered at each look."""
        return look_shares(min(TINY, *self.sizes) * len(self.sizes), sum(self.sizes))


SCENARIOS = (
    Scenario("100 questions, 1 % differ, limit 1.5 %", (100,), 0.01, 0.015),
    Scenario("1,319 questions, 10 % differ, limit 2 %", (1319,), 0.1, 0.02),
    Scenario("1,319 questions, 3 % differ, limit 2 %", (1319,), 0.03, 0.02),
    Scenario("six tasks of 100, 2 % differ, limit 3 %", 6 * (100,), 0.02, 0.03),
    Scenario("openllm, 10 % differ, limit 1 %", OPENLLM, 0.1, 0.01),
    Scenario("MMLU, 25 % differ, limit 1.5 %, subjects alike", (sum(MMLU),), 0.25, 0.015, MMLU),
    Scenario("MMLU, 10 % differ, limit 3 %, subjects differ by 3 points", (sum(MMLU),), 0.1, 0.03, MMLU, 0.03),
)


def main() -> None:
    """Judge and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=800)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--run", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--limit", type=float, default=0.05, help="the relative limit with --run")
    arguments = parser.parse_args()
    console, started = Console(width=130), time.monotonic()
    if arguments.run:
        console.print(of_runs(arguments.run, arguments.limit))
        return
    with ProcessPoolExecutor(arguments.processes) as pool:
        for table in pool.map(of_scenario, SCENARIOS, [arguments.draws] * len(SCENARIOS)):
            console.print(table)
    error = 1.96 * (ALPHA * (1 - ALPHA) / arguments.draws) ** 0.5
    console.print(f"{arguments.draws} draws a row: 5 % ± {error:.1%}. {time.monotonic() - started:.0f} s")


def of_scenario(scenario: Scenario, draws: int) -> Table:
    """A table of the gates' rates on simulated results."""
    outcomes: dict[str, list[list[int]]] = {name: [[], [], []] for name in ("quantgate", "with looks", *GATES)}
    questions: list[list[float]] = [[], [], []]
    for place, truth in enumerate(scenario.truths):
        source = np.random.default_rng([SEED, SCENARIOS.index(scenario), place])
        for _ in range(draws):
            looks = drawn(scenario, truth, source)
            for name, gate in GATES.items():
                outcomes[name][place].append(gate(looks[-1], scenario.limit))
            result, look = with_looks(looks, scenario.limit)
            outcomes["with looks"][place].append(result)
            questions[place].append(scenario.shares[look] * sum(scenario.sizes))
    table = Table("gate", "false ship", "ships", "rejects", "false reject", "questions", title=scenario.name)
    for name, (without, at_limit, beyond) in outcomes.items():
        rates = (mean(at_limit, 1), mean(without, 1), mean(beyond, -1), mean(at_limit, -1))
        spent = [float(np.mean(counts)) if name == "with looks" else sum(scenario.sizes) for counts in questions]
        table.add_row(name, *(f"{rate:.1%}" for rate in rates), ", ".join(f"{count:,.0f}" for count in spent))
    return table


def mean(results: Sequence[int], wanted: int) -> float:
    """The share of the wanted result."""
    return float(np.mean(np.array(results) == wanted))


def drawn(scenario: Scenario, truth: float, source: np.random.Generator) -> list[Results]:
    """The tasks' answers at each look of one simulated run; the last look has all answers."""
    looks: list[list[Pairs]] = [[] for _ in scenario.shares]
    for size in scenario.sizes:
        clusters = np.array(scenario.clusters or (size,))
        drop = truth * SCORE + source.normal(0.0, scenario.spread, len(clusters)) * bool(scenario.clusters)
        differing = np.maximum(scenario.differing, np.abs(drop))
        lost, gained = (differing + drop) / 2, (differing - drop) / 2
        chances = np.stack([lost, gained, SCORE - lost, 1 - SCORE - gained], axis=1)
        answered = np.round(np.outer(scenario.shares, clusters)).astype(int)
        new = np.diff(answered, axis=0, prepend=0)
        for look, counts in enumerate(np.cumsum(source.multinomial(new, chances), axis=0).astype(float)):
            summed = Clusters(counts.sum(axis=1), counts @ BEFORE, counts @ AFTER) if scenario.clusters else None
            looks[look].append(Pairs(BEFORE, AFTER, counts.sum(axis=0), summed))
    return list(looks)


def quantgate(tasks: Results, limit: float, shipping: float = ALPHA, rejecting: float = ALPHA) -> int:
    """This gate; only the p-value on the measured side of the limit can be small."""
    if (margin.drop(tasks, RELATIVE) or 0.0) > limit:
        return -int(margin.p_beyond(tasks, RELATIVE, limit) <= rejecting)
    return int(margin.p_within(tasks, RELATIVE, limit) <= shipping)


def with_looks(looks: Sequence[Results], limit: float) -> tuple[int, int]:
    """This gate's result with looks, and the number of the look that decided, from 0."""
    for look, tasks in enumerate(looks):
        alpha = ALPHA * error_share(look + 1, len(looks))
        result = quantgate(tasks, limit, 0.0 if look == 0 and len(looks) > 1 else alpha, alpha)
        if result:
            break
    return result, look


def before(tasks: Results, limit: float) -> int:
    """This gate as it was until 2026-11."""
    side = -1 if (margin.drop(tasks, RELATIVE) or 0.0) > limit else 1
    return side * int(_p_before(tasks, limit, side) <= ALPHA)


def _p_before(tasks: Results, limit: float, side: int) -> float:
    """The p-value against "the drop is the limit or more" (`side` 1) or "or less" (-1)."""
    worst = (1.0, 0.0) if side == 1 else (0.0, 1.0)
    values, counts = [], []
    for task in tasks:
        scores = np.append(task.before, worst[0]), np.append(task.after, worst[1])
        values.append(side * RELATIVE.excess(*scores, 1.0, limit) / (task.items + 1))
        counts.append(np.append(task.counts, 1.0))
    p = tail(np.concatenate(values), np.concatenate(counts))
    if tasks[0].clusters is None:
        return p
    groups = tasks[0].clusters
    sums = side * RELATIVE.excess(groups.before, groups.after, groups.items, limit)
    excess, error, freedom = jackknife(sums, groups.items, np.ones(len(sums)))
    return max(p, float(stdtr(freedom, excess / error))) if error else p


def t_test(tasks: Results, limit: float) -> int:
    """A paired t-test."""
    excess = [moments(RELATIVE.excess(task.before, task.after, 1.0, limit), task.counts) for task in tasks]
    average = float(np.mean([mean for mean, _ in excess]))
    error = float(np.sqrt(sum(variance for _, variance in excess))) / len(tasks)
    if error == 0:
        return 1 if average <= 0 else -1
    p = float(stdtr(sum(task.items for task in tasks) - len(tasks), average / error))
    return int(p <= ALPHA) - int(1 - p <= ALPHA)


def moments(values: Numbers, counts: Numbers) -> tuple[float, float]:
    """The mean, and its estimated variance."""
    items, average = counts.sum(), float(values @ counts / counts.sum())
    return average, float((values - average) ** 2 @ counts / (items - 1) / items)


def nel_gate(tasks: Results, limit: float) -> int:
    """NVIDIA NeMo Evaluator's `nel gate`, with the limit on every task, in points."""
    bounds = []
    for task in tasks:
        points = limit * float(task.before @ task.counts) / task.items
        average, variance = moments(task.before - task.after, task.counts)
        width = float(stdtrit(task.items - 1, 0.975)) * variance**0.5
        if task.clusters is not None:
            groups = task.clusters
            residuals, count = groups.before - groups.after - groups.items * average, len(groups.items)
            width = 1.959964 * float(np.sqrt(count / (count - 1) * residuals @ residuals)) / task.items
        bounds.append((average - width - points, average + width - points))
    if any(low > 0 for low, _ in bounds):
        return -1
    return int(all(high <= 0 for _, high in bounds))


def stderr_overlap(tasks: Results, _limit: float) -> int:
    """Whether lm-eval's standard errors leave the two mean scores together."""
    of_baseline, of_variant = ([moments(scores(task), task.counts) for task in tasks] for scores in (_first, _second))
    lost = np.mean([mean for mean, _ in of_baseline]) - np.mean([mean for mean, _ in of_variant])
    errors = [np.sqrt(sum(variance for _, variance in model)) / len(tasks) for model in (of_baseline, of_variant)]
    return 1 if lost <= 1.96 * sum(errors) else -1


def _first(task: Pairs) -> Numbers:
    return task.before


def _second(task: Pairs) -> Numbers:
    return task.after


def pooled_mcnemar(tasks: Results, _limit: float) -> int:
    """Whether the flips of all tasks together show a drop."""
    lost = sum(float(task.counts[task.before > task.after].sum()) for task in tasks)
    gained = sum(float(task.counts[task.before < task.after].sum()) for task in tasks)
    return -1 if bdtr(gained, int(lost + gained), 0.5) <= ALPHA else 1


def point_rule(tasks: Results, limit: float) -> int:
    """The measured drop."""
    return 1 if (margin.drop(tasks, RELATIVE) or 0.0) <= limit else -1


GATES: dict[str, Gate] = {
    "quantgate": quantgate,
    "before": before,
    "paired t-test": t_test,
    "nel gate": nel_gate,
    "stderr overlap": stderr_overlap,
    "pooled McNemar": pooled_mcnemar,
    "point rule": point_rule,
}


def of_runs(folders: Sequence[Path], limit: float) -> Table:
    """The gates' results on saved runs."""
    words = {1: "ship", -1: "reject", 0: "neither"}
    table = Table("run", "variant", "questions", "lost", "gained", "drop", *GATES, title=f"limit {limit:.1%}")
    for folder in folders:
        baseline = read_ours(folder / "variants" / BASELINE)
        others = {path.name: read_ours(path) for path in sorted((folder / "variants").iterdir())}
        for name, variant in others.items():
            tasks = paired(baseline, variant, again=name == BASELINE)
            if not tasks:
                continue
            lost = sum(task.counts[task.before > task.after].sum() for task in tasks)
            gained = sum(task.counts[task.before < task.after].sum() for task in tasks)
            counts = (f"{sum(task.items for task in tasks):,.0f}", f"{lost:.0f}", f"{gained:.0f}")
            results = (words[gate(tasks, limit)] for gate in GATES.values())
            drop = f"{margin.drop(tasks, RELATIVE) or 0.0:.1%}"
            table.add_row(folder.name, f"{name}, again" if name == BASELINE else name, *counts, drop, *results)
    return table


def paired(baseline: Candidate, variant: Candidate, *, again: bool) -> list[Pairs]:
    """The tasks' answers, paired; of the baseline, those of its second pass. Perplexity tasks are left out."""
    tasks = []
    for task, after in (variant.again if again else variant.answers).items():
        first = baseline.answers[task].only(after.table["id"])
        if first.units is None:
            tasks.append(margin.pairs(first.scores, after.scores, first.clusters))
    return tasks


if __name__ == "__main__":
    main()
