"""A plan's selection of questions: its suite with the custom tasks, and the source of the rows."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.benchmarks import protocol, suites
from quantgate.components.benchmarks.custom import ITEMS_FILE, SET_FILE, SETS, CustomSet, read_set
from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.location import local_file, open_store

if TYPE_CHECKING:
    from quantgate.components.benchmarks.harness import Prepared
    from quantgate.components.benchmarks.prompts import Item, PromptFile
    from quantgate.components.benchmarks.splits import Source, Split

EMBEDDED, HUB = "embedded", "hub"


@dataclass(frozen=True)
class Questions:
    """A suite with the source of its rows, and its prompts."""

    suite: suites.Suite
    source: "Source"
    prompts: "PromptFile"
    window: int
    """The most tokens of a prompt and its answer; items that need more are left out."""
    tokenizer: str = ""
    """The digest of the tokenizer's files with which the prompts were prepared; "" when it is not known."""
    chat_template: bool = False
    """Whether prompts are formatted with the model's chat template."""

    def chosen(self, task: "Prepared", stage: str, share: float = 1.0) -> "set[Item]":
        """The items of the stage, or of a share of the full stage, that fit the window."""
        needed = self.prompts.needed[task.row.task]
        return {item for item in task.chosen(stage, share) if needed[item] <= self.window}


def suite_of(plan: EvaluationPlan) -> suites.Suite:
    """The suite that the plan names, with the plan's custom tasks and its settings of generated answers."""
    custom = custom_sets(plan.custom_kept or plan.custom)
    suite = suites.suite_named(plan.suite_kept or plan.suite, custom, plan.limit, trusted=plan.trust_tasks)
    return replace(suite, tasks=tuple(protocol.of_plan(task, plan) for task in suite.tasks))


def custom_sets(locations: Sequence[str]) -> "list[CustomSet]":
    """The custom tasks' test sets; a location is a folder, an s3:// prefix, or the name of a shipped set."""
    with tempfile.TemporaryDirectory() as scratch:
        return [read_set(local_set(location, Path(scratch) / str(number))) for number, location in enumerate(locations)]


def local_set(location: str, scratch: Path) -> Path:
    """The folder of a custom task's test set on this machine; a set in a bucket is copied to `scratch`."""
    if "://" not in location:
        plain = location.removeprefix("file:")
        return SETS / plain if plain in shipped_sets() else Path(plain)
    folder = scratch / location.rstrip("/").rpartition("/")[2]
    for name in (SET_FILE, ITEMS_FILE):
        if not open_store(location).get_file(name, folder / name):
            raise PrerequisiteError(f"{location} has no {name}. A custom task needs {SET_FILE} and {ITEMS_FILE}.")
    return folder


def shipped_sets() -> list[str]:
    """The names of the test sets that are part of the project."""
    return sorted(folder.name for folder in SETS.iterdir() if folder.is_dir())


def questions_of(plan: EvaluationPlan) -> Questions:
    """The questions that the plan selects; raises PrerequisiteError when the file of their prompts is gone or another.

    Whoever writes to the store could otherwise ask a variant other questions than the baseline.
    """
    from quantgate.components.benchmarks.prompts import PromptFile

    file = local_file(plan.prompts, cache_dir() / "prompts")
    if not file.is_file():
        raise PrerequisiteError(f"{file}, the file of the run's prompts, is gone from the store. Start a new run.")
    if sha256_of(file) != plan.prompts_sha256:
        raise PrerequisiteError(
            f"{plan.prompts} has other bytes than when the run began, so its questions are others. Find out who writes "
            "to the store, delete that file, and start a new run."
        )
    return Questions(suite_of(plan), source_of(plan), PromptFile(file), plan.window, plan.tokenizer, plan.chat_template)


def source_of(plan: EvaluationPlan) -> "Source":
    """The source of the plan's rows."""
    from quantgate.components.benchmarks.embedded import Embedded
    from quantgate.components.benchmarks.row_sources import Mirror
    from quantgate.components.benchmarks.ruler import WithMade

    source: Source = Embedded() if plan.data == EMBEDDED else Mirror(plan.data, cache_dir())
    return WithMade(source, Mirror(plan.made_rows, cache_dir())) if plan.made_rows else source


def kept_rows(plan: EvaluationPlan) -> str:
    """The location of the mirror in the store that keeps the rows a run has read from the hub."""
    return f"{plan.store}/rows"


def wanted_splits(suite: suites.Suite) -> "list[Split]":
    """The splits that the suite needs."""
    from quantgate.components.benchmarks.harness import splits_wanted

    return list(dict.fromkeys(split for task in suite.tasks for split in splits_wanted(task)))


def are_kept(wanted: "list[Split]", location: str) -> bool:
    """Whether the mirror contains each of the splits, or records that it does not exist."""
    from quantgate.components.benchmarks.mirror import read_manifest

    try:
        manifest = read_manifest(location)
    except PrerequisiteError:
        return False
    return all(split.file in manifest.files or split.file in manifest.missing for split in wanted)
