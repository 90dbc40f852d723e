"""Prepare the suite's prompts once a run, and choose the window with which every variant is served."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.benchmarks.suites import STAGES
from components.errors import PrerequisiteError
from components.models.window import served_window
from components.run.plan import EvaluationPlan
from components.run.progress import Step
from components.storage.hashing import sha256_of
from components.storage.location import open_store

if TYPE_CHECKING:
    from components.benchmarks.harness import Prepared
    from components.benchmarks.prompts import Item, Preparation

FORM = 4
"""The form of the file of prompts; a file of another form is not read."""


def with_prompts(
    plan: EvaluationPlan, tasks: "Sequence[Prepared]", preparation: "Preparation", step: Step
) -> EvaluationPlan:
    """The plan with the file of its prompts, the window to serve, and the number of items that are too long for it.

    A file that an earlier run has prepared for the same questions and tokenizer is used again. Raises PrerequisiteError
    when the window is too small for a whole task, or for some items if the policy refuses that.
    """
    from components.benchmarks.prompts import PromptFile, write

    preparation = replace(preparation, window=plan.max_model_len or preparation.window)
    items = {task.row.task: (task, {item for stage in STAGES for item in task.chosen(stage)}) for task in tasks}
    total = sum(len(chosen) for _, chosen in items.values())
    store, name = open_store(plan.store), f"prompts/{key(plan, preparation)}.parquet"
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "prompts.parquet"
        if not store.get_file(name, file):
            write(items, preparation, file, lambda done, task: step.advance(done, total, f"preparing {task}"))
            store.put_file(file, name)
        needs = PromptFile(file).needed
        sha256 = sha256_of(file)
        too_long = {task: check_fits(task, needed, preparation.window, plan) for task, needed in needs.items()}
    fitting = [tokens for needed in needs.values() for tokens in needed.values() if tokens <= preparation.window]
    return plan.model_copy(
        update={
            "prompts": f"{plan.store}/{name}",
            "prompts_sha256": sha256,
            "window": plan.max_model_len or served_window(max(*fitting, plan.flows_tokens), preparation.window),
            "too_long": {task: count for task, count in too_long.items() if count},
        }
    )


def check_window(plan: EvaluationPlan, model_window: int | None) -> None:
    """Raise PrerequisiteError when the plan's window is larger than the model's own; None for a model without any."""
    if model_window is not None and plan.max_model_len > model_window:
        raise PrerequisiteError(
            f"--max-model-len is {plan.max_model_len:,}, and the model's own window is {model_window:,}. Give at most"
            " that, or leave the option out."
        )


def check_fits(task: str, needed: "dict[Item, int]", largest: int, plan: EvaluationPlan) -> int:
    """The number of the task's items that are too long; raises PrerequisiteError when that ends the run."""
    too_long = sum(tokens > largest for tokens in needed.values())
    window = f"The window is {largest:,} tokens{' (--max-model-len)' if plan.max_model_len else ''}"
    if too_long == len(needed):
        raise PrerequisiteError(
            f"{window}, and the shortest item of {task} needs {min(needed.values()):,} with its answer. Choose a model"
            " with a larger window, or a suite without this task."
        )
    if too_long and plan.decided_limits.too_long == "refuse":
        raise PrerequisiteError(
            f"{window}, and {too_long:,} of {len(needed):,} items of {task} need more, up to"
            f" {max(needed.values()):,}. The policy refuses that: set `too_long: exclude` in it to leave them out."
        )
    return too_long


def key(plan: EvaluationPlan, preparation: "Preparation") -> str:
    """The name of the file: a digest of all that determines the prompts."""
    parts = FORM, plan.asked, preparation.encoder.digest, preparation.window, preparation.chat_template
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
