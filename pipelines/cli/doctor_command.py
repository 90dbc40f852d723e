"""The command `quantgate doctor`: how a server can be scored, or what would stop a run on a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantgate.components.errors import PrerequisiteError
from quantgate.pipelines.cli.run_options import place, takes
from quantgate.pipelines.exits import UNFIT
from quantgate.pipelines.terminal_output import VisibleConsole, print_text

if TYPE_CHECKING:
    from quantgate.pipelines.kubeflow.connection import Place

ADVICE = {
    "batch": "batch, which carries the questions of a context in one request.",
    "suffix": "suffix; read when all choices are one token.",
    "read": "read after long contexts; echo (if it works) after short ones.",
    "echo": "echo, which computes every prompt again: slow for many shots.",
    "forced": "forced, a request for each token that is scored: slow for long continuations.",
}


@takes(place=place)
def doctor(
    place: "Place",
    endpoint: Annotated[
        str,
        typer.Option(help="Base of an OpenAI-compatible API, e.g. http://127.0.0.1:8000/v1; its key: $OPENAI_API_KEY."),
    ] = "",
    model: Annotated[str, typer.Option(help="The served model's name [the server's first].")] = "",
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Check the cluster of the kubeconfig, or of this pod, for a run.")
    ] = False,
    pipeline: Annotated[Path, typer.Option(help="With --cluster: the file that `quantgate compile` wrote.")] = Path(
        "pipeline.yaml"
    ),
    service_account: Annotated[str, typer.Option(help="With --cluster: the steps' account.")] = "quantgate-pipeline",
    tracking_uri: Annotated[
        str, typer.Option(help="With --cluster: MLflow's tracking server [the cluster's own].")
    ] = "",
) -> None:
    """Show how a server can be scored, or with --cluster what would stop a run there, and the remedy.

    --cluster prints a line for each check: ✔ a run can rely on it, ✘ it would stop a run, ! not checked, or no reason
    to stop. It creates and changes nothing. The exit status is 1 if a line has ✘.
    """
    if bool(endpoint) == cluster:
        raise PrerequisiteError("Give --endpoint URL to examine a server, or --cluster to examine a cluster.")
    if endpoint:
        show_ways(endpoint, model)
        return
    from quantgate.pipelines.doctor.cluster_doctor import PlannedRun, examine
    from quantgate.pipelines.doctor.finding import FAULT

    faults = 0
    for finding in examine(PlannedRun(place, pipeline, service_account, tracking_uri)):
        print_text(finding)
        faults += finding.mark == FAULT
    print_text(f"{faults} would stop a run." if faults else "Nothing here would stop a run.")
    if faults:
        raise typer.Exit(UNFIT)


def show_ways(endpoint: str, model: str) -> None:
    """Print which ways of scoring the server offers, which is used, and why."""
    from quantgate.components.servers.abilities import WHAT, abilities
    from quantgate.components.servers.client import Client

    client = Client(endpoint, model)
    server = abilities(client)
    console = VisibleConsole(soft_wrap=True, highlight=False)
    length = f"{server.max_model_len} tokens" if server.max_model_len else "unknown context length"
    console.print(f"{client.root} serves {client.model} ({server.package} {server.version}, {length})", markup=False)
    for way in server.tried:
        result = way.trouble or f"exact: within {way.difference:.4f} of the slowest way"
        console.print(f"  {'✘' if way.trouble else '✔'} {way.kind:7} {WHAT[way.kind]}: {result}", markup=False)
    used = [way.kind for way in server.tried if way.kind in server.kinds]
    console.print(f"Used: {ADVICE[used[0]]}", markup=False)
