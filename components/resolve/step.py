"""The step resolve: check the parameters, store the model and the rows, write the model and the plan.

The parameters are names, locations and paths of files. The other modules of this folder do the work, without kfp.
"""

from pathlib import Path

from components.models.variants import BASELINE
from components.resolve import checks, earlier_verdict, given, rows
from components.resolve.checks import check
from components.run import progress
from components.run.plan import EvaluationPlan
from components.run.results import RunResults
from components.storage.cache import cache_dir
from components.storage.location import fetch, open_store
from components.tracking.uris import own_store


def resolve(model: str, requested: EvaluationPlan, tracking_uri: str, baseline: str, plan: str) -> list[str]:
    """Check the parameters, store the model and the rows for the run, and name the variants to run.

    `baseline` and `plan` are the files to write. If the base model already has a verdict and `skip_judged` is set, only
    the baseline is named: its steps return early, and the gate copies the earlier run's decision.
    """
    from components.benchmarks.embedded import embedded
    from components.models import sources
    from components.run.calibration import Calibration

    with progress.step(requested.results, "resolve") as step:
        checked = check(model, requested)
        embedded(Calibration().benchmark)  # raises for missing calibration data before any expensive work
        base_model = sources.resolve(model, open_store(requested.store), cache_dir())
        resolved = rows.prepare_rows(
            given.copy_inputs(checked), step, lambda: str(fetch(base_model.uri, cache_dir(), weights=False))
        )
        if resolved.chat_template:
            checks.check_chat_template(str(fetch(base_model.uri, cache_dir(), weights=False)))
        if resolved.skip_judged and (uri := tracking_uri or own_store(resolved.results)):
            resolved = earlier_verdict.with_earlier_verdict(base_model, resolved, uri)
        base_model.write(baseline)
        resolved.write(plan)
        RunResults(requested.results).plan.put(Path(plan))
        judged = f"; judged before in {resolved.judged_in}" if resolved.judged_in else ""
        step.end(note=f"{base_model.digest[:12]}, {base_model.size_bytes / 1e6:.0f} MB{judged}")
    return [BASELINE] if resolved.judged_in else list(resolved.variants)
