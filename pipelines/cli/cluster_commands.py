"""The commands for Kubeflow Pipelines: `quantgate compile`, `submit`, `follow`, `schedule`.

kfp's client takes seconds to import, so the functions that need it import it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantgate.components.errors import PrerequisiteError
from quantgate.pipelines.cli.run_options import checked_arguments, cluster_options, place, takes
from quantgate.pipelines.terminal_output import print_text

if TYPE_CHECKING:
    from quantgate.pipelines.kubeflow.connection import Place


PipelinePath = Annotated[Path, typer.Option("--pipeline", help="File that `quantgate compile` wrote.")]
Account = Annotated[str, typer.Option(help="Service account of the steps.")]
Poll = Annotated[float, typer.Option("--poll", min=0.01, help="Seconds between two status requests.")]
ACCOUNT = "quantgate-pipeline"


@takes(place=place, values=cluster_options)
def submit(
    place: "Place",
    values: dict[str, Any],
    pipeline: PipelinePath = Path("pipeline.yaml"),
    service_account: Account = ACCOUNT,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and do not follow it.")] = False,
    poll_s: Poll = 5.0,
) -> None:
    """Start a run on Kubeflow Pipelines and follow it; its verdict sets the exit status.

    The pipeline is uploaded if its content is new. The statuses are those of `quantgate gate`: 0 ship or monitor, 3
    inconclusive, 1 reject or A/B test, 4 not comparable, failed, or a run without a verdict; 2 means an error that you
    can fix. Ctrl-C does not stop the run.
    """
    from quantgate.pipelines.kubeflow.submit import submit_run

    submit_run(place, checked_arguments(values), pipeline, service_account, detach=detach, poll_s=poll_s)


@takes(place=place)
def follow(
    place: "Place",
    run: Annotated[str, typer.Argument(help="The run's id, as submit printed it.", show_default=False)],
    stop: Annotated[bool, typer.Option("--stop", help="Stop the run instead.")] = False,
    poll_s: Poll = 5.0,
) -> None:
    """Follow a run on Kubeflow Pipelines; its verdict sets the exit status, as with submit."""
    from quantgate.pipelines.kubeflow.follow import follow_run

    follow_run(place, run, stop=stop, poll_s=poll_s)


@takes(place=place, values=cluster_options)
def schedule(
    place: "Place",
    values: dict[str, Any],
    name: Annotated[str, typer.Option(help="Name of the schedule; a changed one is replaced.")] = "quantgate",
    cron: Annotated[
        str, typer.Option(help='Start times: minute, hour, day, month, weekday (0 is Sunday), in UTC: "0 3 * * 1".')
    ] = "",
    pipeline: PipelinePath = Path("pipeline.yaml"),
    service_account: Account = ACCOUNT,
    listed: Annotated[bool, typer.Option("--list", help="List the schedules, and change nothing.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the schedule of that name.")] = False,
    now: Annotated[
        bool, typer.Option("--now", help="With --delete: even if that ends a run that the schedule has started.")
    ] = False,
) -> None:
    """Schedule runs on Kubeflow Pipelines, one at a time; a missed start is not made up for.

    An equal schedule stays as it is. A changed one is disabled when the new one exists, and removed when nothing of it
    runs: Kubeflow ends the run of a schedule that is deleted.

    Each start is a run, whether the model has changed or not: `quantgate look` starts one for a new model only.
    """
    from quantgate.pipelines.kubeflow.schedule import list_schedules, remove_schedule, schedule_runs

    if now and not delete:
        raise PrerequisiteError("--now belongs to --delete: add --delete, or leave --now out.")
    if listed:
        list_schedules(place)
    elif delete:
        remove_schedule(place, name, now=now)
    else:
        schedule_runs(place, checked_arguments(values), name, cron, pipeline, service_account)


def compile_pipeline(
    out: Annotated[Path, typer.Option("--out", "-o", help="The YAML file to write.")] = Path("pipeline.yaml"),
    image: Annotated[
        str, typer.Option(help="Container image of the steps: a digest, or an immutable tag.")
    ] = "quantgate:0.1.0",
    quantize_image: Annotated[
        str, typer.Option(help="Container image of resolve and quantize, with PyTorch and CUDA.")
    ] = "quantgate-quantize:0.1.0",
    parallelism: Annotated[int, typer.Option(help="Variants that run at the same time, each with its own server.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs for quantize; 0 on a cluster without GPUs.")] = 1,
    accelerator: Annotated[str, typer.Option(help="Resource name of the GPUs.")] = "nvidia.com/gpu",
    quantize_memory: Annotated[str, typer.Option(help="Memory limit of quantize.")] = "64Gi",
    node: Annotated[
        list[str] | None, typer.Option(help="LABEL=VALUE of the nodes for quantize; may be repeated.")
    ] = None,
    cache_claim: Annotated[
        str, typer.Option(help="Volume claim that keeps models between runs; empty: none.")
    ] = "quantgate-cache",
    serving: Annotated[str, typer.Option(help="How variants are served: kserve or deployment.")] = "kserve",
    pull_secret: Annotated[str, typer.Option(help="Secret of the images' registry.")] = "",
    deadline_h: Annotated[
        int, typer.Option("--deadline-hours", min=0, max=10000, help="Kubeflow ends a run after so long; 0: never.")
    ] = 0,
    keep_days: Annotated[
        int, typer.Option(min=0, max=10000, help="How long a finished run's pods stay; 0: Kubeflow's own setting.")
    ] = 0,
) -> None:
    """Write the pipeline as YAML for Kubeflow Pipelines."""
    if out.suffix not in (".yaml", ".yml"):
        raise PrerequisiteError(f"kfp writes YAML: give a file that ends in .yaml, not {out}.")
    from quantgate.pipelines.cluster import Cluster
    from quantgate.pipelines.kubeflow.compile import labels, write_pipeline

    cluster = Cluster(
        image=image,
        quantize_image=quantize_image,
        parallelism=parallelism,
        gpus=gpus,
        accelerator=accelerator,
        quantize_memory=quantize_memory,
        cache_claim=cache_claim,
        serving=serving,
        node_selector=labels(node or []),
        pull_secret=pull_secret,
        deadline_h=deadline_h,
        keep_days=keep_days,
    )
    write_pipeline(cluster, out)
    print_text(f"Wrote {out}")
