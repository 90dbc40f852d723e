"""The options that several commands share: where Kubeflow is, and the options of a run.

Each function here takes options as parameters and returns one value. `@takes(place=place)` replaces a command's
parameter `place` by all options of the function `place`.
"""

import functools
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantgate.components.models.recipe_file import all_variants
from quantgate.pipelines import options
from quantgate.pipelines.kubeflow.run_parameters import check
from quantgate.pipelines.terminal_output import print_text

if TYPE_CHECKING:
    from quantgate.pipelines.kubeflow.connection import Place


def takes(**parts: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameters of these names by the parameters of the functions that compute their values."""

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        own = [option for name, option in inspect.signature(command).parameters.items() if name not in parts]
        shared = {name: list(inspect.signature(part).parameters.values()) for name, part in parts.items()}

        @functools.wraps(command)
        def run_command(**values: object) -> None:
            arguments = {
                name: part(**{option.name: values.pop(option.name, option.default) for option in shared[name]})
                for name, part in parts.items()
            }
            command(**arguments, **values)

        all_options = [*own, *(option for part in shared.values() for option in part)]
        keyword = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in all_options]
        run_command.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        run_command.__annotations__ = {option.name: option.annotation for option in all_options}  # typer reads these
        return run_command

    return with_options


def place(
    host: Annotated[
        str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="URL of Kubeflow Pipelines, e.g. of its ingress.")
    ] = "",
    port_forward: Annotated[
        bool, typer.Option("--port-forward", help="Connect to Kubeflow Pipelines through kubectl.")
    ] = False,
    in_cluster: Annotated[
        bool, typer.Option("--in-cluster", help="Connect from a pod of the same cluster, with the pod's token.")
    ] = False,
    kubeflow_namespace: Annotated[str, typer.Option(help="Kubeflow's namespace, for these two.")] = "kubeflow",
    namespace: Annotated[str, typer.Option(help="The run's namespace, if several users share Kubeflow.")] = "",
    token: Annotated[
        str, typer.Option(envvar="QUANTGATE_KUBEFLOW_TOKEN", help="Access token; better set as the variable.")
    ] = "",
    ca: Annotated[str, typer.Option(help="File with the certificate authority of Kubeflow's server.")] = "",
) -> "Place":
    """Where Kubeflow Pipelines is."""
    from quantgate.pipelines.kubeflow.connection import Place

    return Place(host, namespace, token, in_cluster, port_forward, kubeflow_namespace, ca)


CLUSTERS_OWN = {
    name: {"help": f"{options.OPTIONS[name].help.partition(' [')[0].rstrip('.')} [the cluster's own]."}
    for name in ("store", "results", "tracking_uri")
}
cluster_options = options.collect_options([*options.OPTIONS], **CLUSTERS_OWN)
"""The options of a run on a cluster, for `takes`."""


def checked_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """The run's parameters, checked as far as possible without the cluster."""
    plan = options.plan_of(values)
    plan = plan.model_copy(update={"variants": all_variants(plan)})
    check(values["model"], plan)
    if find_spec("scipy"):  # a client without the gate's packages sees it on the cluster
        from quantgate.components.resolve.planned_evidence import forecast_of

        if forecast := forecast_of(plan):
            print_text(forecast, to_stderr=True)
    return options.pipeline_arguments(values["model"], plan, values["promote"])
