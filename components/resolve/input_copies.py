"""Copy the run's inputs into its results, once: no later step reads a source that may have changed."""

import tempfile
from pathlib import Path

from components.benchmarks.custom import ITEMS_FILE, SET_FILE, read_set
from components.benchmarks.selection import local_set
from components.run.plan import EvaluationPlan
from components.run.results import RunResults
from components.storage.location import local_file, open_store


def copy_inputs(plan: EvaluationPlan) -> EvaluationPlan:
    """The plan with the run's own copies of the custom tasks and of tinyBenchmarks' parameters."""
    results = RunResults(plan.results)
    with tempfile.TemporaryDirectory() as scratch:
        sets = tuple(
            copy_custom_task(local_set(location, Path(scratch) / str(number)), results)
            for number, location in enumerate(plan.custom)
        )
        parameters = ""
        if plan.irt_parameters:
            file = local_file(plan.irt_parameters, Path(scratch))
            parameters = results.given(file.name).put(file)
    return plan.model_copy(update={"custom_kept": sets, "irt_parameters_kept": parameters})


def copy_custom_task(folder: Path, results: RunResults) -> str:
    """Copy the custom task in `folder`; returns the location of the copy."""
    copy = results.custom_set(read_set(folder).name)
    for name in (SET_FILE, ITEMS_FILE):
        open_store(copy).put_file(folder / name, name)
    return copy
