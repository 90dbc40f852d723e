"""What a run on a cluster may be started with."""

from typing import TYPE_CHECKING

from components.benchmarks import selection
from components.errors import PrerequisiteError
from components.models.sources import check_source
from components.policies.policy import check_use_case, chosen
from components.run.plan import EvaluationPlan

if TYPE_CHECKING:
    from pipelines.kubeflow.runs import PipelineFile

STORE, RESULTS = "s3://mlpipeline/quantgate/store", "s3://mlpipeline/quantgate/results"


def check(model: str, plan: EvaluationPlan, tracking_uri: str) -> None:
    """Raise PrerequisiteError for what no step could do, or none on another machine."""
    needed = {"--store": plan.store, "--results": plan.results}
    sets = [each for each in plan.custom if each not in selection.shipped_sets()]
    rows = plan.data if plan.data not in (selection.HUB, selection.EMBEDDED) else ""
    named = {"--data": rows, "--irt-parameters": plan.irt_parameters, **{f"--custom {each}": each for each in sets}}
    for option, location in (*needed.items(), *((name, each) for name, each in named.items() if each)):
        if not location.startswith("s3://"):
            raise PrerequisiteError(
                f"{option.split()[0]} is {location or 'empty'}, and the cluster sees nothing of this machine's disk. "
                "Give s3://BUCKET/PREFIX."
            )
    if model.startswith("file:"):
        raise PrerequisiteError(f"The cluster does not see {model}. Put the model into S3: s3://BUCKET/PREFIX.")
    check_source(model)
    check_use_case(chosen(plan.use_case, plan.policy), [each.task for each in selection.suite_of(plan).tasks])
    if plan.skip_judged and not tracking_uri:
        raise PrerequisiteError("Verdicts of earlier runs are looked up in MLflow: name it with --tracking-uri.")


def checked(file: "PipelineFile", parameters: dict[str, object]) -> "PipelineFile":
    """The file; raises PrerequisiteError where it lacks a parameter, as one that another version wrote does."""
    if unknown := sorted(parameters.keys() - file.parameters):
        raise PrerequisiteError(f"{file.file} has no parameter {', '.join(unknown)}. Write it anew: quantgate compile.")
    return file
