"""The step quantize: make a variant's weights."""

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from components.models.variants import variant_named
from components.run import progress
from components.run.artifacts import Model, Weights
from components.run.plan import EvaluationPlan
from components.run.results import RunResults
from components.storage.location import open_store


def quantize(variant: str, baseline: str, plan: str, weights: str) -> None:
    """Make the variant's weights."""
    from components.quantize.quantization import quantize as quantize_model
    from components.run.calibration import Calibration

    model, planned = Model.read(baseline), EvaluationPlan.read(plan)
    results, known = planned.results, planned.judged_in
    with progress.step(results, "quantize", variant) as step, work_folder(results) as folder:
        calibration = Calibration(samples=planned.calibration_samples, tokens=planned.calibration_tokens)
        made = Weights(variant=variant, baseline_digest=model.digest, failure=f"Judged before in {known}.")
        if not known:
            store = open_store(planned.store)
            made = quantize_model(variant_named(variant), model, store, Path(folder), step, calibration)
        made.write(weights)
        RunResults(results).weights(variant).put(Path(weights))
        note = "reused from an earlier run" if made.reused else made.layout
        step.end(made.failure, skipped=bool(known), note=note)


def work_folder(results: str) -> AbstractContextManager[str]:
    """A folder for logs and scratch: the results' own where they are local, else one that goes with the step."""
    return tempfile.TemporaryDirectory() if "://" in results else nullcontext(results)
