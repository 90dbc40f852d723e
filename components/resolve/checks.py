"""The checks of a plan before anything is started."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.benchmarks import selection, suites
from quantgate.components.benchmarks.selection import EMBEDDED, HUB, are_kept, kept_rows, suite_of, wanted_splits
from quantgate.components.benchmarks.suite_file import split_suite
from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.planned_flows import check_flows, planned_flow_tasks
from quantgate.components.models.recipe_file import all_variants
from quantgate.components.models.rungs import AUTO, expanded
from quantgate.components.policies.policy import UseCase, check_use_case, chosen
from quantgate.components.resolve.calibration_texts import check_calibration
from quantgate.components.resolve.checked_flows import check_judge_here
from quantgate.components.run import machine
from quantgate.components.run.artifacts import PERPLEXITIES
from quantgate.components.run.attempts import Attempt
from quantgate.components.run.load_results import FULL_TEST, QUICK, load_settings
from quantgate.components.run.plan import QUANTIZE_GPUS, EvaluationPlan
from quantgate.components.servers.cluster_settings import LOCAL, from_environment
from quantgate.components.storage.location import local_file, open_store

if TYPE_CHECKING:
    from quantgate.components.benchmarks.harness import Prepared
    from quantgate.components.benchmarks.irt import Parameters


def with_suite(plan: EvaluationPlan) -> EvaluationPlan:
    """The plan with its suite files checked and complete; raises PrerequisiteError with file and line."""
    if plan.suite_kept or not split_suite(plan.suite)[1]:
        return plan
    from quantgate.components.benchmarks.suite_check import completed

    return plan.model_copy(update={"suite_kept": completed(plan.suite, trusted=plan.trust_tasks)})


def check_questions(plan: EvaluationPlan, *, tiny_stage: bool = True) -> EvaluationPlan:
    """The plan with the source of its rows; raises PrerequisiteError for tasks that cannot be run or scored here.

    `tiny_stage` is whether the run has one; `quantgate eval` has none.
    """
    plan = with_suite(plan)
    suite = suite_of(plan)
    if not suite.embedded:
        from quantgate.components.benchmarks.suite_check import check_packages

        check_packages(suite)
    if suite.programs:
        from quantgate.components.sandbox.programs import check_sandbox

        check_sandbox()
    if plan.irt_parameters:
        from quantgate.components.benchmarks.irt import read_parameters

        with tempfile.TemporaryDirectory() as scratch:
            parameters = read_parameters(local_file(plan.irt_parameters, Path(scratch)))
        check_irt_parameters(plan.irt_parameters, parameters, suite, tiny_stage=tiny_stage)
    data = plan.data or (EMBEDDED if suite.embedded else HUB)
    if data == HUB:
        if not are_kept(wanted_splits(suite), kept_rows(plan)):
            check_hub(suite)
    elif data != EMBEDDED:
        from quantgate.components.benchmarks.mirror import read_manifest

        read_manifest(data)
    return plan.model_copy(update={"data": data})


def check_irt_parameters(
    file: str, parameters: "Mapping[str, Parameters]", suite: suites.Suite, *, tiny_stage: bool
) -> None:
    """Raise PrerequisiteError when the IRT parameters of `file` are for other items, or no task can use them."""
    from quantgate.components.benchmarks.anchors import check_parameters
    from quantgate.components.benchmarks.irt import ANCHORS

    screened = [task.task for task in suite.tasks if task.anchors and tiny_stage]
    for name in screened:
        check_parameters(name, parameters)
    if not screened and not any(task.task in parameters and task.full == ANCHORS for task in suite.tasks):
        choice = "tiny or openllm" if tiny_stage else "tiny"
        raise PrerequisiteError(
            f"The parameters {file} are for the items of tinyBenchmarks; {suite.name} has no task that asks these"
            f" alone. Choose --suite {choice} without a limit, or leave --irt-parameters out."
        )


def check_hub(suite: suites.Suite) -> None:
    """Raise PrerequisiteError when the hub is unreachable, or refuses this user the suite's first rows."""
    from quantgate.components.benchmarks.ifeval import PUNKT
    from quantgate.components.benchmarks.row_sources import hub_info

    first = next((split for split in wanted_splits(suite) if split != PUNKT), None)
    if first:
        hub_info(first.path)


def with_template(plan: EvaluationPlan, tokenizer: str) -> EvaluationPlan:
    """The plan with whether that tokenizer has a chat template; raises PrerequisiteError when the plan needs one."""
    from transformers import AutoTokenizer

    has_template = bool(AutoTokenizer.from_pretrained(tokenizer).chat_template)
    plan = plan.model_copy(update={"has_template": has_template})
    missing = f"The tokenizer {tokenizer} has no chat template. Run it with"
    if plan.chat_template and not has_template:
        raise PrerequisiteError(f"{missing} --no-chat-template.")
    if not has_template and any(task.chat == suites.YES for task in suite_of(plan).tasks):
        raise PrerequisiteError(f"{missing} --chat no, or --chat auto.")
    return plan


def check_generated(plan: EvaluationPlan, tasks: "Sequence[Prepared]") -> None:
    """Raise PrerequisiteError when options for generated answers are given, and no task of the suite has any."""
    given = {
        "--chat yes": plan.chat == suites.YES,
        "--samples": plan.samples > 1,
        "--temperature": plan.temperature > 0,
        "--max-answer-tokens": plan.max_answer_tokens > 0,
    }
    useless = [option for option, is_given in given.items() if is_given]
    if useless and all(task.reads_scores for task in tasks):
        raise PrerequisiteError(
            f"{', '.join(useless)}: only for generated answers, and the suite {suite_of(plan).name} has none. Leave it"
            " out, or choose a suite with generated answers, as instructions."
        )


def check(model: str, plan: EvaluationPlan) -> EvaluationPlan:
    """The plan with the baseline, its limits and the source of its rows; raises PrerequisiteError if it is invalid."""
    from quantgate.components.models.sources import check_source, native_here

    if AUTO in plan.variants:
        from quantgate.components.servers.accelerator import accelerator_there

        plan = plan.model_copy(update={"variants": expanded(plan.variants, accelerator_there())})
    check_source(model)
    plan = plan.model_copy(update={"native": native_here(model)})
    plan = with_suite(plan.model_copy(update={"variants": all_variants(plan)}))
    tasks = [task.task for task in selection.suite_of(plan).tasks]
    limits = chosen(plan.use_case, plan.policy)
    check_flows(plan)
    check_judge_here(plan, on_cluster=from_environment().kind != LOCAL)
    check_use_case(limits, [*tasks, *planned_flow_tasks(plan)])
    check_published(limits, selection.suite_of(plan))
    check_speed(plan, limits)
    check_quantize_gpus(plan, on_cluster=from_environment().kind != LOCAL)
    check_power(plan)
    plan.failing_verdicts  # noqa: B018 - raises for an unknown verdict
    plan = check_questions(plan.model_copy(update={"limits": limits}))
    check_calibration(plan)
    return plan


def check_published(limits: UseCase, suite: suites.Suite) -> None:
    """Raise PrerequisiteError for a published score in percent of a task whose score is a perplexity."""
    wrong = [task.task for task in suite.tasks if task.task in limits.published and task.metric in PERPLEXITIES]
    if wrong:
        raise PrerequisiteError(
            f"The policy {limits.name} has a published score of {', '.join(wrong)}, a perplexity. Only scores in"
            " percent are compared: take it out of `published`."
        )


def check_speed(plan: EvaluationPlan, limits: UseCase) -> None:
    """Raise PrerequisiteError for an unknown load test, or for one that the limits lack."""
    asked = load_settings(plan.speed, on_cpu=True)
    if limits.speed and not asked:
        raise PrerequisiteError(
            f"The policy {limits.name} limits speed, and this policy needs --speed: add --speed {QUICK} or --speed"
            f" {FULL_TEST}, or take `speed` out of the policy."
        )


def check_quantize_gpus(plan: EvaluationPlan, *, on_cluster: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Raise PrerequisiteError for more GPUs than the step `quantize` has."""
    if plan.quantize_gpus == 1:
        return
    here = int(environment.get(QUANTIZE_GPUS, "1")) if on_cluster else machine.gpu_count(environment)
    if plan.quantize_gpus > here:
        place = f"the pipeline gives quantize {here}. Compile it with --gpus {plan.quantize_gpus}"
        place = place if on_cluster else f"{machine.LEFT_TO_PROGRAMS} {here}. Give a smaller number"
        raise PrerequisiteError(f"--quantize-gpus is {plan.quantize_gpus}, and {place}, or leave it out.")


def check_power(plan: EvaluationPlan, attempt: Attempt | None = None) -> None:
    """Raise PrerequisiteError if the plan's questions are too few for even a copy of the baseline to pass.

    `attempt` is the first if it is None.
    """
    if plan.check_power:
        from quantgate.components.evidence.prospects import check_copy_passes
        from quantgate.components.resolve.planned_evidence import prospect_of

        if prospect := prospect_of(plan, attempt=attempt or Attempt(number=1)):
            check_copy_passes(prospect)


def check_places(store: str, tracking_uri: str) -> None:
    """Raise PrerequisiteError when the store cannot be opened or MLflow does not answer."""
    open_store(store).get_text("recipes/none.json")  # raises for an S3 that refuses or does not answer
    if tracking_uri:
        from quantgate.components.tracking.connect import check_no_password, connected

        check_no_password(tracking_uri)
        with connected(tracking_uri, "answer"):
            return
