"""The commands that start a run for a new model: `quantgate look`, `listen`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantgate.pipelines import options
from quantgate.pipelines.cli.cluster_commands import ACCOUNT, Account, PipelinePath
from quantgate.pipelines.cli.run_options import CLUSTERS_OWN, checked_arguments, place, takes
from quantgate.pipelines.terminal_output import print_text

if TYPE_CHECKING:
    from quantgate.pipelines.kubeflow.connection import Place
    from quantgate.pipelines.kubeflow.look import Watch

Name = Annotated[str, typer.Argument(help="Name under which the looks remember what they started.", show_default=False)]
SOURCES = (
    "hf:ORG/NAME[@REVISION], s3://BUCKET/PREFIX, s3://BUCKET/PREFIX/* (the newest complete folder there) or"
    " models:/NAME (the newest version in MLflow)."
)
look_options = options.collect_options([*options.OPTIONS], **CLUSTERS_OWN, model={"help": SOURCES, "default": ...})
listen_options = options.collect_options(
    [*options.OPTIONS],
    **CLUSTERS_OWN,
    model={"help": "models:/NAME, a registered model in MLflow.", "default": ...},
)


@takes(place=place, values=look_options)
def look(
    place: "Place",
    values: dict[str, Any],
    name: Name,
    pipeline: PipelinePath = Path("pipeline.yaml"),
    service_account: Account = ACCOUNT,
    settled_s: Annotated[
        float,
        typer.Option(
            "--settled", min=0, help="Seconds without a change after which a folder in S3 without COMPLETE.json counts."
        ),
    ] = 600.0,
) -> None:
    """Start a run on Kubeflow Pipelines if the model is new, and only then.

    New is what no look of this name has started a run for: other model files in a hub repository, another digest or
    other files in an S3 folder, a new folder below PREFIX/*, a new version in MLflow. One line says what was seen and
    done. The looks remember that in RESULTS/looks/NAME.json.
    """
    from quantgate.pipelines.kubeflow.look import look as look_once

    print_text(look_once(watch(place, values, name, pipeline, service_account, settled_s)))


@takes(place=place, values=listen_options)
def listen(
    place: "Place",
    values: dict[str, Any],
    name: Name,
    pipeline: PipelinePath = Path("pipeline.yaml"),
    service_account: Account = ACCOUNT,
    bind: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a pod.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8080,
) -> None:
    """Look, as `quantgate look` does, each time MLflow's webhook reports a new version of the model.

    The webhook's secret is in QUANTGATE_WEBHOOK_SECRET. A delivery without its signature, or of another time than the
    last 5 minutes, is refused. The first look is at the start.
    """
    from quantgate.pipelines.kubeflow.listen import listen as listen_for_versions

    listen_for_versions(watch(place, values, name, pipeline, service_account), bind, port)


def watch(
    place: "Place", values: dict[str, Any], name: str, pipeline: Path, service_account: str, settled_s: float = 0.0
) -> "Watch":
    """What to look at, and the run that a new model starts."""
    from quantgate.pipelines.kubeflow.look import Watch

    return Watch(
        name=name,
        source=values["model"],
        tracking_uri=values["tracking_uri"],
        settled_s=settled_s,
        parameters=lambda model: checked_arguments({**values, "model": model}),
        pipeline=pipeline,
        service_account=service_account,
        place=place,
    )
