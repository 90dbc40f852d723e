"""The steps as the pipeline runs them: read what the steps before wrote, do the work, write what comes next.

Each function here has the name of its step. Parameters are names, locations and paths of files; the work itself is in
the folder of the same name and knows nothing of files handed over or of kfp.
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


def resolve(model: str, asked: EvaluationPlan, tracking_uri: str, baseline: str, plan: str) -> list[str]:
    """Check the parameters, bring the model and the rows to where the run finds them, and name the variants to run.

    Of a base model that is judged already, where such a one is to be skipped, only the baseline is named: its steps
    return early, and the gate hands on the earlier decision.
    """
    from components.benchmarks.embedded import embedded
    from components.models import sources
    from components.run.calibration import Calibration

    with progress.step(asked.results, "resolve") as step:
        checked = check(model, asked)
        embedded(Calibration().benchmark)  # what cannot be had is said here, before anything expensive
        found = sources.resolve(model, open_store(asked.store), cache_dir())
        planned = rows.rows_at_hand(given.keep_given(checked), step)
        if planned.chat_template:
            checks.check_chat_template(str(fetch(found.uri, cache_dir(), weights=False)))
        if planned.skip_judged and (uri := tracking_uri or own_store(planned.results)):
            planned = earlier_verdict.judged_before(found, planned, uri)
        found.write(baseline)
        planned.write(plan)
        RunResults(asked.results).plan.put(Path(plan))
        judged = f"; judged before in {planned.judged_in}" if planned.judged_in else ""
        step.end(note=f"{found.digest[:12]}, {found.size_bytes / 1e6:.0f} MB{judged}")
    return [BASELINE] if planned.judged_in else list(planned.variants)
