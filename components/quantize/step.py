"""The step quantize: make a variant's weights."""

import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from quantgate.components.models.recipe_file import own_rows
from quantgate.components.models.variants import variant_named
from quantgate.components.run import progress
from quantgate.components.run.artifacts import Model, Weights
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.storage.location import open_store


def quantize(variant: str, baseline: str, plan: str, weights: str) -> None:
    """Make the variant's weights, and write them to the file `weights`.

    Skipped if an earlier run judged the model, if the variant cannot be judged because its baseline has no scores, or
    if a search needs no further variant.
    """
    from quantgate.components.evidence.reference import without_reference
    from quantgate.components.evidence.search import needless
    from quantgate.components.quantize.quantization import given_weights
    from quantgate.components.quantize.quantization import quantize as quantize_model

    model, evaluation_plan = Model.read(baseline), EvaluationPlan.read(plan)
    results, earlier_run, started_at = evaluation_plan.results, evaluation_plan.judged_in, time.time()
    with progress.step(results, "quantize", variant) as step, work_folder(results) as folder:
        reason = f"Judged before in {earlier_run}." if earlier_run else ""
        reason = reason or without_reference(variant, evaluation_plan)
        untried = "" if reason else needless(variant, evaluation_plan)
        reason = reason or untried
        result = Weights(variant=variant, baseline_digest=model.digest, failure=reason, skipped=bool(untried))
        if not reason:
            store = open_store(evaluation_plan.store)
            row = variant_named(variant, own_rows(evaluation_plan.variant_recipe, evaluation_plan.variant))
            calibration = evaluation_plan.calibration_of(row.calibration)
            if calibration and "://" in results:
                texts = RunResults(results).calibration_file(calibration.number)
                texts.get(RunResults(folder).calibration_file(calibration.number).path)
            kept = evaluation_plan.variant_kept.get(row.stored.name)
            result = (
                given_weights(kept, row, model)
                if kept
                else quantize_model(row, model, store, Path(folder), step, calibration, evaluation_plan.quantize_gpus)
            )
        result = result.model_copy(update={"started_at": started_at})
        result.write(weights)
        RunResults(results).weights(variant).put(Path(weights))
        shared = result.source or (result.kv_cache_dtype and "shares the weights of its row")
        note = shared or ("reused from an earlier run" if result.reused else result.layout)
        step.end(result.failure, skipped=bool(reason), note=note)


def work_folder(results: str) -> AbstractContextManager[str]:
    """A folder for logs and scratch files: the results' folder if it is local, else a temporary one."""
    return tempfile.TemporaryDirectory() if "://" in results else nullcontext(results)
