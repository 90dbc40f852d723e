"""Earlier results in MLflow: the scores of a baseline, and the verdict on a base model.

Only what this pipeline recorded counts: a run of the configured experiment, whose evidence has the digests that it was
recorded with, and, where MLflow has accounts, that this account signed.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.variants import BASELINES
from quantgate.components.run.artifacts import Model, Scores, Weights
from quantgate.components.run.load_results import OFF
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import AGAIN, FULL, VariantResults
from quantgate.components.run.server_identity import ServerIdentity
from quantgate.components.run.verdicts import Decision
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.tracking.connect import connected
from quantgate.components.tracking.experiments import rights_on
from quantgate.components.tracking.kubeflow_run import is_complete
from quantgate.components.tracking.signature import has_account, is_signed
from quantgate.components.tracking.tags import (
    JUDGED_BY,
    RUN_ID_TAG,
    VARIANT_TAG,
    experiment_name,
)
from quantgate.components.tracking.tracked_run import TrackedRun, describe_run, logged_model_of, run_location
from quantgate.components.tracking.verification import checked_decision, checked_run, children_of, fetch_records

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

PAGE = 100
"""Runs a request."""


def verdict_key(plan: EvaluationPlan) -> str:
    """sha256 of everything but the base model that a verdict depends on: the variants, the questions and the limits.

    The load test counts where there is one.
    """
    deciding = {"variants", "asked", "stop_early", "noise_floor", "calibration_samples", "calibration_tokens"}
    parts = plan.model_dump(include=deciding | ({"speed"} if plan.speed != OFF else set()))
    texts = plan.calibration_set.identity if plan.calibration_set else ()
    if plan.variant_recipe:  # not part of the key of a run without one, which earlier versions wrote too
        parts["variant_recipe"] = plan.variant_recipe
    if plan.calibration_sets_also:
        parts["calibration_sets_also"] = [chosen.identity for chosen in plan.calibration_sets_also]
    if plan.search:
        parts["search"] = True
    if plan.quantize_gpus > 1:
        parts["quantize_gpus"] = plan.quantize_gpus
    if plan.variant_kept:
        parts["variant"] = {name: checkpoint.digest for name, checkpoint in plan.variant_kept.items()}
    content = json.dumps([parts, texts, plan.decided_limits.model_dump()], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def find_decision(model: Model, plan: EvaluationPlan, tracking_uri: str) -> tuple[Decision, TrackedRun] | None:
    """The newest decision by this plan on the model with this digest, and its run in MLflow; None if there is none.

    A run in which a variant failed does not count. `judged_in` of the decision says which run it is, and whose. Raises
    PrerequisiteError when MLflow cannot be reached.
    """
    name, key = plan.experiment or experiment_name(model.source, plan.decided_limits.name), verdict_key(plan)
    matching = f"params.model_digest = '{model.digest}' and tags.`{JUDGED_BY}` = '{key}'"
    with connected(tracking_uri, "list its runs") as client, rights_on(name):
        for experiment, run in trusted_runs(client, name, matching, tracking_uri):
            checked = checked_run(client, run)
            if not checked or checked.mismatches or checked.unread or not is_verdict_on(checked.decision, model, key):
                continue
            children = children_of(client, run)
            variants = [verdict.variant for verdict in checked.decision.verdicts]
            if children.keys() >= set(variants):
                in_order = {variant: children[variant].info.run_id for variant in variants}
                location = run_location(tracking_uri, experiment, run.info.run_id, in_order)
                models = {variant: logged_model_of(children[variant]) for variant in variants}
                location = location.model_copy(update={"models": models})
                used = describe_run(run, location, is_signed(run, tracking_uri))
                return checked.decision.model_copy(update={"judged_in": used}), location
    return None


def is_verdict_on(decision: Decision, model: Model, key: str) -> bool:
    """Whether the decision is a verdict on this model by a plan with this key, and no variant failed."""
    same = decision.model.digest == model.digest and decision.plan and verdict_key(decision.plan) == key
    return bool(same) and not any(verdict.verdict == "failed" for verdict in decision.verdicts)


def find_verdicts(run_id: str, tracking_uri: str) -> tuple[tuple[str, str, str], ...]:
    """The variants of the pipeline run with their verdicts and sentences; empty if MLflow lacks the run.

    Raises PrerequisiteError when MLflow cannot be reached, when several of its runs claim to be that run, and when the
    decision there is not the one that was recorded: tags prove nothing.
    """
    with connected(tracking_uri, "list its runs") as client:
        searched = client.search_experiments(max_results=1000)  # Kubeflow's plugin has experiments of its own
        ids = [experiment.experiment_id for experiment in searched]
        runs = client.search_runs(ids, f"tags.`{RUN_ID_TAG}` = '{run_id}'", max_results=1000) if ids else []
        claims = [run for run in runs if VARIANT_TAG not in run.data.tags]
        if len(claims) > 1:
            raise PrerequisiteError(f"{len(claims)} of its runs claim to be the run {run_id}: somebody copied one.")
        checked = checked_decision(client, claims[0]) if claims else None
        if checked and checked.mismatches:
            raise PrerequisiteError(f"its decision is not to be relied on: {checked.mismatches[0]}.")
    verdicts = checked.decision.verdicts if checked else ()
    return tuple((row.variant, row.verdict, row.sentence) for row in verdicts if row.variant not in BASELINES)


def find_baseline_scores(
    weights: Weights, plan: EvaluationPlan, identity: ServerIdentity, tracking_uri: str, folder: Path
) -> Scores | None:
    """A baseline's newest scores for the same questions from a server with the same settings; None if there are none.

    They come from the experiment of the plan only. `scored_in` of the scores says which run measured them, and whose.
    The records of the scores, and those of the second pass if the plan has one, are written to `folder` under
    VariantResults' file names. Raises PrerequisiteError when MLflow is unavailable.
    """
    matching = f"params.model_digest = '{weights.baseline_digest}' and params.asked = '{plan.asked}'"
    with connected(tracking_uri, "list its runs") as client, rights_on(plan.experiment):
        for experiment, run in trusted_runs(client, plan.experiment, matching, tracking_uri):
            checked = checked_decision(client, run)
            if not checked or checked.mismatches:
                continue
            scores = scores_of(checked.decision, weights, plan)
            if (
                not scores
                or scores.identity != identity
                or not fetch_judged(client, run, checked.decision, scores, folder)
            ):
                continue
            if records_match(scores, folder):
                location = run_location(tracking_uri, experiment, run.info.run_id, {})
                used = describe_run(run, location, is_signed(run, tracking_uri))
                return scores.model_copy(update={"scored_in": scores.scored_in or used})
    return None


def scores_of(decision: Decision, weights: Weights, plan: EvaluationPlan) -> Scores | None:
    """The decision's scores of exactly these weights for the plan's questions; None if it has none."""
    same = any((row.variant, row.digest) == (weights.variant, weights.digest) for row in decision.weights)
    if not same or not decision.plan or decision.plan.asked != plan.asked:
        return None
    scores = next((scores for scores in decision.scores if scores.variant == weights.variant), None)
    return scores if scores and (scores.again or not plan.noise_floor) else None


def fetch_judged(client: "MlflowClient", run: "Run", decision: Decision, scores: Scores, folder: Path) -> bool:
    """Write the records of the scores to the folder; False unless all are there and have the bytes that were judged."""
    digests = decision.digests
    if not digests:
        return False
    files = [(FULL, scores.records, digests.records.get(scores.variant, ""))]
    if scores.again:
        files.append((AGAIN, scores.again, digests.again))
    child, local = children_of(client, run).get(scores.variant), VariantResults(str(folder))
    for stage, location, sha256 in files:
        file = fetch_records(client, child, location, folder)
        if not file or sha256_of(file) != sha256 or file.name != local.records(stage).name:
            return False
    return True


def trusted_runs(
    client: "MlflowClient", name: str, matching: str, tracking_uri: str
) -> "Iterator[tuple[Experiment, Run]]":
    """The experiment of that name and each of its complete runs that the filter matches, the newest first.

    The newest is the one that was judged last, which is when it ended: a long run may have begun before an older one.
    With an account, only the runs that this account signed: nothing of another run is downloaded.
    """
    experiment = client.get_experiment_by_name(name) if name else None
    if not experiment:
        return
    order, signed_only, token = ["attributes.end_time DESC"], has_account(tracking_uri), None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], matching, max_results=PAGE, order_by=order, page_token=token
        )
        for run in page:
            if is_complete(run) and (not signed_only or is_signed(run, tracking_uri)):
                yield experiment, run
        token = page.token
        if not token:
            return


def records_match(scores: Scores, folder: Path) -> bool:
    """Whether the records in the folder are complete and belong to the scores."""
    # imports numpy and pyarrow, which takes a second; the track step does not need them
    from quantgate.components.evidence.saved_answers import read_ours

    VariantResults(str(folder)).scores(FULL).write(scores)
    try:
        return not read_ours(folder).failure
    except PrerequisiteError:
        return False
