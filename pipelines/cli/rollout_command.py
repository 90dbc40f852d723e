"""The command `quantgate rollout`: what carries a verdict out, as files or on a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantgate.components.run.results import RunResults
from quantgate.components.run.verdicts import Decision
from quantgate.pipelines.cli.run_options import takes
from quantgate.pipelines.decided_run import best_variant, checked_decision, write_files
from quantgate.pipelines.exits import EXITS
from quantgate.pipelines.terminal_output import print_text

if TYPE_CHECKING:
    from quantgate.components.rollout.gitops_files import Rollout
    from quantgate.components.rollout.rollout_plan import Destination

Kind = Literal["inference-service", "llm-inference-service"]


def destination(
    service: Annotated[
        str, typer.Option(help="Name of the service, and of the model in requests [model and use case].")
    ] = "",
    namespace: Annotated[str, typer.Option(help="Namespace of the service [of whoever applies the files].")] = "",
    replaces: Annotated[str, typer.Option(help="The variant that serves now [the baseline].")] = "",
    storage_uri: Annotated[
        str,
        typer.Option(help="Address of the variant's weights, if not the store's; oci://IMAGE makes them a ModelCar."),
    ] = "",
    replaced_uri: Annotated[str, typer.Option(help="The same for the variant that serves now.")] = "",
    share: Annotated[int, typer.Option(min=1, max=99, help="Percent of the traffic in an A/B test.")] = 50,
    knative: Annotated[
        bool, typer.Option("--knative", help="For KServe's mode Knative: canaryTrafficPercent, not spec.canary.")
    ] = False,
    force: Annotated[str, typer.Option(help="Roll out against the verdict, for this reason; the files name it.")] = "",
) -> "Destination":
    """Where and how the variant is rolled out."""
    from quantgate.components.rollout.rollout_plan import KNATIVE, STANDARD, Destination

    mode = KNATIVE if knative else STANDARD
    return Destination(service, namespace, replaces, storage_uri, replaced_uri, share, mode, force.strip())


@takes(destination=destination)
def rollout(
    destination: "Destination",
    run: Annotated[
        str,
        typer.Argument(help="The run's results: a folder, e.g. runs/demo, or s3://BUCKET/PREFIX.", show_default=False),
    ],
    variant: Annotated[str, typer.Argument(help="The variant [the best of the run].", show_default=False)] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the files, for GitOps [only print the plan].")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Apply a step to the cluster of your kubeconfig.")] = False,
    kind: Annotated[Kind, typer.Option(help="The kind of object to apply.")] = "inference-service",
    step: Annotated[int, typer.Option(min=1, help="Number of the step to apply.")] = 1,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Only what takes the rollout back: print, write or apply it.")
    ] = False,
    check_weights: Annotated[
        bool,
        typer.Option("--check-weights/--no-check-weights", help="Read the stored weights and compare their digest."),
    ] = True,
    tracking_uri: Annotated[
        str, typer.Option(help="MLflow's tracking server, to compare its record of the run too [only the results'].")
    ] = "",
) -> None:
    """Write or apply what the verdict on a variant allows: all traffic, a growing canary, a split, or nothing.

    The decision, its records and the stored weights must be those that were judged. If the verdict allows no rollout,
    the reason is printed, and the exit status is the verdict's: 1 reject, 3 inconclusive, 4 not comparable or failed.
    """
    from quantgate.components.rollout.gitops_files import README, prepared
    from quantgate.components.rollout.rollout_plan import ROLLBACK, plan_rollout
    from quantgate.components.servers.cluster_settings import from_environment

    decision, settings = checked_decision(RunResults(run), tracking_uri), from_environment()
    plan = plan_rollout(decision, variant or best_variant(decision), destination)
    if not plan.steps:
        print_text(f"quantgate: Nothing to roll out. {plan.refusal}", to_stderr=True)
        raise typer.Exit(EXITS[plan.verdict])
    ready = prepared(decision, plan, destination, settings)
    if check_weights and not rollback:
        check_judged(decision, plan.variant)
    files = ready.files()
    if rollback:
        files = {name: text for name, text in files.items() if f"/{ROLLBACK}/" in name}
    if out:
        write_files(out, files)
    if apply:
        apply_step(ready, kind, 0 if rollback else step, destination.namespace or settings.namespace)
    elif not out:
        print_text("---\n".join(files.values()) if rollback else files[README])


def check_judged(decision: Decision, variant: str) -> None:
    """Raise PrerequisiteError unless the variant's stored bytes are those that were judged."""
    from quantgate.components.models.digest import check_stored
    from quantgate.components.rollout.rollout_plan import weights_of
    from quantgate.components.storage.cache import cache_dir

    weights = weights_of(decision, variant)
    check_stored(weights.uri, weights.digest, cache_dir())


def apply_step(ready: "Rollout", kind: Kind, step: int, namespace: str) -> None:
    """Apply the step of that number, 0 for the rollback, and print what must hold before the next."""
    from quantgate.components.kubernetes.cluster_client import ClusterClient
    from quantgate.components.rollout.apply_to_cluster import apply
    from quantgate.components.rollout.gitops_files import FOLDERS

    object_kind = next(object_kind for object_kind, folder in FOLDERS.items() if folder == kind)
    for line in apply(ClusterClient(namespace), object_kind, ready.objects(object_kind, step)):
        print_text(f"{line} in {namespace}")
    if step and (until := ready.plan.step(step).until):
        print_text(f"{ready.plan.variant} gets {ready.plan.step(step).percent} %. Before step {step + 1}: {until}.")
