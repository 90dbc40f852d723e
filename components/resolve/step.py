"""The step resolve: check the parameters, store the model and the rows, write the model and the plan.

The parameters are names, locations and paths of files. The other modules of this folder do the work, without kfp.
"""

import time
from pathlib import Path

from quantgate.components.models.digest import fetch_model
from quantgate.components.models.recipe_file import all_variants
from quantgate.components.models.tokenizer_files import tokenizer_digest
from quantgate.components.models.window import model_window, own_window
from quantgate.components.resolve import (
    calibration_texts,
    checked_flows,
    checks,
    counted_attempts,
    earlier_verdict,
    input_copies,
    prepared_prompts,
    rows,
    scored_overlap,
)
from quantgate.components.resolve.account_rights import check_rights
from quantgate.components.resolve.checks import check
from quantgate.components.run import progress
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import open_store
from quantgate.components.tracking.experiments import check_experiment, recording_experiment
from quantgate.components.tracking.tags import experiment_name
from quantgate.components.tracking.uris import own_store


def resolve(model: str, requested: EvaluationPlan, baseline: str, plan: str) -> list[str]:
    """Check the parameters, store the model and the rows for the run, and name the variants to run.

    `baseline` and `plan` are the files to write. If the base model already has a verdict and `skip_judged` is set, only
    the baseline is named: its steps return early, and the gate copies the earlier run's decision.
    """
    from quantgate.components.benchmarks.encoder import Encoder
    from quantgate.components.benchmarks.prompts import Preparation
    from quantgate.components.models import own_checkpoint, sources

    with progress.step(requested.results, "resolve") as step:
        requested = requested.model_copy(update={"started_at": time.time()})
        check_rights(requested)
        checked = check(model, requested)
        base_model = sources.resolve(model, open_store(requested.store), cache_dir())
        checked_flows.check_judge_answers(checked, base_model)
        own = experiment = experiment_name(base_model.source, checked.decided_limits.name)
        if checked.tracking_uri:
            experiment = recording_experiment(checked.tracking_uri, own)
        if checked.tracking_uri and experiment == own:
            check_experiment(checked.tracking_uri, experiment, base_model.source)
        checked = checked.model_copy(update={"experiment": experiment, "native": base_model.native})
        folder = fetch_model(base_model.uri, base_model.digest, cache_dir(), weights=False)
        prepared_prompts.check_window(checked, own_window(folder))
        checked = checks.with_template(checked, str(folder))
        checked = own_checkpoint.with_checkpoints(checked, folder, open_store(checked.store), cache_dir())
        checked = checked.model_copy(update={"variants": all_variants(checked)})  # name and sizes are known now
        encoder = Encoder.load(folder)
        checked, samples = calibration_texts.copy_calibration(checked, encoder.tokenizer, folder)
        checked = checked_flows.with_flows(checked, encoder.tokenizer, model_window(folder))
        checked_flows.check_limits(checked)
        resolved, tasks = rows.prepared_tasks(input_copies.copy_inputs(checked), step, folder)
        checks.check_generated(resolved, tasks)
        attempt, uncounted = counted_attempts.count_tracked(base_model, resolved)
        checks.check_power(resolved, attempt)  # again: now every task has its number of items
        if resolved.skip_judged and (uri := resolved.tracking_uri or own_store(resolved.results)):
            resolved = earlier_verdict.with_earlier_verdict(base_model, resolved, uri)
        if not resolved.judged_in:
            scored_overlap.check_disjoint(samples, tasks)
            preparation = Preparation(encoder, model_window(folder), resolved.chat_template)
            resolved = prepared_prompts.with_prompts(resolved, tasks, preparation, step)
            resolved = resolved.model_copy(update={"tokenizer": tokenizer_digest(folder)})
        base_model.write(baseline)
        resolved.write(plan)
        RunResults(requested.results).plan.put(Path(plan))
        parts = f"{base_model.digest[:12]}, {base_model.size_bytes / 1e6:.0f} MB", outcome(resolved), uncounted
        step.end(note="; ".join(filter(None, parts)))
    return [resolved.baseline] if resolved.judged_in else list(resolved.variants)


def outcome(plan: EvaluationPlan) -> str:
    """The window and the items that are left out, or the earlier verdict, for the step's note."""
    if plan.judged_in:
        return f"judged before in {plan.judged_in}"
    left_out = ", ".join(f"{count:,} of {task}" for task, count in plan.too_long.items())
    window = f"window {plan.window:,} tokens" + (f", too long and left out: {left_out}" if left_out else "")
    sets = [plan.calibration_set, *plan.calibration_sets_also] if plan.calibration_set else []
    return "; ".join([window, *(f"calibrated with {chosen.describe()}" for chosen in sets)])
