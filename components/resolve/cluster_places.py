"""Check what a run on a cluster names: its steps share no disk, neither with each other nor with the user's machine."""

import os
from collections.abc import Mapping

from quantgate.components.benchmarks import selection
from quantgate.components.benchmarks.calibration_rows import HUB_PREFIX
from quantgate.components.benchmarks.suite_file import included_paths
from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.labels import RUN_NAME
from quantgate.components.models.gguf_file import is_gguf
from quantgate.components.run.calibration import PASSAGES
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.servers.cluster_settings import from_environment


def check_in_pod(model: str, plan: EvaluationPlan, environment: Mapping[str, str] = os.environ) -> None:
    """`check_locations` in a pod of a run, which may have been started from Kubeflow's page; elsewhere nothing.

    There a GGUF file also needs llama.cpp's image, which only the cluster's settings name.
    """
    if environment.get(RUN_NAME):
        check_locations(model, plan)
        if any(is_gguf(entry) for entry in plan.variant):
            from_environment(environment).of_llama()


def check_locations(model: str, plan: EvaluationPlan) -> None:
    """Raise PrerequisiteError for a path of one machine, which the pods of the steps cannot read.

    An empty location is the cluster's own, or the suite's default.
    """
    places = [("--store", plan.store), ("--results", plan.results)]
    custom = [location for location in plan.custom if location not in selection.shipped_sets()]
    rows = plan.data if plan.data not in (selection.HUB, selection.EMBEDDED) else ""
    sets = [("--calibration", plan.calibration), *(("--calibration-also", named) for named in plan.calibration_also)]
    places += [
        *((option, named) for option, named in sets if named != PASSAGES and not named.startswith(HUB_PREFIX)),
        ("--data", rows),
        ("--irt-parameters", plan.irt_parameters),
        *(("--custom", path) for path in custom),
    ]
    local = [entry for entry in plan.variant if not entry.partition("=")[2].startswith(("hf:", "pypi:"))]
    places += [("--variant", entry.partition("=")[2]) for entry in local]
    places += [("include_path", path) for path in included_paths(plan.suite)]
    for option, location in places:
        if location and not location.startswith("s3://"):
            example = "s3://BUCKET/FOLDER/MODEL.gguf" if is_gguf(location) else "s3://BUCKET/PREFIX"
            raise PrerequisiteError(
                f"{option} is {location}, and the cluster cannot read a machine's disk. Give {example}."
            )
    if model.startswith("file:"):
        raise PrerequisiteError(f"The cluster cannot read {model}. Upload the model to S3: s3://BUCKET/PREFIX.")
