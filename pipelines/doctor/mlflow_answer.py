"""Whether MLflow answers, and accepts the account of this process."""

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

from quantgate.components.errors import PrerequisiteError
from quantgate.components.tracking.connect import TOKEN, check_no_password, connected
from quantgate.components.tracking.uris import is_server
from quantgate.pipelines.cluster import MLFLOW_PLACE
from quantgate.pipelines.doctor.finding import FAULT, GOOD, NOTE, Examined, Finding
from quantgate.pipelines.doctor.object_stores import cluster_service
from quantgate.pipelines.kubeflow.port_forward import forwarded

NAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
URI = "QUANTGATE_TRACKING_URI"
DENIED = "denies access"
"""In the message of `connected` for a refused account."""


def mlflow_answer(examined: Examined, tracking_uri: str, *, port_forward: bool) -> Iterator[Finding]:
    """The answer of the MLflow that a run would use; `port_forward` is whether kubectl may forward to it."""
    uri = tracking_uri or configured(examined)
    if not uri:
        remedy = "Give --tracking-uri; a run without one is not recorded in MLflow."
        yield Finding(NOTE, "MLflow", "not checked: no address", remedy)
    elif not is_server(uri):
        remedy = "Give one like http://mlflow.quantgate:5000."
        yield Finding(FAULT, "MLflow", f"{uri} is not the address of a server", remedy)
    else:
        check_no_password(uri)
        yield server_answer(examined, uri, port_forward=port_forward)


def server_answer(examined: Examined, uri: str, *, port_forward: bool) -> Finding:
    """The server's answer; from outside of the cluster that of its Service, and through kubectl its own."""
    parts = urlsplit(uri)
    host = parts.hostname or ""
    service, namespace = cluster_service(host, examined.namespace)
    if examined.in_pod or not service or host == "localhost":
        return answer_of(uri, uri)
    service_object = examined.questions.named("services", service, namespace)
    if service_object.is_missing:
        remedy = "Apply manifests/, or correct --tracking-uri."
        return Finding(FAULT, "MLflow", f"{uri}: no Service {service} in the namespace {namespace}", remedy)
    if not port_forward:
        remedy = "Ask with --port-forward, or in a pod."
        return Finding(NOTE, "MLflow", f"{uri}: not checked, a name of the cluster is not reachable here", remedy)
    with forwarded(f"service/{service}", parts.port or 80, namespace) as here:
        return answer_of(uri, here)


def configured(examined: Examined) -> str:
    """The address in the namespace's ConfigMap; empty if it has none."""
    answer = examined.questions.named("configmaps", MLFLOW_PLACE.name, examined.namespace)
    return str(answer.body.get("data", {}).get(URI, ""))


def answer_of(uri: str, here: str) -> Finding:
    """What the server at `uri` answers through the address `here`."""
    account = "the token" if os.environ.get(TOKEN) else os.environ.get(NAME, "")
    try:
        with connected(here, "answer"):
            login = f"accepts {account}" if account else "answers without a login"
            return Finding(GOOD, "MLflow", f"{uri} {login}")
    except PrerequisiteError as error:
        if DENIED not in str(error):
            return Finding(FAULT, "MLflow", str(error))
        if not account:
            remedy = f"Set {NAME} and {PASSWORD} as in the Secret quantgate-mlflow, and ask again."
            return Finding(NOTE, "MLflow", f"{uri} answers and wants a login; the account is not checked", remedy)
        remedy = "Use the password of the Secret quantgate-mlflow, or run the Job mlflow-account again."
        return Finding(FAULT, "MLflow", f"{uri} refuses {account}", remedy)
