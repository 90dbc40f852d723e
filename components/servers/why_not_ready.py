"""Why a server on a cluster is not ready, in a message for the user: from pods, events, conditions and logs.

A reason is *final* when waiting does not help: an image that does not exist, a second crash, a model that does not fit.
A busy GPU is not final: until the deadline it may become free, or a node may be added.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from quantgate.components.kubernetes.cluster_client import EVENT, JSON, POD, ClusterClient
from quantgate.components.run.server_identity import LLAMA_CPP
from quantgate.components.servers.first_cause import MEMORY, advice, described, first_cause
from quantgate.components.servers.llama_pod import LLAMA_CONTAINER
from quantgate.components.servers.local_server import LAST_LINES
from quantgate.components.servers.vllm_pod import FETCHER, KSERVE_FETCHER

LOG_LINES = 200
CAUSE_LINES = 5000
"""Of a log that is searched for a cause: the processes of an engine write hundreds of lines after it."""
SECOND = len("2026-11-21T12:00:00")
FETCHERS = (KSERVE_FETCHER, FETCHER)
PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
NOT_THERE = re.compile(r"not found|manifest unknown|unauthorized|denied|invalid reference|InvalidImageName", re.I)
NOT_STARTING = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
STARTING_LATER = re.compile(r"timed out|deadline exceeded|is reserved for|nvidia-container-cli", re.I)
"""Messages of a node that is still starting its caches, runtime or GPU driver; it starts the container afterwards."""
LACKING = re.compile(r"Insufficient ([\w./-]*\w)")
SPEC_REFUSED = ("RuntimeNotRecognized", "RuntimeDisabled", "NoSupportingRuntime", "InvalidPredictorSpec")
MORE_MEMORY = {
    KSERVE_FETCHER: "Raise `memoryLimit` of `storageInitializer` in KServe's ConfigMap inferenceservice-config.",
    FETCHER: "That limit is fixed, and fetching files should never reach it: please report this.",
    LLAMA_CONTAINER: "Raise QUANTGATE_SERVING_LLAMA_MEMORY.",
}
"""What to do when a container other than vLLM's was killed for its memory."""
ASK_FOR_LESS = ", or change QUANTGATE_SERVING_GPUS, _MEMORY, _NODE_SELECTOR or _TOLERATIONS"
ANOTHER_TRY = 1
"""The number of restarts after which a container's crash is final."""


@dataclass(frozen=True)
class Reason:
    """Why a server is not ready."""

    text: str
    final: bool = False


def why_not_ready(
    cluster: ClusterClient, current: JSON, labels: str, container: str, less: str = ASK_FOR_LESS
) -> Reason:
    """The reason, from the newest pod with these labels, or from the object itself when it has no pod yet.

    `less` ends the message for a pod that fits on no node: it says how to request less.

    Pods and events older than the object are ignored: an earlier start of that name left them.
    """
    since = created(current)
    pods = [pod for pod in cluster.listed(POD, labels=labels)[0] if "deletionTimestamp" not in pod["metadata"]]
    pods = sorted((pod for pod in pods if created(pod) >= since), key=lambda pod: (created(pod), not evicted(pod)))
    events = [event for event in warnings(cluster, current["metadata"]["name"]) if last_seen(event) >= since]
    if refused := refused_by_kserve(current):
        return refused
    if not pods:
        return without_pods(current, events)
    if is_up(pods[-1]):
        message = controller_message(current, events) or "its controller does not say why."
        return Reason(f"its pod is ready, and it is not: {message}")
    reason = of_pod(cluster, pods[-1], events, container, less)
    eviction = next((ended for pod in reversed(pods[:-1]) if (ended := evicted(pod))), None)
    return Reason(f"{reason.text}\nBefore: {eviction.text}", reason.final) if eviction else reason


def of_pod(cluster: ClusterClient, pod: JSON, events: list[JSON], container: str, less: str) -> Reason:
    """Why a pod is not ready. An eviction comes first: it ends the containers, and their status does not name it."""
    if reason := evicted(pod):
        return reason
    status = pod.get("status", {})
    statuses = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    for container_status in statuses:
        if reason := of_container(cluster, pod, container_status):
            return reason
    begun = any({"running", "terminated"} & entry.get("state", {}).keys() for entry in statuses)
    return unscheduled(pod, less) or (starting(cluster, pod, container) if begun else not_begun(pod, events))


def warnings(cluster: ClusterClient, name: str) -> list[JSON]:
    """The warnings about the object, its ReplicaSet and its pods; the latest is the last."""
    events = cluster.listed(EVENT, fields="type=Warning")[0]
    ours = [event for event in events if str(event.get("involvedObject", {}).get("name", "")).startswith(name)]
    return sorted(ours, key=last_seen)


def last_seen(event: JSON) -> str:
    """The time of an event's last occurrence, to the second; newer reporters use other fields than older ones."""
    series = event.get("series") or {}
    timestamp = event.get("lastTimestamp") or series.get("lastObservedTime") or event.get("eventTime")
    return str(timestamp)[:SECOND] if timestamp else created(event)


def created(obj: JSON) -> str:
    """The object's creation time, to the second."""
    return str(obj["metadata"].get("creationTimestamp", ""))[:SECOND]


def refused_by_kserve(current: JSON) -> Reason | None:
    """KServe's reason for refusing the object's spec; None when KServe accepts it."""
    failure = current.get("status", {}).get("modelStatus", {}).get("lastFailureInfo", {})
    if failure.get("reason") not in SPEC_REFUSED:
        return None
    return Reason(f"KServe refuses it: {failure['reason']}: {failure.get('message', '')}", final=True)


def without_pods(current: JSON, events: list[JSON]) -> Reason:
    """Why the object has no pod: a quota, a policy, a controller that does not run."""
    if failures := [event["message"] for event in events if event.get("reason") == "FailedCreate"]:
        return Reason(f"No pod could be created for it: {failures[-1]}")
    if message := controller_message(current, events):
        return Reason(f"It has no pod: {message}")
    if not current.get("status"):
        return Reason("no controller has looked at it. Check that the one of its kind (KServe's) runs.")
    return Reason("it has no pod yet.")


def controller_message(current: JSON, events: list[JSON]) -> str:
    """The controller's message about the object: from a condition, or from an event (KServe's failures)."""
    conditions = current.get("status", {}).get("conditions", ())
    if failing := [entry for entry in conditions if entry["status"] != "True" and entry.get("message")]:
        return f"{failing[0]['type']}: {failing[0].get('reason', '')}: {failing[0]['message']}"
    own = [event for event in events if event["involvedObject"]["name"] == current["metadata"]["name"]]
    return f"{own[-1].get('reason', '')}: {own[-1].get('message', '')}" if own else ""


def is_up(pod: JSON) -> bool:
    """Whether the kubelet reports the pod as ready."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def of_container(cluster: ClusterClient, pod: JSON, status: JSON) -> Reason | None:
    """The failure of one of the pod's containers; None when it has not failed."""
    waiting = status.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in PULLING:
        fix = "Check its name and that the nodes may pull it (imagePullSecrets of the service account)."
        final = reason in PULLING[2:] or bool(NOT_THERE.search(message))
        return Reason(f"The image {status.get('image')} cannot be pulled: {reason}: {message} {fix}", final)
    if reason in NOT_STARTING:
        final = not STARTING_LATER.search(message)
        return Reason(f"The container {status['name']} cannot be started: {reason}: {message}", final)
    restarted = status.get("lastState", {}).get("terminated")
    ended = status.get("state", {}).get("terminated") or restarted
    in_error = ended and (ended.get("exitCode") or reason == "CrashLoopBackOff")  # a server should never end
    if not ended or not in_error or status.get("ready"):
        return None
    return crashed(cluster, pod, status, ended, previous="terminated" not in status.get("state", {}))


def crashed(cluster: ClusterClient, pod: JSON, status: JSON, ended: JSON, *, previous: bool) -> Reason:
    """Why a container ended, from its exit status and the last lines of its log."""
    name, restarts = status["name"], int(status.get("restartCount", 0))
    lines = cluster.log(pod["metadata"]["name"], name, CAUSE_LINES, previous=previous)
    cause = first_cause(lines)
    again = restarts >= ANOTHER_TRY and "running" not in status.get("state", {})  # a running one is on its next attempt
    if ended.get("reason") == "OOMKilled":
        limit = limits(pod, name).get("memory", "its memory limit")
        more = MORE_MEMORY.get(name, "Raise QUANTGATE_SERVING_MEMORY.")
        what = f"The container {name} was killed: it needs more main memory than {limit}. {more}"
        return Reason(with_log(what, name, lines), final=True)
    if name in FETCHERS:
        what = (
            f"The model's files could not be fetched (exit status {ended['exitCode']}, {restarts} restarts). Check"
            " the S3 endpoint and credentials that the serving account has."
        )
        return Reason(with_log(what, name, lines), again)
    if MEMORY.search(cause) and name != LLAMA_CONTAINER:
        gpus = ", ".join(f"{value} {key}" for key, value in limits(pod, name).items() if "/" in key) or "no GPU"
        what = (
            f"vLLM ran out of GPU memory on {gpus}. Give it more or larger GPUs (QUANTGATE_SERVING_GPUS, "
            "QUANTGATE_SERVING_NODE_SELECTOR), or run with a shorter window (--max-model-len, which leaves items out)."
        )
        return Reason(with_log(what, name, lines), final=True)
    event = f"{engine_in(name)} ended (exit status {ended['exitCode']}, {restarts} restarts)."
    return Reason(with_log(event, name, lines, wording=described), again or bool(advice(cause)))


def engine_in(container: str) -> str:
    """The name of the engine that runs in a server's container."""
    return LLAMA_CPP if container == LLAMA_CONTAINER else "vLLM"


def with_log(event: str, container: str, lines: list[str], wording: Callable[[str], str] = str) -> str:
    """The event, the first cause in the log in the words of `wording`, and the log's last lines."""
    last_lines = "\n".join(f"  {line}" for line in lines[-LAST_LINES:]) or "  (it wrote nothing)"
    return f"{f'{event} {wording(first_cause(lines))}'.strip()}\nLast lines of the container {container}:\n{last_lines}"


def limits(pod: JSON, container: str) -> dict[str, str]:
    """The resource limits of a container of the pod."""
    spec = pod.get("spec", {})
    containers = (*spec.get("initContainers", ()), *spec.get("containers", ()))
    named: JSON = next((entry for entry in containers if entry["name"] == container), {})
    resource_limits: dict[str, str] = named.get("resources", {}).get("limits", {})
    return resource_limits


def unscheduled(pod: JSON, less: str) -> Reason | None:
    """The resources that no node has; None when the pod is scheduled."""
    refusals = [
        condition.get("message", "")
        for condition in pod.get("status", {}).get("conditions", ())
        if condition["type"] == "PodScheduled" and condition["status"] == "False"
    ]
    if not refusals:
        return None
    message, containers = refusals[0], pod.get("spec", {}).get("containers", ())
    requested = {key: value for container in containers for key, value in requests(container).items()}
    lacking = ", ".join(
        f"{name} (it asks for {requested[name]})" if name in requested else name
        for name in sorted(set(LACKING.findall(message)))
    )
    short = f": not enough {lacking}" if lacking else ""
    return Reason(f"No node can take it{short}. The scheduler says: {message} Free or add a node that can{less}.")


def requests(container: JSON) -> dict[str, str]:
    """The resource requests of a container."""
    resource_requests: dict[str, str] = container.get("resources", {}).get("requests", {})
    return resource_requests


def evicted(pod: JSON) -> Reason | None:
    """The node's reason for ending a pod; None when the pod was not ended."""
    status = pod.get("status", {})
    if status.get("phase") != "Failed" or not status.get("reason"):
        return None
    return Reason(f"Its pod was ended: {status['reason']}: {status.get('message', '')}")


def not_begun(pod: JSON, events: list[JSON]) -> Reason:
    """Why a scheduled pod runs no container yet: a volume, or the last warning about the pod."""
    own = [event for event in events if event["involvedObject"]["name"] == pod["metadata"]["name"]]
    phase = f"its pod is {pod.get('status', {}).get('phase', 'Pending')}"
    if not own:
        return Reason(f"{phase}.")
    reason, message = own[-1].get("reason", ""), own[-1].get("message", "")
    if reason in ("FailedMount", "FailedAttachVolume"):
        return Reason(f"A volume of its pod cannot be mounted: {message}")
    return Reason(f"{phase}: {reason}: {message}")


def starting(cluster: ClusterClient, pod: JSON, container: str) -> Reason:
    """The progress of a pod that runs without a failure."""
    status = pod.get("status", {})
    running = [entry for entry in status.get("initContainerStatuses", ()) if "running" in entry.get("state", {})]
    name = running[0]["name"] if running else container
    if not running and not any("running" in entry.get("state", {}) for entry in status.get("containerStatuses", ())):
        return Reason(f"its pod is {status.get('phase', 'Pending')}.")
    event = "its weights are still being fetched." if running else f"{engine_in(container)} is still starting."
    return Reason(with_log(event, name, cluster.log(pod["metadata"]["name"], name, LAST_LINES, previous=False)))
