"""tinyBenchmarks' IRT estimates beside the means."""

import tempfile
from contextlib import suppress
from pathlib import Path

from components.run.artifacts import Scores
from components.run.plan import EvaluationPlan
from components.storage import location


def with_estimates(scores: Scores, plan: EvaluationPlan, records_file: Path) -> Scores:
    """The scores with the IRT estimates of tinyBenchmarks' tasks; unchanged when the plan names no parameters."""
    if not plan.irt_parameters or scores.failure:
        return scores
    import numpy as np

    from components.benchmarks import irt
    from components.run import records

    with tempfile.TemporaryDirectory() as scratch:
        parameters = irt.read_parameters(
            location.local_file(plan.irt_parameters_kept or plan.irt_parameters, Path(scratch))
        )
    rows = sorted(records.read(records_file), key=lambda row: row.item_id)
    tasks = []
    for task in scores.tasks:
        item_scores = [row.score for row in rows if row.task == task.task and row.score is not None]
        if task.task in parameters and len(item_scores) == irt.ANCHORS:
            with suppress(ArithmeticError):  # no ability explains the answers: the task has no estimate
                estimate = irt.estimate(np.array(item_scores), parameters[task.task])
                values = {"irt": estimate.irt, "p_irt": estimate.p_irt, "gp_irt": estimate.gp_irt}
                task = task.model_copy(update={"estimates": values})
        tasks.append(task)
    return scores.model_copy(update={"tasks": tuple(tasks)})
