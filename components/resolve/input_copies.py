"""Copy the run's inputs into its results, once: no later step reads a source that may have changed."""

import tempfile
from functools import partial
from pathlib import Path

from quantgate.components.benchmarks.custom import ITEMS_FILE, SET_FILE, read_set
from quantgate.components.benchmarks.own_tasks import own_tasks
from quantgate.components.benchmarks.selection import local_set
from quantgate.components.benchmarks.suite_file import SuiteFile, with_files
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.storage.location import local_file, open_store, split_uri


def copy_inputs(plan: EvaluationPlan) -> EvaluationPlan:
    """The plan with the run's own copies of the custom tasks, a suite file's own tasks and the IRT parameters."""
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
    suite = with_files(plan.suite_kept, partial(copy_own_tasks, results=results))
    return plan.model_copy(update={"custom_kept": sets, "irt_parameters_kept": parameters, "suite_kept": suite})


def copy_own_tasks(file: SuiteFile, _text: str, _path: str, results: RunResults) -> SuiteFile:
    """The suite file with the run's own copy of its `include_path`."""
    if not file.include_path:
        return file
    own = own_tasks(file.include_path, trusted=False)
    store, name = split_uri(results.own_tasks(file.name))
    uri = store.put_folder(own.folder, name, own.digest, only=own.files())
    return file.model_copy(update={"include_path": uri})


def copy_custom_task(folder: Path, results: RunResults) -> str:
    """Copy the custom task in `folder`; returns the location of the copy."""
    copy = results.custom_set(read_set(folder).name)
    for name in (SET_FILE, ITEMS_FILE):
        open_store(copy).put_file(folder / name, name)
    return copy
