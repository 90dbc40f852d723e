"""What a run asks, and where the rows come from: decided and checked before anything is started."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from components import progress
from components.artifacts import EvaluationPlan
from components.errors import PrerequisiteError
from components.evaluate import suites
from components.evaluate.custom import ITEMS_FILE, SET_FILE, SETS, CustomSet, read_set
from components.models import cache_dir
from components.store import open_store

if TYPE_CHECKING:
    from components.evaluate import Questions
    from components.evaluate.harness import Prepared
    from components.evaluate.sources import Source, Split

EMBEDDED, HUB = "embedded", "hub"


def check_questions(asked: EvaluationPlan) -> EvaluationPlan:
    """The plan with the place of its rows; raises PrerequisiteError for what cannot be asked or scored here."""
    suite = suite_of(asked)
    if suite.programs:
        from components.execute import check_sandbox

        check_sandbox()
    if asked.irt_parameters:
        from components.evaluate.irt import ANCHORS, read_parameters

        with tempfile.TemporaryDirectory() as scratch:
            known = read_parameters(local_file(asked.irt_parameters, Path(scratch)))
        if not any(each.task in known and each.full == ANCHORS for each in suite.tasks):
            raise PrerequisiteError(
                f"The parameters {asked.irt_parameters} are for tinyBenchmarks' tasks on all of their {ANCHORS} items;"
                f" {suite.name} asks none so. Choose --suite tiny without a limit, or leave them out."
            )
    data = asked.data or (EMBEDDED if suite.embedded else HUB)
    if data == HUB:
        if not are_kept(wanted_splits(suite), kept_rows(asked)):
            check_hub(suite)
    elif data != EMBEDDED:
        from components.evaluate.mirror import read_manifest

        read_manifest(data)
    return asked.model_copy(update={"data": data})


def suite_of(plan: EvaluationPlan) -> suites.Suite:
    """The suite that the plan names, with its sets of one's own."""
    return suites.suite_named(plan.suite, custom_sets(plan.custom), plan.limit)


def custom_sets(locations: Sequence[str]) -> "list[CustomSet]":
    """The test sets of one's own that lie in these folders or s3:// prefixes, or have the names of shipped ones."""
    if not locations:
        return []
    found = []
    for location in locations:
        if "://" not in location:
            plain = location.removeprefix("file:")
            found.append(read_set(SETS / plain if plain in shipped_sets() else Path(plain)))
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / location.rstrip("/").rpartition("/")[2]
            for name in (SET_FILE, ITEMS_FILE):
                if not open_store(location).get_file(name, folder / name):
                    raise PrerequisiteError(
                        f"{location} has no {name}. A set of one's own is {SET_FILE} and {ITEMS_FILE}."
                    )
            found.append(read_set(folder))
    return found


def shipped_sets() -> list[str]:
    """The names of the sets that come with the project."""
    return sorted(each.name for each in SETS.iterdir() if each.is_dir())


def questions_of(plan: EvaluationPlan) -> "Questions":
    """What the plan asks."""
    from components.evaluate import Questions

    return Questions(suite_of(plan), source_of(plan), plan.chat_template)


def source_of(plan: EvaluationPlan) -> "Source":
    """Where the plan's rows come from."""
    from components.evaluate.rows import Embedded
    from components.evaluate.sources import Mirror

    return Embedded() if plan.data == EMBEDDED else Mirror(plan.data, cache_dir())


def rows_at_hand(plan: EvaluationPlan, step: progress.Step) -> EvaluationPlan:
    """The plan with a place that has all its rows: what comes from the hub is kept as a mirror in the store."""
    from components.evaluate.harness import prepare

    suite = suite_of(plan)
    if plan.data == HUB:
        from components.evaluate import mirror
        from components.evaluate.ifeval import WithPunkt
        from components.evaluate.sources import Hub

        wanted, kept = wanted_splits(suite), kept_rows(plan)
        if not are_kept(wanted, kept):
            mirror.make(wanted, WithPunkt(Hub(cache_dir())), kept, lambda name, done, of: step.advance(done, of, name))
        plan = plan.model_copy(update={"data": kept})
    source = source_of(plan)
    prepared = [prepare(task, source, plan.chat_template) for task in suite.tasks]
    return plan.model_copy(update={"asked": digest_of(f"{suite.name} {plan.irt_parameters}", prepared)})


def digest_of(suite: str, prepared: "Sequence[Prepared]") -> str:
    """sha256 of all that is asked: suite, tasks, how many items, lm-eval's definitions and settings, and the rows."""
    asked = [
        (each.row.task, each.row.metric, each.row.shots, each.row.tiny, each.row.full, each.version, each.settings)
        for each in prepared
    ]
    told = json.dumps([version("lm_eval"), suite, asked, [each.source for each in prepared]])
    return hashlib.sha256(told.encode()).hexdigest()


def kept_rows(plan: EvaluationPlan) -> str:
    """The mirror in the store that keeps what a run has from the hub."""
    return f"{plan.store}/rows"


def wanted_splits(suite: suites.Suite) -> "list[Split]":
    """The files that the suite asks for."""
    from components.evaluate.harness import splits_wanted

    return list(dict.fromkeys(split for task in suite.tasks for split in splits_wanted(task)))


def are_kept(wanted: "list[Split]", location: str) -> bool:
    """Whether the mirror has all of the files, or knows that there are none."""
    from components.evaluate.mirror import read_manifest

    try:
        manifest = read_manifest(location)
    except PrerequisiteError:
        return False
    return all(split.file in manifest.files or split.file in manifest.missing for split in wanted)


def check_hub(suite: suites.Suite) -> None:
    """Raises PrerequisiteError when the hub is not reachable, or does not let this user have the suite's first rows."""
    from components.evaluate.sources import hub_info

    first = next(iter(wanted_splits(suite)), None)
    if first:
        hub_info(first.path)


def check_chat_template(tokenizer: str) -> None:
    """Raises PrerequisiteError when the tokenizer in that folder has no chat template."""
    from transformers import AutoTokenizer

    if not AutoTokenizer.from_pretrained(tokenizer).chat_template:
        raise PrerequisiteError(f"The tokenizer {tokenizer} has no chat template. Run it with --no-chat-template.")


def local_file(location: str, scratch: Path) -> Path:
    """The file as a local one: itself, or its copy in `scratch`."""
    if "://" not in location:
        return Path(location.removeprefix("file:"))
    prefix, _, name = location.rpartition("/")
    if not open_store(prefix).get_file(name, scratch / name):
        raise PrerequisiteError(f"There is no {location}.")
    return scratch / name
