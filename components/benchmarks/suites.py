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
    """Items of the tiny stage: the first ones of a fixed random order. 0 for a task of programs."""
    full: int
    """Items of the full stage, including those of the tiny stage."""
    sensitive_to: str = ""
    """The ability that a quantized model loses when this score falls."""
    filter: str = "none"
    """lm-eval's name of the filter that extracts the answer from the text, if the task has several."""
    programs: bool = False
    """Whether the answers are programs; a sandbox runs them once all of them are written."""
    custom: "CustomSet | None" = None
    """The test set of a custom task; None for a task of lm-eval."""

    def items(self, stage: str, share: float = 1.0) -> int:
        """The number of items in the stage, or in this share of the full stage: never below the tiny stage's."""
        return self.tiny if stage == TINY else max(self.tiny, math.ceil(self.full * share))

    def limited(self, items: int) -> "SuiteTask":
        """The task with at most this many items."""
        return replace(self, tiny=min(self.tiny, items), full=min(self.full, items))


@dataclass(frozen=True)
class Suite:
    """Tasks that are evaluated and judged together."""

    name: str
    description: str
    tasks: tuple[SuiteTask, ...]
    embedded: bool = False
    """Whether the embedded package contains the rows."""

    @property
    def programs(self) -> bool:
        """Whether the answers of one of the tasks are programs."""
        return any(task.programs for task in self.tasks)

    @property
    def looks(self) -> tuple[float, ...]:
        """The share of the full stage's items at each look; the tiny stage is the first look.

        A suite with programs has one look, because programs have no score until all of them are run.
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
            "Two tasks on which a 135M model is clearly above chance, zero-shot as in the model card of SmolLM2.",
            (
                SuiteTask("arc_easy", "acc", 0, 0.25, 50, 300, "school science"),
                SuiteTask("piqa", "acc", 0, 0.5, 50, 300, "how physical things are done"),
            ),
            embedded=True,
        ),
        Suite(
            "quick",
            "Three tasks on a few items: whether every part works, not whether a model is good.",
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
    """The suite of that name, or several (`openllm,code`) joined into one, with these custom tasks added.

    `limit` is the most items that a task may have; 0 is no limit. Raises PrerequisiteError with the valid names.
    """
    if limit < 0:
        raise PrerequisiteError(f"The limit of items is {limit}. Give 1 or more, or 0 for no limit.")
    known = {task.task for suite in SUITES.values() for task in suite.tasks}
    if conflicts := [test_set for test_set in custom if test_set.name in known]:
        raise PrerequisiteError(
            f"{conflicts[0].folder} has the name of a benchmark, {conflicts[0].name}. Give it another name."
        )
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in chosen:
        if name not in SUITES:
            raise PrerequisiteError(f"Unknown suite {name!r}. Choose from: {', '.join(SUITES)}.")
    if not chosen and not custom:
        raise PrerequisiteError(f"No suite is named. Choose from: {', '.join(SUITES)}, or give a custom task.")
    tasks: dict[str, SuiteTask] = {}
    for task in (*(task for name in chosen for task in SUITES[name].tasks), *map(custom_task, custom)):
        if tasks.setdefault(task.task, task) != task:
            raise PrerequisiteError(
                f"Two of the suites {names} have different settings for {task.task}. Run them one by one."
            )
    return Suite(
        name=",".join((*chosen, *(test_set.name for test_set in custom))),
        description=" ".join(SUITES[name].description for name in chosen),
        tasks=tuple(task.limited(limit) if limit else task for task in tasks.values()),
        embedded=all(SUITES[name].embedded for name in chosen),
    )


def custom_task(test_set: "CustomSet") -> SuiteTask:
    """The row of a custom task: all items, and a fifth of them (at least 10) in the tiny stage."""
    items = len(test_set.items)
    tiny = min(items, max(10, items // 5))
    sensitive_to = test_set.sensitive_to or test_set.description
    return SuiteTask(test_set.name, test_set.metric, 0, test_set.chance, tiny, items, sensitive_to, custom=test_set)
