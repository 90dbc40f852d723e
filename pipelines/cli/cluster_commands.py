"""The commands about Kubeflow Pipelines: `quantgate compile`, `submit`, `follow`, `schedule`.

kfp's client takes seconds to import: what needs it is imported where it is used.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import PrerequisiteError
from pipelines.cli.run_options import checked_arguments, cluster_options, place, takes

if TYPE_CHECKING:
    from pipelines.kubeflow.connection import Place


PipelinePath = Annotated[Path, typer.Option("--pipeline", help="What `quantgate compile` wrote.")]
Account = Annotated[str, typer.Option(help="The service account that the steps run as.")]
Poll = Annotated[float, typer.Option("--poll", min=0.01, help="Seconds between two looks at the run.")]
ACCOUNT = "quantgate-pipeline"


@takes(place=place, given=cluster_options)
def submit(
    place: "Place",
    given: dict[str, Any],
    pipeline: PipelinePath = Path("pipeline.yaml"),
    service_account: Account = ACCOUNT,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and leave.")] = False,
    poll_s: Poll = 5.0,
) -> None:
    """Start a run on Kubeflow Pipelines and follow it; the exit status is its verdict's.

    The pipeline is uploaded where its content is new. The statuses are those of `quantgate gate`: 0 ship or monitor, 3
    inconclusive, 1 reject or A/B test, 4 not comparable, failed, or a run that did not come to a verdict; 2 tells of
    something to put right. Ctrl-C leaves the run going.
    """
    from pipelines.kubeflow.submit import submit_run

    submit_run(place, checked_arguments(given), pipeline, service_account, detach=detach, poll_s=poll_s)


@takes(place=place)
def follow(
    place: "Place",
    run: Annotated[str, typer.Argument(help="The run's id, as submit tells it.", show_default=False)],
    stop: Annotated[bool, typer.Option("--stop", help="Stop it instead.")] = False,
    poll_s: Poll = 5.0,
) -> None:
    """Follow a run on Kubeflow Pipelines; the exit status is its verdict's, as with submit."""
    from pipelines.kubeflow.follow import follow_run

    follow_run(place, run, stop=stop, poll_s=poll_s)


@takes(place=place, given=cluster_options)
def schedule(
    place: "Place",
    given: dict[str, Any],
    name: Annotated[str, typer.Option(help="The schedule's; one of the same name is replaced.")] = "quantgate",
    cron: Annotated[
        str, typer.Option(help='When: minute, hour, day, month, weekday (0 is Sunday), in UTC: "0 3 * * 1".')
    ] = "",
    on_new_model: Annotated[
        bool,
        typer.Option(
            "--on-new-model",
            help="Judge each model once: look by --cron [hourly], and end where MLflow has its verdict.",
        ),
    ] = False,
    pipeline: PipelinePath = Path("pipeline.yaml"),
    service_account: Account = ACCOUNT,
    listed: Annotated[bool, typer.Option("--list", help="Tell what is scheduled, and change nothing.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the schedule of that name.")] = False,
) -> None:
    """Start runs on Kubeflow Pipelines by the clock, one at a time; a start that was missed is not made up for.

    With --on-new-model each look is a run. Its first step finds the model's digest and, where MLflow has a verdict on
    it by this very plan, names the earlier run; the other steps start, quantize where its GPU is free, and end at once.
    """
    from pipelines.kubeflow.schedule import list_schedules, remove_schedule, schedule_runs

    if listed:
        list_schedules(place)
    elif delete:
        remove_schedule(place, name)
    else:
        schedule_runs(place, checked_arguments(given), name, cron, pipeline, service_account, on_new_model=on_new_model)


def compile_pipeline(
    out: Annotated[Path, typer.Option("--out", "-o", help="The YAML file to write.")] = Path("pipeline.yaml"),
    image: Annotated[
        str, typer.Option(help="Container image of the steps; give a digest, or a tag that never moves.")
    ] = "quantgate:0.1.0",
    quantize_image: Annotated[
        str, typer.Option(help="That of resolve and quantize, with PyTorch and CUDA.")
    ] = "quantgate-quantize:0.1.0",
    parallelism: Annotated[int, typer.Option(help="Variants under way at a time, each with a server of its own.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="For quantize; 0 where the cluster has none.")] = 1,
    accelerator: Annotated[str, typer.Option(help="The GPUs' name as a resource.")] = "nvidia.com/gpu",
    quantize_memory: Annotated[str, typer.Option(help="The most memory that quantize may take.")] = "64Gi",
    node: Annotated[
        list[str] | None, typer.Option(help="LABEL=VALUE of the nodes for quantize; may be given again.")
    ] = None,
    cache_claim: Annotated[
        str, typer.Option(help="Volume claim that keeps models between runs; empty: none.")
    ] = "quantgate-cache",
    serving: Annotated[str, typer.Option(help="What serves a variant: kserve or deployment.")] = "kserve",
    pull_secret: Annotated[str, typer.Option(help="Secret of the images' registry.")] = "",
) -> None:
    """Write the pipeline as the YAML that Kubeflow Pipelines takes."""
    if out.suffix not in (".yaml", ".yml"):
        raise PrerequisiteError(f"kfp writes YAML: give a file that ends in .yaml, not {out}.")
    from pipelines.cluster import Cluster
    from pipelines.kubeflow.compile import labels, write_pipeline

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
    )
    write_pipeline(cluster, out)
    print(f"Wrote {out}")
