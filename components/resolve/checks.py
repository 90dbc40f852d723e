"""The checks of a plan before anything is started."""

import tempfile
from pathlib import Path

from components.benchmarks import selection, suites
from components.benchmarks.selection import EMBEDDED, HUB, are_kept, kept_rows, suite_of, wanted_splits
from components.benchmarks.suite_file import split_suite
from components.errors import PrerequisiteError
from components.models.variants import with_baseline
from components.policies.policy import check_use_case, chosen
from components.run.plan import EvaluationPlan
from components.storage.location import local_file, open_store


def with_suite(plan: EvaluationPlan) -> EvaluationPlan:
    """The plan with its suite files checked and complete; raises PrerequisiteError with file and line."""
    if plan.suite_kept or not split_suite(plan.suite)[1]:
        return plan
    from components.benchmarks.suite_check import completed

    return plan.model_copy(update={"suite_kept": completed(plan.suite, trusted=plan.trust_tasks)})


def check_questions(plan: EvaluationPlan) -> EvaluationPlan:
    """The plan with the source of its rows; raises PrerequisiteError for tasks that cannot be run or scored here."""
    plan = with_suite(plan)
    suite = suite_of(plan)
    if not suite.embedded:
        from components.benchmarks.suite_check import check_packages

        check_packages(suite)
    if suite.programs:
        from components.sandbox.programs import check_sandbox

        check_sandbox()
    if plan.irt_parameters:
        from components.benchmarks.irt import ANCHORS, read_parameters

        with tempfile.TemporaryDirectory() as scratch:
            parameters = read_parameters(local_file(plan.irt_parameters, Path(scratch)))
        if not any(task.task in parameters and task.full == ANCHORS for task in suite.tasks):
            raise PrerequisiteError(
                f"The parameters {plan.irt_parameters} are for tinyBenchmarks' tasks on all of their {ANCHORS} items;"
                f" {suite.name} has no such task. Choose --suite tiny without a limit, or leave --irt-parameters out."
            )
    data = plan.data or (EMBEDDED if suite.embedded else HUB)
    if data == HUB:
        if not are_kept(wanted_splits(suite), kept_rows(plan)):
            check_hub(suite)
    elif data != EMBEDDED:
        from components.benchmarks.mirror import read_manifest

        read_manifest(data)
    return plan.model_copy(update={"data": data})


def check_hub(suite: suites.Suite) -> None:
    """Raise PrerequisiteError when the hub is unreachable, or refuses this user the suite's first rows."""
    from components.benchmarks.ifeval import PUNKT
    from components.benchmarks.row_sources import hub_info

    first = next((split for split in wanted_splits(suite) if split != PUNKT), None)
    if first:
        hub_info(first.path)


def check_chat_template(tokenizer: str) -> None:
    """Raise PrerequisiteError when the tokenizer in that folder has no chat template."""
    from transformers import AutoTokenizer

    if not AutoTokenizer.from_pretrained(tokenizer).chat_template:
        raise PrerequisiteError(f"The tokenizer {tokenizer} has no chat template. Run it with --no-chat-template.")


def check(model: str, plan: EvaluationPlan) -> EvaluationPlan:
    """The plan with the baseline, its limits and the source of its rows; raises PrerequisiteError if it is invalid."""
    from components.models.sources import check_source

    variants = with_baseline(list(plan.variants))
    plan = with_suite(plan)
    tasks = [task.task for task in selection.suite_of(plan).tasks]
    limits = chosen(plan.use_case, plan.policy)
    check_use_case(limits, tasks)
    check_source(model)
    return check_questions(plan.model_copy(update={"variants": tuple(variants), "limits": limits}))


def check_places(store: str, tracking_uri: str) -> None:
    """Raise PrerequisiteError when the store cannot be opened or MLflow does not answer."""
    open_store(store).get_text("recipes/none.json")  # raises for an S3 that refuses or does not answer
    if tracking_uri:
        from components.tracking.connect import check_no_password, connected

        check_no_password(tracking_uri)
        with connected(tracking_uri, "answer"):
            return
