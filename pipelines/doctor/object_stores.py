"""Where Kubeflow's launcher stores artifacts and where our steps store weights: do these names exist?"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from quantgate.components.kubernetes.cluster_client import JSON
from quantgate.pipelines.cluster import S3_PLACE
from quantgate.pipelines.doctor.finding import FAULT, GOOD, NOTE, Examined, Finding

LAUNCHER_SETTINGS, ARTIFACTS_SECRET = "kfp-launcher", "mlpipeline-minio-artifact"
"""The ConfigMap with the artifacts' place, and the Secret with its key unless the ConfigMap names another one."""
LAUNCHERS_DEFAULT = "seaweedfs.kubeflow:9000"
"""Where the launcher of Kubeflow Pipelines 2.17 looks without `providers`, whatever its own namespace is."""
FIX_LAUNCHER = (
    "Give the ConfigMap kfp-launcher `providers` (docs/cluster.md), or install Kubeflow Pipelines in kubeflow."
)


@dataclass(frozen=True)
class Artifacts:
    """What the ConfigMap kfp-launcher says about the store of a run's artifacts."""

    endpoint: str
    """Empty for a store outside of the cluster whose address the launcher knows, such as AWS's S3."""
    secret: str
    source: str


def artifacts(examined: Examined) -> Artifacts:
    """Where the launcher stores the artifacts of a run in this namespace."""
    data: JSON = examined.questions.named("configmaps", LAUNCHER_SETTINGS, examined.namespace).body.get("data", {})
    scheme = str(data.get("defaultPipelineRoot") or "minio://").partition("://")[0]
    providers = yaml.safe_load(data.get("providers") or "{}") or {}
    default: JSON = providers.get(scheme, {}).get("default", {})
    if scheme == "minio" and not default.get("endpoint"):
        return Artifacts(LAUNCHERS_DEFAULT, ARTIFACTS_SECRET, "kfp's default: kfp-launcher has no providers")
    secret = (default.get("credentials", {}).get("secretRef") or {}).get("secretName") or ARTIFACTS_SECRET
    return Artifacts(str(default.get("endpoint") or ""), secret, "the ConfigMap kfp-launcher")


def object_stores(examined: Examined) -> Iterator[Finding]:
    """Whether both addresses lead to a Service with that port."""
    place = artifacts(examined)
    yield resolved(examined, "artifacts", place.endpoint, place.source, FIX_LAUNCHER)
    answer = examined.questions.named("configmaps", S3_PLACE.name, examined.namespace)
    source = f"AWS_ENDPOINT_URL of the ConfigMap {S3_PLACE.name}"
    if answer.is_forbidden:
        yield Finding(NOTE, "store", f"not checked: you may not read the ConfigMap {S3_PLACE.name}")
        return
    endpoint = answer.body.get("data", {}).get("AWS_ENDPOINT_URL", "")
    yield resolved(examined, "store", endpoint, source, f"Correct {source} and apply it (the overlay's settings.yaml).")


def resolved(examined: Examined, subject: str, endpoint: str, source: str, remedy: str) -> Finding:
    """The finding for one address: a Service's name is looked up, in a pod through DNS if it may not read it."""
    host, _, port = endpoint.rpartition("://")[2].rstrip("/").partition(":")
    service, namespace = cluster_service(host, examined.namespace)
    said = f"{endpoint} ({source})"
    if not service:
        return Finding(
            NOTE, subject, f"{said if endpoint else 'AWS or another cloud'}: outside the cluster, not checked"
        )
    answer = examined.questions.named("services", service, namespace)
    if answer.is_missing:
        others = [body["metadata"]["name"] for body in services(examined, namespace) if is_store(body, port)]
        there = f"; with that port there is {', '.join(others)}" if others else ""
        return Finding(FAULT, subject, f"{said}: no Service {service} in the namespace {namespace}{there}", remedy)
    if answer.is_ok:
        ports = [str(entry["port"]) for entry in answer.body["spec"].get("ports", ())]
        if port and port not in ports:
            return Finding(FAULT, subject, f"{said}: the Service has the port {', '.join(ports)}, not {port}", remedy)
        return Finding(GOOD, subject, f"{said}: the Service exists")
    if not examined.in_pod:
        return Finding(NOTE, subject, f"{said}: not checked, you may not read Services in {namespace}")
    try:
        socket.getaddrinfo(host, int(port or 443))
    except OSError as error:
        return Finding(FAULT, subject, f"{said}: the name does not resolve in this pod ({error})", remedy)
    return Finding(GOOD, subject, f"{said}: the name resolves in this pod")


def cluster_service(host: str, namespace: str) -> tuple[str, str]:
    """The name and namespace of the Service that a host name stands for in that namespace; two empty texts for none.

    A name of two parts is a Service and its namespace: `seaweedfs.kubeflow`.
    """
    name, *rest = host.split(".")
    if not host or (len(rest) > 1 and rest[1] != "svc"):
        return "", ""
    return name, rest[0] if rest else namespace


def services(examined: Examined, namespace: str) -> list[JSON]:
    """The Services of the namespace that the account may list."""
    return examined.questions.get(f"/api/v1/namespaces/{namespace}/services").items


def is_store(service: JSON, port: str) -> bool:
    """Whether the Service has that port."""
    return port in [str(entry["port"]) for entry in service["spec"].get("ports", ())]
