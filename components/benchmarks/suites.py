"""The suites: which tasks, with how many shots, on how many items; one row each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, get_args

from quantgate.components.benchmarks.anchors import anchors_of
from quantgate.components.benchmarks.own_tasks import own_tasks
from quantgate.components.benchmarks.suite_file import Chat, SuiteFile, split_suite
from quantgate.components.benchmarks.thinking import THINK, Tags
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evidence.looks import look_shares
from quantgate.components.storage.yaml_file import parse

if TYPE_CHECKING:
    from quantgate.components.benchmarks.custom import CustomSet
    from quantgate.components.benchmarks.own_tasks import OwnTasks

TINY, FULL = "tiny", "full"
STAGES = (TINY, FULL)
CHATS: tuple[str, ...] = get_args(Chat)
"""Whether a generated answer is asked for in a chat: never, if the model has a chat template, or always."""
NO, AUTO, YES = CHATS


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
    """Items of the tiny stage: the anchors, or the first ones of a fixed random order. 0 for a task of programs."""
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
    anchors: tuple[int, ...] = ()
    """The items of the tiny stage where tinyBenchmarks chose them, as in anchors.json; else it is a random sample."""
    own: "OwnTasks | None" = None
    """The user's own definitions, in which the task is searched before lm-eval's."""
    chat: str = NO
    """One of CHATS, for generated answers."""
    samples: int = 1
    """How many answers are generated to each item, each with a seed of its own."""
    temperature: float = 0.0
    """The temperature of generated answers; 0 is lm-eval's, which is greedy unless the task says otherwise."""
    max_tokens: int = 0
    """The most tokens of a generated answer, thinking included; 0 is the task's own limit."""
    clusters: tuple[int, ...] = ()
    """The sizes of the task's clusters, as MMLU's subjects; for the plan of a run, answers name their own clusters."""
    thinking: Tags = THINK
    """The tags of a reasoning model's thinking, which is not scored."""

    def items(self, stage: str, share: float = 1.0) -> int:
        """The number of items in the stage, or in this share of the full stage: never below the tiny stage's."""
        return self.tiny if stage == TINY else max(self.tiny, math.ceil(self.full * share))

    def counted(self, items: int) -> "SuiteTask":
        """The task with all `items` if its suite names no number; a fifth of them, 10 to 100, in the tiny stage."""
        full = self.full or items
        tiny = 0 if self.programs else min(full, self.tiny or min(max(full // 5, 10), 100))
        return replace(self, tiny=tiny, full=full)

    def limited(self, items: int) -> "SuiteTask":
        """The task with at most this many items; the tiny stage of a limited task is a random sample."""
        if items >= self.full:
            return self
        return replace(self, tiny=min(self.tiny, items), full=items, anchors=())


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


MC2_CHANCE = 0.448
"""What a model scores on TruthfulQA's mc2 that knows nothing: the same probability for every choice gives an item its
share of true choices, and the mean of that share over the 817 items is 0.4484. Several choices are true: 1 / choices
(0.158) would be the chance to name one of them."""
GUESSED = ("acc", "acc_norm")
"""Metrics on which guessing among n choices of which one is right scores 1 / n."""

_LARGE_SUBJECTS = """1534 895 783 612 545 390 378 346 324 311 310 306 282 272 270 265 245 238 237 235 234 223 216 204
203 201 198 193 173 171 166 165 163 152 151 145 144 135 131 126 121 114 112 110 108 103 102"""
MMLU_SUBJECTS = (*map(int, _LARGE_SUBJECTS.split()), *10 * (100,))
"""How many questions each of MMLU's subjects has."""
MMLU = SuiteTask(
    "mmlu",
    "acc",
    5,
    0.25,
    100,
    14042,
    "knowledge of 57 subjects",
    anchors=anchors_of("mmlu"),
    clusters=MMLU_SUBJECTS,
)
HELLASWAG = SuiteTask(
    "hellaswag",
    "acc_norm",
    10,
    0.25,
    100,
    10042,
    "plausible continuations of everyday text",
    anchors=anchors_of("hellaswag"),
)
ARC = SuiteTask(
    "arc_challenge", "acc_norm", 25, 0.25, 99, 1172, "hard school science", anchors=anchors_of("arc_challenge")
)
WINOGRANDE = SuiteTask(
    "winogrande", "acc", 5, 0.5, 100, 1267, "what a pronoun stands for", anchors=anchors_of("winogrande")
)
GSM8K = SuiteTask(
    "gsm8k", "exact_match", 5, 0.0, 100, 1319, "sums in several steps", "strict-match", anchors=anchors_of("gsm8k")
)
TRUTHFULQA = SuiteTask(
    "truthfulqa_mc2",
    "acc",
    0,
    MC2_CHANCE,
    99,
    817,
    "resistance to common falsehoods",
    anchors=anchors_of("truthfulqa_mc2"),
)
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
            "The six benchmarks of the first Open LLM Leaderboard, with its numbers of shots, on all items;"
            " the tiny stage is tinyBenchmarks.",
            (MMLU, HELLASWAG, ARC, WINOGRANDE, GSM8K, TRUTHFULQA),
        ),
        Suite("code", "Programs from a description, run against their tests: pass@1, greedy.", (HUMANEVAL, MBPP)),
        Suite(
            "instructions",
            "IFEval: instructions whose being followed can be checked by a program.",
            (
                SuiteTask(
                    "ifeval",
                    "prompt_level_strict_acc",
                    0,
                    0.0,
                    50,
                    541,
                    "instructions followed to the letter",
                    chat=AUTO,
                ),
            ),
        ),
        Suite(
            "perplexity",
            "WikiText-2, whole documents: how well the model predicts text; less is better.",
            (SuiteTask("wikitext", "word_perplexity", 0, 0.0, 4, 62, "everything a little: the finest measure"),),
        ),
        Suite(
            "leaderboard2",
            "The six benchmarks of the second Open LLM Leaderboard, with its shots and metrics. For a chat model add "
            "--chat-template, as the leaderboard does.",
            (
                SuiteTask("leaderboard_mmlu_pro", "acc", 5, 0.11, 100, 12032, "knowledge, ten choices"),
                SuiteTask("leaderboard_gpqa_extended", "acc_norm", 0, 0.25, 100, 546, "graduate science"),
                SuiteTask("leaderboard_math_hard", "exact_match", 4, 0.0, 100, 1324, "hard mathematics"),
                SuiteTask("leaderboard_ifeval", "prompt_level_strict_acc", 0, 0.0, 50, 541, "instructions followed"),
                SuiteTask("leaderboard_bbh", "acc_norm", 3, 0.289, 100, 5761, "24 kinds of reasoning"),
                SuiteTask("leaderboard_musr", "acc_norm", 0, 0.343, 100, 756, "long stories"),
            ),
        ),
        Suite(
            "math",
            "Word problems and competition mathematics, generated step by step.",
            (
                SuiteTask("minerva_math500", "math_verify", 4, 0.0, 50, 500, "mathematics of competitions"),
                SuiteTask("gsm8k", "exact_match", 5, 0.0, 100, 1319, "sums in several steps", "strict-match"),
                SuiteTask(
                    "gsm8k_platinum", "exact_match", 5, 0.0, 100, 1209, "sums without faulty labels", "strict-match"
                ),
            ),
        ),
        Suite(
            "long-context",
            "Six tasks of RULER at four context lengths; the rows are made with the model's tokenizer.",
            tuple(
                SuiteTask(f"ruler_{tokens}", str(tokens), 0, 0.0, 60, 600, f"{tokens // 1024}k tokens of context")
                for tokens in (4096, 8192, 16384, 32768)
            ),
        ),
        Suite(
            "arm",
            "MMLU and HellaSwag as in Arm's guide to quantized models on vLLM: lm-eval's own numbers of shots;"
            " the tiny stage is tinyBenchmarks.",
            (replace(MMLU, shots=0), replace(HELLASWAG, shots=0)),
        ),
    )
}


def guessed_score(task: str, metric: str, choices: Sequence[int]) -> float:
    """What guessing scores on the task: a shipped suite's row says it, else the items' numbers of choices do."""
    for row in (row for suite in SUITES.values() for row in suite.tasks):
        if (row.task, row.metric) == (task, metric):
            return row.chance
    if metric == "mc2":  # as lm-eval called it before version 0.4
        return MC2_CHANCE
    return fmean(1 / count for count in choices) if metric in GUESSED and min(choices) > 1 else 0.0


def suite_named(suite: str, custom: "Sequence[CustomSet]" = (), limit: int = 0, *, trusted: bool = False) -> Suite:
    """The suite of a plan: one, or several (`openllm,code`) joined into one, with these custom tasks added.

    `limit` is the most items that a task may have; 0 is no limit. `trusted` allows the functions of the user's own
    tasks. Raises PrerequisiteError with the valid names.
    """
    if limit < 0:
        raise PrerequisiteError(f"The limit of items is {limit}. Give 1 or more, or 0 for no limit.")
    known = {task.task for shipped in SUITES.values() for task in shipped.tasks}
    if conflicts := [test_set for test_set in custom if test_set.name in known]:
        raise PrerequisiteError(
            f"{conflicts[0].folder} has the name of a benchmark, {conflicts[0].name}. Give it another name."
        )
    names, files = split_suite(suite)
    for name in names:
        if name not in SUITES:
            raise PrerequisiteError(
                f"Unknown suite {name!r}. Choose from: {', '.join(SUITES)}. A file ends with .yaml."
            )
    if not names and not files and not custom:
        raise PrerequisiteError(f"No suite is named. Choose from: {', '.join(SUITES)}, or give a custom task.")
    chosen = [SUITES[name] for name in dict.fromkeys(names)]
    chosen += [suite_of_file(parse(SuiteFile, text, path), path, trusted) for path, text in files]
    tasks: dict[str, SuiteTask] = {}
    for task in (*(task for part in chosen for task in part.tasks), *map(custom_task, custom)):
        if tasks.setdefault(task.task, task) != task:
            all_names = ", ".join(part.name for part in chosen)
            raise PrerequisiteError(
                f"Two of the suites {all_names} have different settings for {task.task}. Run them one by one."
            )
    return Suite(
        name=",".join((*(part.name for part in chosen), *(test_set.name for test_set in custom))),
        description=" ".join(part.description for part in chosen if part.description),
        tasks=tuple(task.limited(limit) if limit else task for task in tasks.values()),
        embedded=all(part.embedded for part in chosen),
    )


def suite_of_file(file: SuiteFile, path: str, trusted: bool) -> Suite:
    """The suite in a file; raises PrerequisiteError when it has the name of a shipped suite."""
    if file.name in SUITES:
        raise PrerequisiteError(f"{path}: {file.name} is the name of a shipped suite. Give it another name.")
    own = own_tasks(file.include_path, trusted) if file.include_path else None
    programs = {task.task for task in (HUMANEVAL, MBPP)}
    tasks = [
        SuiteTask(
            task=task.task,
            metric=task.metric,
            shots=task.shots or 0,
            chance=task.chance or 0.0,
            tiny=task.tiny or 0,
            full=task.items or 0,
            sensitive_to=task.sensitive_to,
            filter=task.filter or "none",
            programs=task.task in programs,
            own=own,
            chat=task.chat,
            samples=task.samples,
            temperature=task.temperature,
            max_tokens=task.max_tokens or 0,
        )
        for task in file.tasks
    ]
    return Suite(file.name, file.description, tuple(tasks))


def custom_task(test_set: "CustomSet") -> SuiteTask:
    """The row of a custom task: all items, and a fifth of them (at least 10) in the tiny stage."""
    items = len(test_set.items)
    tiny = min(items, max(10, items // 5))
    sensitive_to = test_set.sensitive_to or test_set.description
    return SuiteTask(test_set.name, test_set.metric, 0, test_set.chance, tiny, items, sensitive_to, custom=test_set)
