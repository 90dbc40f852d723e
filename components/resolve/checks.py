"""What is checked before anything is started."""

import tempfile
from pathlib import Path

from components.benchmarks import selection, suites
from components.benchmarks.selection import EMBEDDED, HUB, are_kept, kept_rows, suite_of, wanted_splits
from components.errors import PrerequisiteError
from components.models.variants import with_baseline
from components.policies.policy import check_use_case, chosen
from components.run.plan import EvaluationPlan
from components.storage.location import local_file, open_store


def check_questions(asked: EvaluationPlan) -> EvaluationPlan:
    """The plan with the place of its rows; raises PrerequisiteError for what cannot be asked or scored here."""
    suite = suite_of(asked)
    if suite.programs:
        from components.sandbox.programs import check_sandbox

        check_sandbox()
    if asked.irt_parameters:
        from components.benchmarks.irt import ANCHORS, read_parameters

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
        from components.benchmarks.mirror import read_manifest

        read_manifest(data)
    return asked.model_copy(update={"data": data})


def check_hub(suite: suites.Suite) -> None:
    """Raises PrerequisiteError when the hub is not reachable, or does not let this user have the suite's first rows."""
    from components.benchmarks.row_sources import hub_info

    first = next(iter(wanted_splits(suite)), None)
    if first:
        hub_info(first.path)


def check_chat_template(tokenizer: str) -> None:
    """Raises PrerequisiteError when the tokenizer in that folder has no chat template."""
    from transformers import AutoTokenizer

    if not AutoTokenizer.from_pretrained(tokenizer).chat_template:
        raise PrerequisiteError(f"The tokenizer {tokenizer} has no chat template. Run it with --no-chat-template.")


def check(model: str, asked: EvaluationPlan) -> EvaluationPlan:
    """What is asked, the baseline with it; raises PrerequisiteError before anything is started."""
    from components.models.sources import check_source

    variants = with_baseline(list(asked.variants))
    tasks = [each.task for each in selection.suite_of(asked).tasks]
    limits = chosen(asked.use_case, asked.policy)
    check_use_case(limits, tasks)
    check_source(model)
    return check_questions(asked.model_copy(update={"variants": tuple(variants), "limits": limits}))


def check_places(store: str, tracking_uri: str) -> None:
    """Raises PrerequisiteError when the store cannot be opened or MLflow does not answer."""
    open_store(store).get_text("recipes/none.json")  # an S3 that refuses or does not answer says so here
    if tracking_uri:
        from components.tracking.connect import check_no_password, connected

        check_no_password(tracking_uri)
        with connected(tracking_uri, "answer"):
            return
