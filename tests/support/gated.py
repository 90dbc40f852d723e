"""The step gate on drawn answers: one task, a baseline and one variant, in the results of a run of its own."""

from pathlib import Path
from typing import Any

from quantgate.components.gate import step as gate_step
from quantgate.components.policies.policy import chosen
from quantgate.components.run.artifacts import Model
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.verdicts import Decision
from quantgate.components.tracking.tags import experiment_name
from tests.support.answered import answers_of, candidate_of, pair_of, write_results

MODEL = Model(source="file:guide", digest="d0", uri="models/d0", size_bytes=100)


def plan_of(folder: Path, run: str, **changes: Any) -> EvaluationPlan:
    """The plan of the run, with a store that all runs in the folder share."""
    known = {"variants": ("bf16", "int8"), "asked": "these questions"}
    places = {"store": str(folder / "store"), "results": str(folder / run)}
    plan = EvaluationPlan(**(known | places | changes))
    limits = chosen(plan.use_case, plan.policy)
    return plan.model_copy(update={"limits": limits, "experiment": experiment_name(MODEL.source, limits.name)})


def gated(
    plan: EvaluationPlan, items: int = 2000, flips: tuple[int, int] = (4, 4), weights: str = "d8", model: Model = MODEL
) -> Decision:
    """The decision on a variant with these weights; `flips` are the answers that it lost and gained."""
    lost, gained = flips
    results, files = Path(plan.results), {"weights": [""] * 2, "scores": [""] * 2}
    for place, scores in enumerate(pair_of(lost, gained, items * 6 // 10 - lost, items * 4 // 10 - gained)):
        name, digest = ("int8", weights) if place else ("bf16", model.digest)
        row = candidate_of(name, {"arc": answers_of("arc", scores)})
        folder = write_results(results / "variants" / name, row)
        files["weights"][place], files["scores"][place] = str(folder / "weights.json"), str(folder / "full.json")
        row.weights.model_copy(update={"digest": digest}).write(files["weights"][place])
        kept = {"records": str(folder / "full.parquet"), "suite": "demo"}
        row.scores.model_copy(update=kept).write(files["scores"][place])
    plan.write(results / "plan.json")
    model.write(results / "model.json")
    decision = str(results / "decision.json")
    gate_step.gate(str(results / "model.json"), str(results / "plan.json"), files["weights"], files["scores"], decision)
    return Decision.read(decision)
