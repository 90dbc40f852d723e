"""What the commands about a cluster share: where Kubeflow is, and what a run is asked.

A function here has the options as its parameters and returns the value made of them; `@takes(place=place)` gives a
command all of its options in place of the parameter `place`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import PrerequisiteError
from components.models.variants import with_baseline
from components.tracking.connect import check_host, check_no_password
from pipelines import options
from pipelines.kubeflow.run_parameters import RESULTS, STORE, check

if TYPE_CHECKING:
    from pipelines.kubeflow.connection import Place


def takes(**parts: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameters of these names by the parameters of the functions that make their values."""

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        own = [each for name, each in inspect.signature(command).parameters.items() if name not in parts]
        shared = {name: list(inspect.signature(part).parameters.values()) for name, part in parts.items()}

        @functools.wraps(command)
        def called(**given: object) -> None:
            made = {
                name: part(**{each.name: given.pop(each.name, each.default) for each in shared[name]})
                for name, part in parts.items()
            }
            command(**made, **given)

        every = [*own, *(each for part in shared.values() for each in part)]
        keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in every]
        called.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in every}  # typer reads these
        return called

    return with_options


def place(
    host: Annotated[
        str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Where Kubeflow Pipelines answers, e.g. its ingress.")
    ] = "",
    port_forward: Annotated[bool, typer.Option("--port-forward", help="Reach it through kubectl's rights.")] = False,
    in_cluster: Annotated[
        bool, typer.Option("--in-cluster", help="Reach it from a pod of its cluster, with the pod's token.")
    ] = False,
    kubeflow_namespace: Annotated[str, typer.Option(help="Where it is installed, for these two.")] = "kubeflow",
    namespace: Annotated[str, typer.Option(help="Of the run, where several users share Kubeflow.")] = "",
    token: Annotated[
        str, typer.Option(envvar="QUANTGATE_KUBEFLOW_TOKEN", help="What lets you in; better by the variable.")
    ] = "",
    ca: Annotated[str, typer.Option(help="File of the authority that signed its certificate.")] = "",
) -> "Place":
    """Where Kubeflow Pipelines is."""
    from pipelines.kubeflow.connection import Place

    return Place(host, namespace, token, in_cluster, port_forward, kubeflow_namespace, ca)


cluster_options = options.given_options(list(options.OPTIONS), store={"default": STORE}, results={"default": RESULTS})
"""The options of a run on a cluster, for `takes`."""


def checked_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The run's parameters, checked as far as that can be done without the cluster."""
    asked = options.plan_of(given)
    plan = asked.model_copy(update={"variants": tuple(with_baseline(list(asked.variants)))})
    model, tracking_uri, promote = given["model"], given["tracking_uri"], given["promote"]
    check(model, plan, tracking_uri)
    if promote and not tracking_uri:
        raise PrerequisiteError("Models are promoted in MLflow's registry: name its server with --tracking-uri.")
    if tracking_uri:
        check_no_password(tracking_uri)
        check_host(tracking_uri)
    return options.pipeline_arguments(model, plan, tracking_uri, promote)
