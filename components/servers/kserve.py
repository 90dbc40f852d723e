"""Serve a variant on a cluster, through KServe or by a plain Deployment, and stop it again.

The same verbs as of the server on this machine, see `local.py`. What is made is in `objects.py`: a Lease comes first
and owns the rest, so that at whatever point a start ends, what it made goes with the Lease. The names follow from run
and variant: a start that runs again takes over what the first one made.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from components.errors import PrerequisiteError, ServerGoneError
from components.kubernetes import cluster_lease, owner
from components.kubernetes.cluster_client import (
    DEPLOYMENT,
    INFERENCE_SERVICE,
    JSON,
    LEASE,
    SERVICE,
    SERVING_RUNTIME,
    ClusterClient,
    ObjectKind,
)
from components.kubernetes.labels import INSTANCE, MANAGED_BY, MANAGER
from components.kubernetes.owner import run_name, workflow
from components.run.artifacts import Server, Weights
from components.servers import objects, vllm_pod
from components.servers.cluster_settings import KSERVE, LOCAL, ServingSettings
from components.servers.local_vllm import lists_our_model, max_model_len
from components.servers.vllm_pod import Runtime, Served
from components.servers.why_not_ready import Reason, why_not_ready

WATCHED_S = 5
POLL_S = 1.0
REACHED_WITHIN_S = 60.0


@dataclass(frozen=True)
class Start:
    """One attempt to serve a variant: what is made, where, and until when it has to be there."""

    cluster: ClusterClient
    settings: ServingSettings
    served: Served
    runtime: Runtime
    deadline: float
    """Of the monotonic clock."""

    @property
    def made(self) -> list[tuple[ObjectKind, JSON]]:
        """The objects that its lease owns."""
        return objects.manifests(self.served, self.runtime, self.settings)

    @property
    def kind(self) -> ObjectKind:
        """Of the object that becomes ready."""
        return INFERENCE_SERVICE if self.settings.kind == KSERVE else DEPLOYMENT


def deploy(made: Weights, model_path: Path, results: str, settings: ServingSettings) -> Server:
    """Serve the weights and wait until a step here is answered; `model_path` holds the same model's tokenizer.

    A server that does not come up is removed, and a value with a `failure`: why, as far as the cluster tells.
    """
    if not made.uri.startswith("s3://"):
        raise PrerequisiteError(f"A cluster cannot read weights at {made.uri}. Give s3://BUCKET/PREFIX as the store.")
    cluster = ClusterClient(settings.namespace)
    runtime, tokens, started = runtime_here(cluster, settings), max_model_len(model_path), time.monotonic()
    options = objects.answering(settings, tokens)
    served = Served(run_name(cluster, results), made.variant, made.uri, options)
    start = Start(cluster, settings, served, runtime, started + settings.ready_within_s)
    where = f"kubectl -n {settings.namespace}"
    server = Server(
        variant=made.variant,
        served_name=served.served_name,
        model_path=str(model_path),
        max_model_len=tokens,
        log=f"{where} logs -l {pod_labels(start)} -c {container_of(settings)}",
        command=f"{where} get {start.kind}/{served.name} -o yaml",
        engine=runtime.image,
        identity=objects.identity(made.digest, runtime, settings, tokens),
    )
    try:
        lease = create_lease(start)
        with cluster_lease.renewing(cluster, served.name):  # a start may take longer than a lease
            create(start, lease)
            failure = wait_until_ready(start)
            server = server if failure else server.model_copy(update={"url": address(start)})
            failure = failure or wait_until_reached(server, start)
    except PrerequisiteError as error:
        failure = str(error)
    if failure:
        try:
            remove(cluster, served)
        except PrerequisiteError as error:
            failure += f"\nIt could not be removed ({error}); it goes when its lease ends."
        return server.model_copy(update={"failure": failure, "startup_s": time.monotonic() - started})
    told = {"startup_s": time.monotonic() - started, "engine": engine_of(server)}
    return server.model_copy(update=told)


def undeploy(variant: str, results: str, settings: ServingSettings) -> None:
    """Remove the variant's server, also one that its `deploy` did not live to record; nothing where there is none."""
    cluster = ClusterClient(settings.namespace)
    remove(cluster, Served(run_name(cluster, results), variant, "", ()))


def remove(cluster: ClusterClient, served: Served) -> None:
    """Delete the leases of this run and variant: what they own goes with them."""
    labels = ",".join(f"{name}={value}" for name, value in served.labels.items())
    for lease in cluster.listed(LEASE, labels=labels)[0]:
        cluster.delete(LEASE, lease["metadata"]["name"], uid=lease["metadata"]["uid"])


def renew(variant: str, results: str, settings: ServingSettings) -> None:
    """Begin the time of the variant's lease anew; raises ServerGoneError when its server was removed."""
    cluster = ClusterClient(settings.namespace)
    cluster_lease.renew(cluster, Served(run_name(cluster, results), variant, "", ()).name)


@contextmanager
def kept_alive(server: Server, results: str, settings: ServingSettings) -> Iterator[None]:
    """Renew the server's lease for the time of the block: what a step that asks it has to be in.

    Raises ServerGoneError when the server was removed before the block or during it. A server on this machine has
    another kind of lease, and one that was not started has none: nothing happens then.
    """
    if settings.kind == LOCAL or server.failure or not server.url:
        yield
        return
    cluster = ClusterClient(settings.namespace)
    with cluster_lease.renewing(cluster, Served(run_name(cluster, results), server.variant, "", ()).name):
        yield


def identity_here(model_path: Path, digest: str, settings: ServingSettings) -> str:
    """The identity of the server that `deploy` would start on the model."""
    runtime = runtime_here(ClusterClient(settings.namespace), settings)
    return objects.identity(digest, runtime, settings, max_model_len(model_path))


def runtime_here(cluster: ClusterClient, settings: ServingSettings) -> Runtime:
    """What vLLM is started from; raises PrerequisiteError when the cluster does not have it."""
    if settings.kind != KSERVE:
        return objects.own_runtime(settings)
    if (found := cluster.get(SERVING_RUNTIME, settings.runtime)) is None:
        raise PrerequisiteError(
            f"There is no ServingRuntime {settings.runtime} in the namespace {settings.namespace}. Apply manifests/, "
            "name another one in QUANTGATE_SERVING_RUNTIME, or serve without KServe: QUANTGATE_SERVING=deployment."
        )
    return objects.runtime_of(found, settings)


def create(start: Start, lease: JSON) -> None:
    """Create what the lease owns, or take over what an attempt before left."""
    for kind, body in start.made:
        owned = body | {"metadata": body["metadata"] | {"ownerReferences": [owner.reference(lease)]}}
        while start.cluster.create(kind, owned) is None:
            found = start.cluster.get(kind, start.served.name)
            if found and is_owned(found, lease):
                break  # an attempt before made it: its lease has the same digest of what it owns
            if found and found["metadata"].get("labels", {}).get(MANAGED_BY) != MANAGER:
                raise PrerequisiteError(
                    f"{kind} {start.served.name} in the namespace {start.settings.namespace} is not quantgate's. "
                    "Delete or rename it."
                )
            wait_for_the_end(start, kind)


def create_lease(start: Start) -> JSON:
    """A lease of our own, or that of an attempt before to start just this."""
    spec, name = objects.digest(start.made), start.served.name
    owner = workflow(start.cluster)
    while True:
        now = cluster_lease.timestamp(datetime.now(UTC))
        body = objects.lease(name, start.served.labels, now, start.settings.lease_s, owner, spec)
        if made := start.cluster.create(LEASE, body):
            return made
        if (found := start.cluster.get(LEASE, name)) is None:
            continue  # it went in between
        metadata = found["metadata"]
        if "deletionTimestamp" in metadata:
            wait_for_the_end(start, LEASE)
        elif metadata.get("annotations", {}).get(objects.SPEC) == spec:
            try:
                return cluster_lease.renew(start.cluster, name, metadata["uid"])
            except ServerGoneError:  # the reaper was faster
                wait_for_the_end(start, LEASE)
        else:  # of an attempt with other settings
            start.cluster.delete(LEASE, name, uid=metadata["uid"])


def wait_for_the_end(start: Start, kind: ObjectKind) -> None:
    """Give what is being deleted a moment; raises PrerequisiteError once there is no time left."""
    if time.monotonic() > start.deadline:
        raise PrerequisiteError(
            f"{kind} {start.served.name} of an earlier start is still being deleted after "
            f"{start.settings.ready_within_s} s. See what keeps it: its finalizers, or pods that do not end."
        )
    time.sleep(POLL_S)


def is_owned(found: JSON, lease: JSON) -> bool:
    """Whether an object lives and belongs to the lease: one of an earlier lease is about to be collected."""
    metadata = found["metadata"]
    owners = [each["uid"] for each in metadata.get("ownerReferences", ())]
    return lease["metadata"]["uid"] in owners and "deletionTimestamp" not in metadata


def wait_until_ready(start: Start) -> str:
    """Wait until the cluster calls the server ready; returns why it does not, "" when it does."""
    reason = Reason("nothing is known of it yet")
    while (left_s := start.deadline - time.monotonic()) > 0:
        found, version = start.cluster.listed(start.kind, fields=f"metadata.name={start.served.name}")
        seen = found[0] if found else None
        if is_ready(start, seen):
            return ""
        if seen:
            reason = why_not_ready(start.cluster, seen, pod_labels(start), container_of(start.settings))
            if reason.final:
                return reason.text
        began, within_s = time.monotonic(), min(WATCHED_S, max(1, int(left_s)))
        for each in start.cluster.changes(start.kind, start.served.name, version, within_s) if seen else ():
            if (seen := each) is None or is_ready(start, each):
                break
        if seen is None:
            return f"{start.kind} {start.served.name} was deleted while it started, by the reaper or by somebody."
        if is_ready(start, seen):
            return ""
        time.sleep(max(0.0, POLL_S - (time.monotonic() - began)))  # a watch may end as soon as it begins
    return f"It was not ready after {start.settings.ready_within_s} s: {reason.text}"


def is_ready(start: Start, seen: JSON | None) -> bool:
    """Whether the object is there and its controller calls it ready, of a Deployment this very version of it.

    Which version of an InferenceService was looked at is not told: its `observedGeneration` is its Deployment's.
    """
    if seen is None:
        return False
    status = seen.get("status", {})
    conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
    if start.settings.kind == KSERVE:
        return conditions.get("Ready") == "True"
    looked_at = status.get("observedGeneration", 0) >= seen["metadata"].get("generation", 0)
    return looked_at and conditions.get("Available") == "True"


def address(start: Start) -> str:
    """Base of the server's OpenAI API.

    KServe's Service may be headless (`serviceClusterIPNone`), and then it translates no ports.
    """
    service, port = start.served.name, vllm_pod.PORT
    if start.settings.kind == KSERVE:
        service = f"{start.served.name}-predictor"
        spec = (start.cluster.get(SERVICE, service) or {"spec": {}})["spec"]
        headless = spec.get("clusterIP") == "None"
        ports = spec.get("ports") or [{"port": start.runtime.port, "targetPort": start.runtime.port}]
        port = ports[0]["targetPort" if headless else "port"]
        port = port if isinstance(port, int) else start.runtime.port  # a port may have a name
    base = start.settings.address.format(service=service, namespace=start.settings.namespace, port=port)
    return f"{base.rstrip('/')}/v1"


def wait_until_reached(server: Server, start: Start) -> str:
    """Wait until the ready server answers a request of ours; returns why it does not, "" when it does."""
    deadline = min(start.deadline, time.monotonic() + REACHED_WITHIN_S)
    while True:
        if lists_our_model(server):
            return ""
        if time.monotonic() > deadline:
            return (
                f"The cluster calls {start.served.name} ready, and {server.url}/models does not list "
                f"{server.served_name} here. Check that a network policy lets this pod reach it, and "
                "QUANTGATE_SERVING_ADDRESS."
            )
        time.sleep(POLL_S)


def engine_of(server: Server) -> str:
    """Which vLLM it is, by its own words; its image where it has none."""
    try:
        version = httpx.get(f"{server.url.removesuffix('/v1')}/version", timeout=5.0).json()["version"]
        return f"vllm {version}"
    except (httpx.TransportError, ValueError, KeyError, TypeError):
        return server.engine


def pod_labels(start: Start) -> str:
    """By which the server's pods are found."""
    label = objects.KSERVE_LABEL if start.settings.kind == KSERVE else INSTANCE
    return f"{label}={start.served.name}"


def container_of(settings: ServingSettings) -> str:
    """In which of a pod's containers vLLM runs."""
    return vllm_pod.KSERVE_CONTAINER if settings.kind == KSERVE else vllm_pod.VLLM_CONTAINER
