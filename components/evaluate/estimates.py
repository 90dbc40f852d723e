"""tinyBenchmarks' IRT estimates beside the means."""

import tempfile
from contextlib import suppress
from pathlib import Path

from components.run.artifacts import Scores
from components.run.plan import EvaluationPlan
from components.storage import location


def estimated(found: Scores, plan: EvaluationPlan, records_file: Path) -> Scores:
    """The scores with the IRT estimates of tinyBenchmarks' tasks, where the plan has their published parameters."""
    if not plan.irt_parameters or found.failure:
        return found
    import numpy as np

    from components.benchmarks import irt
    from components.run import records

    with tempfile.TemporaryDirectory() as scratch:
        parameters = irt.read_parameters(
            location.local_file(plan.irt_parameters_kept or plan.irt_parameters, Path(scratch))
        )
    rows = sorted(records.read(records_file), key=lambda each: each.item_id)
    tasks = []
    for each in found.tasks:
        scores = [row.score for row in rows if row.task == each.task and row.score is not None]
        if each.task in parameters and len(scores) == irt.ANCHORS:
            with suppress(ArithmeticError):  # no ability explains the answers: there is no estimate then
                values = irt.estimate(np.array(scores), parameters[each.task])
                told = {"irt": values.irt, "p_irt": values.p_irt, "gp_irt": values.gp_irt}
                each = each.model_copy(update={"estimates": told})
        tasks.append(each)
    return found.model_copy(update={"tasks": tuple(tasks)})
