"""tinyBenchmarks' estimates: of the suite `tiny`, and of the screen before the full stage of the whole benchmarks."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.run.artifacts import Scores, TaskScore
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.storage import location

if TYPE_CHECKING:
    from quantgate.components.benchmarks.irt import Parameters


def with_estimates(scores: Scores, plan: EvaluationPlan, records_file: Path) -> Scores:
    """The scores with the IRT estimates of tinyBenchmarks' tasks; unchanged when the plan names no parameters."""
    parameters = irt_parameters(plan)
    if not parameters or scores.failure:
        return scores
    from quantgate.components.benchmarks.irt import ANCHORS
    from quantgate.components.run import records

    rows = sorted(records.read(records_file), key=lambda row: row.item_id)
    tasks = []
    for task in scores.tasks:
        item_scores = [row.score for row in rows if row.task == task.task and row.score is not None]
        if task.task in parameters and len(item_scores) == ANCHORS:
            task = task.model_copy(update={"estimates": estimates(item_scores, parameters[task.task])})
        tasks.append(task)
    return scores.model_copy(update={"tasks": tuple(tasks)})


def with_screen(scores: Scores, plan: EvaluationPlan, records_file: Path) -> Scores:
    """The tiny stage's scores with tinyBenchmarks' estimates of the tasks whose items it chose.

    The estimate `mean` is the plain mean of the 100 rows; an item that two rows name counts twice. The IRT estimates
    exist only where the plan names the parameters. A task whose chosen items do not all fit the window has no estimate.
    """
    if scores.failure:
        return scores
    from quantgate.components.benchmarks.anchors import anchor_scores, anchored_benchmarks
    from quantgate.components.benchmarks.selection import suite_of
    from quantgate.components.run import records

    anchors = {task.task: task.anchors for task in suite_of(plan).tasks if task.anchors}
    parameters, rows = irt_parameters(plan), records.read(records_file) if anchors else []
    tasks: list[TaskScore] = []
    for task in scores.tasks:
        if task.task in anchors:
            answered = [row for row in rows if row.task == task.task]
            values = {}
            if len(answered) == len(set(anchors[task.task])):  # fewer where the model's window is too small
                item_scores = anchor_scores(anchors[task.task], answered)
                values = {"mean": sum(item_scores) / len(item_scores)}
                if parameters:
                    values |= estimates(item_scores, parameters[anchored_benchmarks()[task.task].tiny])
            task = task.model_copy(update={"chosen": True, "estimates": values})
        tasks.append(task)
    return scores.model_copy(update={"tasks": tuple(tasks)})


def irt_parameters(plan: EvaluationPlan) -> "dict[str, Parameters]":
    """The IRT parameters that the plan names, by lm-eval's tiny task; empty when it names none."""
    if not plan.irt_parameters:
        return {}
    from quantgate.components.benchmarks import irt

    with tempfile.TemporaryDirectory() as scratch:
        return irt.read_parameters(location.local_file(plan.irt_parameters_kept or plan.irt_parameters, Path(scratch)))


def estimates(item_scores: list[float], parameters: "Parameters") -> dict[str, float]:
    """The IRT estimates by name; empty when no ability explains the answers."""
    import numpy as np

    from quantgate.components.benchmarks import irt

    with suppress(ArithmeticError):
        estimate = irt.estimate(np.array(item_scores), parameters)
        return {"irt": estimate.irt, "p_irt": estimate.p_irt, "gp_irt": estimate.gp_irt}
    return {}
