"""Follow a server through the replacement of its pod: by a drained node, a preempted spot node, an eviction.

The cluster starts another pod for the same object. It answers at the same address, after as long as a first start. Its
answers may be mixed with those of the first pod only if it is the same server: the same weights, image and settings.
A server that ends by itself, in the same pod, is not replaced: that is the variant's failure.
"""

import json
import time

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import JSON, POD
from quantgate.components.kubernetes.owner import run_name
from quantgate.components.models.digest import stored_state
from quantgate.components.run.artifacts import Server, ServerPod, Weights
from quantgate.components.run.results import RunResults
from quantgate.components.run.server_identity import LLAMA_CPP
from quantgate.components.servers import kserve
from quantgate.components.servers.cluster_engine import engine_of
from quantgate.components.servers.cluster_settings import ServingSettings
from quantgate.components.servers.kserve import Start
from quantgate.components.servers.probes import answers_strangers, lists_our_model, refused_key
from quantgate.components.servers.reported import described
from quantgate.components.servers.vllm_pod import Served
from quantgate.components.servers.why_not_ready import engine_in, evicted, of_container


def server_again(server: Server, results: str, settings: ServingSettings, cause: str = "") -> Server:
    """The server as it answers now; waits for a replaced pod as long as for the first start.

    `cause` is why a call failed, if one did. Raises PrerequisiteError with it when the pod is the same and answers, and
    with the cluster's reason when the server does not come back, or is not the same server.
    """
    cluster = kserve.patient_client(settings)
    served = Served(run_name(cluster, results), server.variant, "", ())
    settings, runtime = engine_of(cluster, settings, gguf=server.engine_name == LLAMA_CPP)
    start = Start(cluster, settings, served, runtime, cluster.deadline)
    answered_at_once = lists_our_model(server)
    if not answered_at_once:
        print(f"quantgate: {served.name} does not answer; waiting up to {settings.ready_within_s} s for it", flush=True)
        wait_until_back(start, server, cause)
    pod = kserve.pod_of(start)
    if crash := crash_of(start, server.pod):
        raise PrerequisiteError(f"{crash} {cause}".strip())
    if pod is None or server.pod is None or pod.uid == server.pod.uid:
        if cause and answered_at_once:
            raise PrerequisiteError(cause)
        return server
    check_same(start, server, pod, results)
    print(f"quantgate: Kubernetes replaced the pod of {served.name}; the same server answers again", flush=True)
    return server.model_copy(update={"pod": pod, "replaced": server.replaced + 1})


def wait_until_back(start: Start, server: Server, cause: str) -> None:
    """Wait until the server lists our model; raises PrerequisiteError with the reason why it does not."""
    reason = "the cluster has reported nothing yet."
    while not lists_our_model(server):
        current = start.cluster.get(start.kind, start.served.name)
        if current is None or "deletionTimestamp" in current["metadata"]:
            raise PrerequisiteError(
                f"{start.kind} {start.served.name} was deleted while it was in use. {cause}".strip()
            )
        if crash := crash_of(start, server.pod):
            raise PrerequisiteError(f"{crash} {cause}".strip())
        if refusal := refused_key(server):  # a new pod has the same key
            raise PrerequisiteError(f"{refusal[0].upper()}{refusal[1:]} {cause}".strip())
        why = kserve.reason_of(start, current)
        reason = why.text
        if why.final or time.monotonic() > start.deadline:
            within = f"within {start.settings.ready_within_s} s"
            raise PrerequisiteError(f"The server did not come back {within}: {reason} {cause}".strip())
        time.sleep(kserve.POLL_S)


def crash_of(start: Start, known: ServerPod | None) -> str:
    """Why the engine ended by itself in the known pod; "" while it runs, and when the pod is being replaced."""
    if known is None:
        return ""
    for pod in start.cluster.listed(POD, labels=kserve.pod_labels(start))[0]:
        metadata = pod["metadata"]
        if metadata["uid"] != known.uid or "deletionTimestamp" in metadata or evicted(pod):
            continue
        for status in pod.get("status", {}).get("containerStatuses", ()):
            if reason := of_container(start.cluster, pod, status):
                return reason.text
            if status["name"] == kserve.container_of(start) and restarts_of(status) > known.restarts:
                engine, count = engine_in(status["name"]), restarts_of(status)
                return f"{engine} ended and was started again in the same pod ({count} restarts)."
    return ""


def restarts_of(status: JSON) -> int:
    """How often a container was started again in its pod."""
    return int(status.get("restartCount", 0))


def check_same(start: Start, server: Server, pod: ServerPod, results: str) -> None:
    """Raise PrerequisiteError unless the new pod serves the same weights with the same engine and settings."""
    weights = RunResults(results).weights(server.variant).read(Weights)
    current = start.cluster.get(start.kind, start.served.name)
    differences = []
    if server.identity and weights:
        expected = kserve.identity_here(weights, start.settings, server.max_model_len)
        now = described(server.model_copy(update={"identity": expected})).identity
        differences += [
            f"its {name} is {getattr(now, name)!r}, before {value!r}"
            for name, value in server.identity
            if value != getattr(now, name)
        ]
        if weights.uri not in json.dumps((current or {}).get("spec", {})):
            differences.append(f"it does not serve the weights at {weights.uri}")
        elif server.weights_state and stored_state(weights.uri) != server.weights_state:
            differences.append(f"the weights at {weights.uri} were written to since the first start")
    if server.pod and server.pod.image_id and pod.image_id and server.pod.image_id != pod.image_id:
        differences.append(f"its image is {pod.image_id}, before {server.pod.image_id}")
    if server.key_secret and (open_door := answers_strangers(server)):
        differences.append(open_door.rstrip("."))
    if (engine := described(server).engine) != server.engine:
        differences.append(f"its engine is {engine}, before {server.engine}")
    if differences:
        raise PrerequisiteError(
            f"Kubernetes replaced the pod of {start.served.name}, and the new one is another server: "
            f"{'; '.join(differences)}. Answers of two servers are not mixed: run the variant again."
        )
