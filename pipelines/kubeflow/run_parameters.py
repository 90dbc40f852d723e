"""Check the parameters of a run on a cluster."""

from typing import TYPE_CHECKING

from components.benchmarks import selection
from components.benchmarks.suite_file import included_paths
from components.errors import PrerequisiteError
from components.models.sources import check_source
from components.policies.policy import check_use_case, chosen
from components.run.plan import EvaluationPlan

if TYPE_CHECKING:
    from pipelines.kubeflow.runs import PipelineFile

STORE, RESULTS = "s3://mlpipeline/quantgate/store", "s3://mlpipeline/quantgate/results"


def check(model: str, plan: EvaluationPlan, tracking_uri: str) -> None:
    """Raise PrerequisiteError for parameters that every step refuses, or that do not work on another machine."""
    required = {"--store": plan.store, "--results": plan.results}
    custom = [location for location in plan.custom if location not in selection.shipped_sets()]
    rows = plan.data if plan.data not in (selection.HUB, selection.EMBEDDED) else ""
    optional = [("--data", rows), ("--irt-parameters", plan.irt_parameters), *(("--custom", path) for path in custom)]
    optional += [("include_path", path) for path in included_paths(plan.suite)]
    for option, location in (*required.items(), *((option, location) for option, location in optional if location)):
        if not location.startswith("s3://"):
            raise PrerequisiteError(
                f"{option} is {location or 'empty'}, and the cluster cannot read this machine's disk. "
                "Give s3://BUCKET/PREFIX."
            )
    if model.startswith("file:"):
        raise PrerequisiteError(f"The cluster cannot read {model}. Upload the model to S3: s3://BUCKET/PREFIX.")
    check_source(model)
    plan.failing_verdicts  # noqa: B018 - raises for an unknown verdict
    check_use_case(chosen(plan.use_case, plan.policy), [task.task for task in selection.suite_of(plan).tasks])
    if plan.skip_judged and not tracking_uri:
        raise PrerequisiteError(
            "--skip-judged reads earlier verdicts from MLflow: give its server with --tracking-uri."
        )


def checked(file: "PipelineFile", parameters: dict[str, object]) -> "PipelineFile":
    """The file; raises PrerequisiteError when it lacks a parameter, as a file of another version does."""
    if unknown := sorted(parameters.keys() - file.parameters):
        raise PrerequisiteError(
            f"{file.file} has no parameter {', '.join(unknown)}. Write it again: quantgate compile."
        )
    return file
