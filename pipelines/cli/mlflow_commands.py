"""The commands about MLflow: `quantgate track`, `promote`, `rollback`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from components.errors import PrerequisiteError
from components.policies.policy import read_use_case, use_case_named, use_case_names
from components.promote.inference_service import check_reachable, write_patch
from components.promote.promotion import Promotion
from components.promote.promotion import promote as promote_model
from components.promote.promotion import rollback as roll_back
from components.promote.registry import Registered, register
from components.run.artifacts import Decision
from components.run.results import RunResults
from components.track.spool import local_results, send
from components.tracking.facts import RunFacts
from components.tracking.uris import shown_uri
from pipelines import options

Model = Annotated[str, typer.Argument(help="The registered model, as a run's last step names it.", show_default=False)]
TrackingUri = Annotated[str, typer.Option(help="MLflow's tracking server, or sqlite:///FOLDER/mlflow.db.")]
Kserve = Annotated[Path | None, typer.Option(help="Write the patch of a KServe InferenceService there.")]
Service = Annotated[str, typer.Option(help="The InferenceService's name, for --kserve.")]


def track(
    run: Annotated[
        str, typer.Argument(help="Its results: a folder, e.g. runs/demo, or s3://BUCKET/PREFIX.", show_default=False)
    ],
    tracking_uri: Annotated[str, typer.Option(help="MLflow's tracking server [where it was to be recorded].")] = "",
) -> None:
    """Record a run in MLflow that it did not take when it ran; again it updates what is there."""
    with local_results(run) as results:
        found = send(results, tracking_uri)
        at = RunFacts.read(results.facts.path).started_at
        registered = register(Decision.read(results.decision.path), found, tracking_uri or found.tracking_uri, at)
        registered.write(results.registered.path)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{found.tracking_uri}: {found.page}", markup=False)
    console.print(f"{registered.model}: candidate {registered.candidate or 'none'}", markup=False)


def promote(
    model: Model,
    tracking_uri: TrackingUri,
    version: Annotated[str, typer.Option(help="The version [the candidate].")] = "",
    policy: Annotated[
        str, typer.Option(help=f"Whose verdicts may serve: a policy file, or of {', '.join(use_case_names())}.")
    ] = "general-chat",
    force: Annotated[str, typer.Option(help="The reason to do it against the verdict; it is recorded.")] = "",
    kserve: Kserve = None,
    service: Service = "",
) -> None:
    """Make a version champion: only by a verdict that the policy lets serve, on exactly these weights."""
    use_case = use_case_named(policy) if policy in use_case_names() else read_use_case(Path(policy))
    check = check_patch(kserve, service)
    done = promote_model(tracking_uri, model, version, allowed=use_case.promotes, force=force, check=check)
    tell(done, kserve, service)


def rollback(model: Model, tracking_uri: TrackingUri, kserve: Kserve = None, service: Service = "") -> None:
    """Swap champion and previous."""
    tell(roll_back(tracking_uri, model, check_patch(kserve, service)), kserve, service)


def told(run: RunResults, decision: Decision, tracking_uri: str) -> list[str]:
    """What a run did to the registry and what may be done next, a line each."""
    if decision.judged_in:
        return []  # the run that judged it told so, and what it promoted may have been rolled back since
    known = run.registered.read(Registered)
    if known is None:
        return [f"it did not take the variants; to do it later: quantgate track {options.shown(run.folder)}"]
    if done := run.promotion.read(Promotion):
        return [f"{done.model}: champion is version {done.champion}, {done.variant} ({done.verdict})"]
    if not known.candidate:
        return []
    verdict = next(each.verdict for each in decision.verdicts if each.variant == known.candidate)
    line = f"{known.model}: candidate is version {known.versions[known.candidate]}, {known.candidate} ({verdict})"
    if verdict not in decision.limits.promotes:
        return [f"{line}; the policy does not let it become champion"]
    policy = " --policy FILE" if decision.policy_text else f" --policy {decision.use_case}"
    return [
        f"{line}; to promote it:",
        f"quantgate promote {known.model} --tracking-uri {shown_uri(tracking_uri)}{policy}",
    ]


def check_patch(kserve: Path | None, service: str) -> Callable[[str], None]:
    """What the weights must be; raises PrerequisiteError before anything is moved when the patch cannot be written."""
    if kserve and not service:
        raise PrerequisiteError("--kserve needs the name of the InferenceService: --service NAME.")
    if kserve and kserve.is_dir():
        raise PrerequisiteError(f"{kserve} is a folder. Name a file with --kserve.")
    return check_reachable if kserve else lambda _weights: None


def tell(done: Promotion, kserve: Path | None, service: str) -> None:
    """Say what serves now, and write the patch."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{done.model}: champion is version {done.champion}, {done.variant} ({done.verdict})", markup=False)
    if done.forced:
        console.print(f"Forced: {done.forced}", markup=False)
    if done.previous:
        console.print(f"Before it: version {done.previous}; quantgate rollback swaps them.", markup=False)
    if kserve:
        write_patch(done, service, kserve)
        console.print(f"Wrote {kserve}", markup=False)
