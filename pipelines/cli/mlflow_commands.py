"""The commands for MLflow: `quantgate track`, `promote`, `rollback`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from quantgate.components.errors import PrerequisiteError
from quantgate.components.policies.policy import read_use_case, use_case_named, use_case_names
from quantgate.components.promote.inference_service import check_servable, write_patch
from quantgate.components.promote.promotion import Promotion
from quantgate.components.promote.promotion import promote as promote_model
from quantgate.components.promote.promotion import rollback as roll_back
from quantgate.components.promote.registry import Registered, register
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.components.track.spool import local_results, send
from quantgate.components.tracking.facts import RunFacts
from quantgate.components.tracking.uris import shown_uri
from quantgate.pipelines import options
from quantgate.pipelines.decided_run import checked_decision
from quantgate.pipelines.terminal_output import VisibleConsole

Model = Annotated[str, typer.Argument(help="The registered model, as the run printed its name.", show_default=False)]
TrackingUri = Annotated[str, typer.Option(help="MLflow's tracking server, or sqlite:///FOLDER/mlflow.db.")]
Kserve = Annotated[Path | None, typer.Option(help="File to write: the patch of a KServe InferenceService.")]
Service = Annotated[str, typer.Option(help="The InferenceService's name, for --kserve.")]


def track(
    run: Annotated[
        str,
        typer.Argument(help="The run's results: a folder, e.g. runs/demo, or s3://BUCKET/PREFIX.", show_default=False),
    ],
    tracking_uri: Annotated[str, typer.Option(help="MLflow's tracking server [the run's own].")] = "",
    register_in: Annotated[
        str, typer.Option(help="Address of a Kubeflow Model Registry, which gets the variants too.")
    ] = "",
) -> None:
    """Record a run in MLflow later; if MLflow has the run, update it."""
    from quantgate.components.promote.kubeflow_registry import register_in as register_in_kubeflow

    checked = checked_decision(RunResults(run)) if register_in else None
    with local_results(run) as results:
        tracked = send(results, tracking_uri)
        decided_at = RunFacts.read(results.facts.path).decided_at
        decision = Decision.read(results.decision.path)
        registered = register(decision, tracked, tracking_uri or tracked.tracking_uri, decided_at)
        registered.write(results.registered.path)
    console = VisibleConsole(highlight=False, soft_wrap=True)
    console.print(f"{tracked.tracking_uri}: {tracked.page}", markup=False)
    console.print(f"{registered.model}: candidate {registered.candidate or 'none'}", markup=False)
    if checked:
        versions = register_in_kubeflow(register_in, checked, run)
        console.print(f"{register_in}: {registered.model}, {', '.join(versions)}", markup=False)


def promote(
    model: Model,
    tracking_uri: TrackingUri,
    version: Annotated[str, typer.Option(help="The version [the candidate].")] = "",
    policy: Annotated[
        str, typer.Option(help=f"Policy file or use case whose verdicts may serve: {', '.join(use_case_names())}.")
    ] = "general-chat",
    force: Annotated[str, typer.Option(help="Promote against the verdict, for this reason; MLflow records it.")] = "",
    kserve: Kserve = None,
    service: Service = "",
) -> None:
    """Make a version champion; the policy must let the verdict on exactly these weights serve."""
    use_case = use_case_named(policy) if policy in use_case_names() else read_use_case(Path(policy))
    check = check_patch(kserve, service)
    promotion = promote_model(tracking_uri, model, version, allowed=use_case.promotes, force=force, check=check)
    print_promotion(promotion, kserve, service)


def rollback(model: Model, tracking_uri: TrackingUri, kserve: Kserve = None, service: Service = "") -> None:
    """Swap the champion and the previous champion."""
    print_promotion(roll_back(tracking_uri, model, check_patch(kserve, service)), kserve, service)


def registry_lines(run: RunResults, decision: Decision, tracking_uri: str) -> list[str]:
    """What the run changed in the registry and the next command, one line each."""
    if decision.judged_in:
        return []  # the earlier run printed this, and its promotion may have been rolled back since
    registered = run.registered.read(Registered)
    if registered is None:
        return [f"the variants are not registered; to do it later: quantgate track {options.short_path(run.folder)}"]
    if promotion := run.promotion.read(Promotion):
        return [champion_line(promotion)]
    candidate = registered.candidate
    if not candidate:
        return []
    verdict = next(row.verdict for row in decision.verdicts if row.variant == candidate)
    line = f"{registered.model}: candidate is version {registered.versions[candidate]}, {candidate} ({verdict})"
    if verdict not in decision.limits.promotes:
        return [f"{line}; the policy does not let it become champion"]
    policy = " --policy FILE" if decision.policy_text else f" --policy {decision.use_case}"
    return [
        f"{line}; to promote it:",
        f"quantgate promote {registered.model} --tracking-uri {shown_uri(tracking_uri)}{policy}",
    ]


def check_patch(kserve: Path | None, service: str) -> Callable[[Weights], None]:
    """The check that the weights must pass; raises PrerequisiteError when no patch can be written."""
    if kserve and not service:
        raise PrerequisiteError("--kserve needs the name of the InferenceService: --service NAME.")
    if kserve and kserve.is_dir():
        raise PrerequisiteError(f"{kserve} is a folder. Give a file with --kserve.")
    return check_servable if kserve else lambda _weights: None


def champion_line(promotion: Promotion) -> str:
    """The new champion with its version and verdict."""
    return f"{promotion.model}: champion is version {promotion.champion}, {promotion.variant} ({promotion.verdict})"


def print_promotion(promotion: Promotion, kserve: Path | None, service: str) -> None:
    """Print the new champion, and write the patch."""
    console = VisibleConsole(highlight=False, soft_wrap=True)
    console.print(champion_line(promotion), markup=False)
    if promotion.kv_cache_dtype:
        console.print(f"Serve it with --kv-cache-dtype {promotion.kv_cache_dtype}: so it was judged.", markup=False)
    if promotion.forced:
        console.print(f"Forced: {promotion.forced}", markup=False)
    if promotion.previous:
        console.print(f"Before it: version {promotion.previous}; quantgate rollback swaps them.", markup=False)
    for records in promotion.unread:
        console.print(f"Not compared, because they cannot be read from here: {records}", markup=False)
    if kserve:
        write_patch(promotion, service, kserve)
        console.print(f"Wrote {kserve}", markup=False)
