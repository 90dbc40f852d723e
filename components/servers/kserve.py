"""Serve a variant on a cluster, through KServe or with a plain Deployment, and stop the server again.

The functions are those of `local_vllm.py`. `objects.py` builds the objects. A Lease is created first and owns all
others, so that an interrupted start leaves nothing behind once the Lease is deleted. The names are computed from run
and variant: a second attempt continues with the objects of the first.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from quantgate.components.errors import PrerequisiteError, ServerGoneError
from quantgate.components.kubernetes import cluster_lease, owner
from quantgate.components.kubernetes.cluster_client import (
    DEPLOYMENT,
    INFERENCE_SERVICE,
    JSON,
    LEASE,
    POD,
    SECRET,
    SERVICE,
    ClusterClient,
    ObjectKind,
)
from quantgate.components.kubernetes.labels import INSTANCE, MANAGED_BY, MANAGER
from quantgate.components.kubernetes.owner import run_name, workflow
from quantgate.components.run.artifacts import Server, ServerPod, Weights
from quantgate.components.run.server_identity import LLAMA_CPP, ServerIdentity
from quantgate.components.servers import llama_pod, objects, vllm_pod
from quantgate.components.servers.cluster_engine import engine_for
from quantgate.components.servers.cluster_settings import KSERVE, LOCAL, ServingSettings
from quantgate.components.servers.llama_options import SLOTS
from quantgate.components.servers.probes import answers_strangers, lists_our_model, why_not_listed
from quantgate.components.servers.reported import described
from quantgate.components.servers.start_key import servers_secret, start_key
from quantgate.components.servers.vllm_options import cpu_variables
from quantgate.components.servers.vllm_pod import Runtime, Served
from quantgate.components.servers.why_not_ready import ASK_FOR_LESS, Reason, created, evicted, why_not_ready

WATCHED_S = 5
POLL_S = 1.0
REACHED_WITHIN_S = 60.0


@dataclass(frozen=True)
class Start:
    """One attempt to serve a variant: its objects, its cluster, and the deadline for the server to be ready."""

    cluster: ClusterClient
    settings: ServingSettings
    served: Served
    runtime: Runtime
    deadline: float
    """Of the monotonic clock."""

    @property
    def owned_objects(self) -> list[tuple[ObjectKind, JSON]]:
        """The objects that the lease owns."""
        return objects.manifests(self.served, self.runtime, self.settings)

    @property
    def kind(self) -> ObjectKind:
        """The kind of the object that becomes ready."""
        return INFERENCE_SERVICE if self.settings.kind == KSERVE else DEPLOYMENT


def deploy(weights: Weights, model_path: Path, results: str, settings: ServingSettings, window: int) -> Server:
    """Serve the weights and wait until the server answers this process; `model_path` contains the model's tokenizer.

    `window` is the most tokens of a prompt and its answer.

    When the server does not start, it is removed, and the returned Server has a `failure` with the cluster's reason.
    """
    if not weights.uri.startswith("s3://"):
        raise PrerequisiteError(
            f"A cluster cannot read weights at {weights.uri}. Give s3://BUCKET/PREFIX as the store."
        )
    servers_secret()  # raises before anything is created
    started = time.monotonic()
    cluster = patient_client(settings)
    settings, runtime = engine_for(weights, cluster, settings)
    options = objects.options_of(runtime, settings, window)
    identity = objects.identity_of(weights.digest, runtime, settings, window)
    # float32 is possible on a CPU
    variables = {} if settings.gpus or weights.is_gguf else cpu_variables(model_path, window, value_bytes=4)
    names = tuple(variables.items())
    served = Served(run_name(cluster, results), weights.variant, weights.uri, options, names, weights.digest)
    start = Start(cluster, settings, served, runtime, cluster.deadline)
    where = f"kubectl -n {settings.namespace}"
    server = Server(
        variant=weights.variant,
        served_name=served.served_name,
        model_path=str(model_path),
        max_model_len=window,
        slots=SLOTS if weights.is_gguf else 0,
        log=f"{where} logs -l {pod_labels(start)} -c {container_of(start)}",
        command=f"{where} get {start.kind}/{served.name} -o yaml",
        engine=identity.engine,
        identity=identity,
    )
    try:
        lease = create_lease(start)
        start = with_key(start, lease)
        server = server.model_copy(update={"key_secret": start.served.key_secret})
        with cluster_lease.renewing(cluster, served.name):  # a start may take longer than a lease
            create(start, lease)
            failure = wait_until_ready(start)
            server = server if failure else server.model_copy(update={"url": address(start)})
            failure = failure or wait_until_reached(server, start)
            server = server if failure else server.model_copy(update={"pod": pod_of(start)})
    except PrerequisiteError as error:
        failure = str(error)
    if failure:
        try:
            remove(cluster, served)
        except PrerequisiteError as error:
            failure += f"\nIt could not be removed ({error}); it goes when its lease ends."
        return server.model_copy(update={"failure": failure, "startup_s": time.monotonic() - started})
    return described(server).model_copy(update={"startup_s": time.monotonic() - started})


def patient_client(settings: ServingSettings) -> ClusterClient:
    """A client that waits out a cluster in trouble as long as a server may take to start: controllers are restarted."""
    return ClusterClient(settings.namespace, deadline=time.monotonic() + settings.ready_within_s)


def undeploy(variant: str, results: str, settings: ServingSettings) -> None:
    """Remove the variant's server, even if `deploy` was killed before it recorded one; does nothing without one."""
    cluster = patient_client(settings)
    remove(cluster, Served(run_name(cluster, results), variant, "", ()))


def remove(cluster: ClusterClient, served: Served) -> None:
    """Delete the leases of this run and variant; the cluster then deletes the objects that they own."""
    labels = ",".join(f"{name}={value}" for name, value in served.labels.items())
    for lease in cluster.listed(LEASE, labels=labels)[0]:
        cluster.delete(LEASE, lease["metadata"]["name"], uid=lease["metadata"]["uid"])


def renew(variant: str, results: str, settings: ServingSettings) -> None:
    """Renew the variant's lease; raises ServerGoneError when its server was removed."""
    cluster = ClusterClient(settings.namespace)
    cluster_lease.renew(cluster, Served(run_name(cluster, results), variant, "", ()).name)


@contextmanager
def kept_alive(server: Server, results: str, settings: ServingSettings) -> Iterator[None]:
    """Renew the server's lease during the block; a step must be in this block while it uses the server.

    Raises ServerGoneError when the server was removed before the block or during it. Does nothing for a server on this
    machine, which has another kind of lease, and for one that was not started.
    """
    if settings.kind == LOCAL or server.failure or not server.url:
        yield
        return
    cluster = patient_client(settings)
    with cluster_lease.renewing(cluster, Served(run_name(cluster, results), server.variant, "", ()).name):
        yield


def identity_here(weights: Weights, settings: ServingSettings, window: int) -> ServerIdentity:
    """The identity of the server that `deploy` would start for the weights."""
    settings, runtime = engine_for(weights, patient_client(settings), settings)
    return objects.identity_of(weights.digest, runtime, settings, window)


def create(start: Start, lease: JSON) -> None:
    """Create the objects that the lease owns; keep those that an earlier attempt has created."""
    secret = objects.key_secret(start.served, start_key(start.served.key_secret))
    start.cluster.create(SECRET, owned_by(lease, secret))  # or an earlier attempt created it, with the same key
    for kind, body in start.owned_objects:
        while start.cluster.create(kind, owned_by(lease, body)) is None:
            existing = start.cluster.get(kind, start.served.name)
            if existing and is_owned(existing, lease):
                break  # an earlier attempt created it, with the same settings: its lease has the same digest
            if existing and existing["metadata"].get("labels", {}).get(MANAGED_BY) != MANAGER:
                raise PrerequisiteError(
                    f"{kind} {start.served.name} in the namespace {start.settings.namespace} is not quantgate's. "
                    "Delete or rename it."
                )
            wait_until_deleted(start, kind)


def with_key(start: Start, lease: JSON) -> Start:
    """The start with an API key of its own: a later start has a lease with another uid, so another Secret and key."""
    return replace(start, served=replace(start.served, key_secret=f"{start.served.name}-{lease['metadata']['uid']}"))


def owned_by(lease: JSON, body: JSON) -> JSON:
    """The object as one that the cluster deletes with the lease."""
    return body | {"metadata": body["metadata"] | {"ownerReferences": [owner.reference(lease)]}}


def create_lease(start: Start) -> JSON:
    """A new lease, or the renewed lease of an earlier attempt with the same settings."""
    spec, name = objects.digest(start.owned_objects), start.served.name
    owner = workflow(start.cluster)
    while True:
        now = cluster_lease.timestamp(datetime.now(UTC))
        body = objects.lease(name, start.served.labels, now, start.settings.lease_s, owner, spec)
        if created := start.cluster.create(LEASE, body):
            return created
        if (existing := start.cluster.get(LEASE, name)) is None:
            continue  # it was deleted between the two calls
        metadata = existing["metadata"]
        if "deletionTimestamp" in metadata:
            wait_until_deleted(start, LEASE)
        elif metadata.get("annotations", {}).get(objects.SPEC) == spec:
            try:
                return cluster_lease.renew(start.cluster, name, metadata["uid"])
            except ServerGoneError:  # the reaper has deleted it
                wait_until_deleted(start, LEASE)
        else:  # an attempt with other settings
            start.cluster.delete(LEASE, name, uid=metadata["uid"])


def wait_until_deleted(start: Start, kind: ObjectKind) -> None:
    """Wait a moment for an object that is being deleted; raises PrerequisiteError after the start's deadline."""
    if time.monotonic() > start.deadline:
        raise PrerequisiteError(
            f"{kind} {start.served.name} of an earlier start is still being deleted after "
            f"{start.settings.ready_within_s} s. See what keeps it: its finalizers, or pods that do not end."
        )
    time.sleep(POLL_S)


def is_owned(existing: JSON, lease: JSON) -> bool:
    """Whether the object belongs to the lease and is not being deleted; an earlier lease's object will be collected."""
    metadata = existing["metadata"]
    owners = [reference["uid"] for reference in metadata.get("ownerReferences", ())]
    return lease["metadata"]["uid"] in owners and "deletionTimestamp" not in metadata


def wait_until_ready(start: Start) -> str:
    """Wait until the cluster reports the server ready; returns "" then, and otherwise the reason why it is not."""
    reason = Reason("the cluster has reported nothing yet")
    while (left_s := start.deadline - time.monotonic()) > 0:
        listed, version = start.cluster.listed(start.kind, fields=f"metadata.name={start.served.name}")
        current = listed[0] if listed else None
        if is_ready(start, current):
            return ""
        if current:
            reason = reason_of(start, current)
            if reason.final:
                return reason.text
        began, within_s = time.monotonic(), min(WATCHED_S, max(1, int(left_s)))
        for change in start.cluster.changes(start.kind, start.served.name, version, within_s) if current else ():
            if (current := change) is None or is_ready(start, change):
                break
        if current is None:
            return f"{start.kind} {start.served.name} was deleted while it started, by the reaper or by a user."
        if is_ready(start, current):
            return ""
        time.sleep(max(0.0, POLL_S - (time.monotonic() - began)))  # a watch may end as soon as it begins
    return f"It was not ready after {start.settings.ready_within_s} s: {reason.text}"


def is_ready(start: Start, current: JSON | None) -> bool:
    """Whether the object exists and its controller reports it ready; for a Deployment, in its newest version.

    An InferenceService does not report which version was observed: its `observedGeneration` is its Deployment's.
    """
    if current is None:
        return False
    status = current.get("status", {})
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", ())}
    if start.settings.kind == KSERVE:
        return conditions.get("Ready") == "True"
    is_newest = status.get("observedGeneration", 0) >= current["metadata"].get("generation", 0)
    return is_newest and conditions.get("Available") == "True"


def address(start: Start) -> str:
    """The base URL of the server's OpenAI API.

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
    """Wait until the ready server answers this process and nobody else; returns "" then, and otherwise what to check.

    It is asked without its key first: a server that has not seen the key cannot tell it from a wrong one.
    """
    deadline = min(start.deadline, time.monotonic() + REACHED_WITHIN_S)
    while True:
        if open_door := answers_strangers(server):
            return f"{open_door} Look for other pods with the labels of {start.served.name}."
        if lists_our_model(server):
            return ""
        if time.monotonic() > deadline:
            return f"The cluster reports {start.served.name} as ready, but {why_not_listed(server)}"
        time.sleep(POLL_S)


def reason_of(start: Start, current: JSON) -> Reason:
    """Why the server's object is not ready."""
    less = llama_pod.ASK_FOR_LESS if start.runtime.package == LLAMA_CPP else ASK_FOR_LESS
    return why_not_ready(start.cluster, current, pod_labels(start), container_of(start), less)


def pod_of(start: Start) -> ServerPod | None:
    """The server's newest pod that runs; None when there is none."""
    pods = start.cluster.listed(POD, labels=pod_labels(start))[0]
    running = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and not evicted(pod)]
    if not running:
        return None
    pod = max(running, key=created)
    statuses = pod.get("status", {}).get("containerStatuses", ())
    status: JSON = next((entry for entry in statuses if entry["name"] == container_of(start)), {})
    return ServerPod(
        uid=pod["metadata"]["uid"],
        image_id=status.get("imageID", ""),
        restarts=int(status.get("restartCount", 0)),
    )


def pod_labels(start: Start) -> str:
    """The label selector of the server's pods."""
    label = objects.KSERVE_LABEL if start.settings.kind == KSERVE else INSTANCE
    return f"{label}={start.served.name}"


def container_of(start: Start) -> str:
    """The name of the container in which the engine runs."""
    if start.runtime.package == LLAMA_CPP:
        return llama_pod.LLAMA_CONTAINER
    return vllm_pod.KSERVE_CONTAINER if start.settings.kind == KSERVE else vllm_pod.VLLM_CONTAINER
