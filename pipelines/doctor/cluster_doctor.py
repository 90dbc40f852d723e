"""All checks of a cluster, in the order in which a run meets what they ask about."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import ClusterClient
from quantgate.components.kubernetes.questions import ClusterQuestions
from quantgate.components.servers.cluster_engine import find_runtime
from quantgate.components.servers.cluster_settings import (
    OWN_IMAGE,
    OWN_NAMESPACE,
    PREFIX,
    ServingSettings,
    from_environment,
)
from quantgate.pipelines.cluster import SERVING
from quantgate.pipelines.doctor import installed
from quantgate.pipelines.doctor.admission import rehearsed
from quantgate.pipelines.doctor.capacity import gpus, quotas
from quantgate.pipelines.doctor.finding import FAULT, NOTE, PATIENCE_S, Examined, Finding
from quantgate.pipelines.doctor.mlflow_answer import mlflow_answer
from quantgate.pipelines.doctor.mounted import mounted
from quantgate.pipelines.doctor.object_stores import object_stores
from quantgate.pipelines.doctor.pipeline_needs import PipelineNeeds, pipeline_needs
from quantgate.pipelines.doctor.registry_images import images
from quantgate.pipelines.doctor.run_account import account_rights

if TYPE_CHECKING:
    from quantgate.pipelines.kubeflow.connection import Place


@dataclass(frozen=True)
class PlannedRun:
    """The run that shall fit on the cluster."""

    place: "Place"
    pipeline: Path
    account: str
    tracking_uri: str


def examine(run: PlannedRun) -> Iterator[Finding]:
    """What the checks find, one after the other; raises PrerequisiteError when the cluster's API does not answer."""
    examined, mistake = examined_cluster(run)
    place = run.place
    yield from explained("Kubernetes", lambda: installed.kubernetes_version(examined))
    if place.host or place.in_cluster or place.port_forward:
        yield from explained("Pipelines", lambda: installed.pipelines_version(place))
    else:
        yield Finding(NOTE, "Pipelines", "not checked", "Give --port-forward, --host URL, or in a pod --in-cluster.")
    yield from explained("Argo", lambda: installed.controllers(examined))
    yield from explained("artifacts", lambda: object_stores(examined))
    yield from explained("pods", lambda: mounted(examined))
    yield from explained("account", lambda: account_rights(examined))
    if mistake:
        yield Finding(FAULT, "serving", mistake, f"Correct the ConfigMap {SERVING.name} and apply it.")
    try:
        runtime = find_runtime(ClusterClient(examined.namespace, PATIENCE_S), examined.settings)
    except PrerequisiteError as error:
        yield Finding(FAULT, "serving", str(error))
    else:
        yield from explained("admission", lambda: rehearsed(examined, runtime))
        llama = examined.settings.llama_image
        fetcher = examined.settings.weights_image if llama or not examined.uses_kserve else ""
        needs = examined.needs.with_images([image for image in (runtime.image, fetcher, llama) if image])
        examined = replace(examined, needs=needs)
    yield from explained("image", lambda: images(examined))
    yield from explained("GPU", lambda: gpus(examined))
    yield from explained("quota", lambda: quotas(examined))
    yield from explained("MLflow", lambda: mlflow_answer(examined, run.tracking_uri, port_forward=place.port_forward))


def explained(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of one check; what it cannot get past is a fault, and the other checks go on."""
    try:
        yield from check()
    except PrerequisiteError as error:
        yield Finding(FAULT, subject, str(error))


def examined_cluster(run: PlannedRun) -> tuple[Examined, str]:
    """The cluster with the run's needs, and the mistake in its settings; raises PrerequisiteError for no pipeline."""
    needs, questions = pipeline_needs(run.pipeline), ClusterQuestions()
    own = OWN_NAMESPACE.read_text(encoding="utf-8").strip() if OWN_NAMESPACE.exists() else ""
    namespace = run.place.namespace or own or run.place.kubeflow_namespace
    settings, mistake = cluster_settings(questions, namespace, needs)
    examined = Examined(
        questions=questions,
        namespace=namespace,
        account=run.account,
        needs=needs,
        settings=settings,
        in_pod="KUBERNETES_SERVICE_HOST" in os.environ,
    )
    return examined, mistake


def cluster_settings(questions: ClusterQuestions, namespace: str, needs: PipelineNeeds) -> tuple[ServingSettings, str]:
    """How the steps of a run in the namespace would serve a variant, and the mistake in the cluster's settings.

    With a mistake the other checks go on, with the settings of a cluster that sets none.
    """
    data = questions.named("configmaps", SERVING.name, namespace).body.get("data", {})
    own, mistake = {PREFIX: needs.serving, OWN_IMAGE: needs.images[0]}, ""
    try:
        settings = from_environment({**data, **own}, own_namespace=Path(os.devnull))
    except PrerequisiteError as error:
        settings, mistake = from_environment(own, own_namespace=Path(os.devnull)), str(error)
    return replace(settings, namespace=namespace), mistake
