"""What a plan selects: its suite with the custom test sets, and where the rows come from."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.benchmarks import suites
from components.benchmarks.custom import ITEMS_FILE, SET_FILE, SETS, CustomSet, read_set
from components.errors import PrerequisiteError
from components.run.plan import EvaluationPlan
from components.storage.cache import cache_dir
from components.storage.location import open_store

if TYPE_CHECKING:
    from components.benchmarks.splits import Source, Split

EMBEDDED, HUB = "embedded", "hub"


@dataclass(frozen=True)
class Questions:
    """What is asked: a suite, its rows, and whether prompts are put into the model's chat template."""

    suite: suites.Suite
    source: "Source"
    chat_template: bool = False


def suite_of(plan: EvaluationPlan) -> suites.Suite:
    """The suite that the plan names, with its sets of one's own."""
    return suites.suite_named(plan.suite, custom_sets(plan.custom_kept or plan.custom), plan.limit)


def custom_sets(locations: Sequence[str]) -> "list[CustomSet]":
    """The test sets of one's own that lie in these folders or s3:// prefixes, or have the names of shipped ones."""
    with tempfile.TemporaryDirectory() as scratch:
        return [read_set(local_set(each, Path(scratch) / str(place))) for place, each in enumerate(locations)]


def local_set(location: str, scratch: Path) -> Path:
    """The folder of a custom test set on this machine: itself, or a copy in `scratch` of what lies in a bucket."""
    if "://" not in location:
        plain = location.removeprefix("file:")
        return SETS / plain if plain in shipped_sets() else Path(plain)
    folder = scratch / location.rstrip("/").rpartition("/")[2]
    for name in (SET_FILE, ITEMS_FILE):
        if not open_store(location).get_file(name, folder / name):
            raise PrerequisiteError(f"{location} has no {name}. A set of one's own is {SET_FILE} and {ITEMS_FILE}.")
    return folder


def shipped_sets() -> list[str]:
    """The names of the sets that come with the project."""
    return sorted(each.name for each in SETS.iterdir() if each.is_dir())


def questions_of(plan: EvaluationPlan) -> Questions:
    """What the plan asks."""
    return Questions(suite_of(plan), source_of(plan), plan.chat_template)


def source_of(plan: EvaluationPlan) -> "Source":
    """Where the plan's rows come from."""
    from components.benchmarks.embedded import Embedded
    from components.benchmarks.row_sources import Mirror

    return Embedded() if plan.data == EMBEDDED else Mirror(plan.data, cache_dir())


def kept_rows(plan: EvaluationPlan) -> str:
    """The mirror in the store that keeps what a run has from the hub."""
    return f"{plan.store}/rows"


def wanted_splits(suite: suites.Suite) -> "list[Split]":
    """The files that the suite asks for."""
    from components.benchmarks.harness import splits_wanted

    return list(dict.fromkeys(split for task in suite.tasks for split in splits_wanted(task)))


def are_kept(wanted: "list[Split]", location: str) -> bool:
    """Whether the mirror has all of the files, or knows that there are none."""
    from components.benchmarks.mirror import read_manifest

    try:
        manifest = read_manifest(location)
    except PrerequisiteError:
        return False
    return all(split.file in manifest.files or split.file in manifest.missing for split in wanted)
