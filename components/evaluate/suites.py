"""The suites: which tasks, with how many shots, on how many items; one row each."""

import math
from dataclasses import dataclass

from components.errors import PrerequisiteError
from components.gate.looks import look_shares

TINY, FULL = "tiny", "full"
STAGES = (TINY, FULL)


@dataclass(frozen=True)
class SuiteTask:
    """One lm-eval task in a suite."""

    task: str
    """lm-eval's name; its prompts and metrics are used untouched."""
    metric: str
    """lm-eval's name of the metric that the field reports for this task."""
    shots: int
    chance: float
    """What guessing scores."""
    tiny: int
    """Items of the tiny stage: the first ones of a fixed random order."""
    full: int
    """Items of the full stage, those of the tiny stage among them."""

    def items(self, stage: str, share: float = 1.0) -> int:
        """How many items the stage has asked when that share of all is answered: never fewer than the tiny stage's."""
        return self.tiny if stage == TINY else max(self.tiny, math.ceil(self.full * share))


@dataclass(frozen=True)
class Suite:
    """Tasks that are run and judged together."""

    name: str
    description: str
    tasks: tuple[SuiteTask, ...]

    @property
    def looks(self) -> tuple[float, ...]:
        """The share of the full stage's items at each look, the tiny stage's first."""
        return look_shares(*(sum(task.items(stage) for task in self.tasks) for stage in STAGES))


SUITES = {
    row.name: row
    for row in (
        Suite(
            "demo",
            "Three tasks on which a 135M model is above chance, zero-shot as in the model card of SmolLM2.",
            (
                SuiteTask("arc_easy", "acc", shots=0, chance=0.25, tiny=40, full=220),
                SuiteTask("hellaswag", "acc_norm", shots=0, chance=0.25, tiny=20, full=80),
                SuiteTask("piqa", "acc", shots=0, chance=0.5, tiny=40, full=260),
            ),
        ),
        Suite(
            "quick",
            "The demo's tasks on a few items: whether every part works, not whether a model is good.",
            (
                SuiteTask("arc_easy", "acc", shots=0, chance=0.25, tiny=4, full=16),
                SuiteTask("hellaswag", "acc_norm", shots=0, chance=0.25, tiny=3, full=12),
                SuiteTask("piqa", "acc", shots=0, chance=0.5, tiny=4, full=16),
            ),
        ),
    )
}


def suite_named(name: str) -> Suite:
    """The row of that name; raises PrerequisiteError with the valid names."""
    if name not in SUITES:
        raise PrerequisiteError(f"Unknown suite {name!r}. Choose from: {', '.join(SUITES)}.")
    return SUITES[name]
