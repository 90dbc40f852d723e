"""Why a server on a cluster is not ready, in words for the one who started it: from pods, events, conditions and logs.

A reason is *final* where waiting does not mend it: an image that does not exist, a crash that came twice, a model that
does not fit. A GPU that is taken is not: it may become free, or a node be added, until the deadline.
"""

import re
from dataclasses import dataclass

from components.kubernetes.cluster_client import EVENT, JSON, POD, ClusterClient
from components.servers.local_vllm import ERROR_LINE, LAST_LINES
from components.servers.vllm_pod import FETCHER, KSERVE_FETCHER

LOG_LINES = 200
SECOND = len("2026-11-21T12:00:00")
FETCHERS = (KSERVE_FETCHER, FETCHER)
PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
NOT_THERE = re.compile(r"not found|manifest unknown|unauthorized|denied|invalid reference|InvalidImageName", re.I)
NOT_STARTING = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
STARTING_LATER = re.compile(r"timed out|deadline exceeded|is reserved for|nvidia-container-cli", re.I)
"""What a node says of itself: its caches, its runtime and its GPU driver come up, and then it starts the container."""
LACKING = re.compile(r"Insufficient ([\w./-]*\w)")
GPU_MEMORY = re.compile(
    r"OutOfMemoryError|out of memory|No available memory for the cache blocks|desired GPU memory utilization"
    r"|larger than the (?:maximum number of tokens|available KV cache)|larger than available KV cache",
    re.I,
)
SPEC_REFUSED = ("RuntimeNotRecognized", "RuntimeDisabled", "NoSupportingRuntime", "InvalidPredictorSpec")
STORAGE_INITIALIZER = "Raise `memoryLimit` of `storageInitializer` in KServe's ConfigMap inferenceservice-config."
ASK_FOR_LESS = ", or change QUANTGATE_SERVING_GPUS, _MEMORY, _NODE_SELECTOR or _TOLERATIONS"
ANOTHER_TRY = 1
"""How many restarts a container gets before its crash is final."""


@dataclass(frozen=True)
class Reason:
    """What keeps a server from being ready."""

    text: str
    final: bool = False


def why_not_ready(cluster: ClusterClient, seen: JSON, labels: str, container: str, less: str = ASK_FOR_LESS) -> Reason:
    """The reason, told by the newest pod of these labels, or by the object itself where it has no pod yet.

    `less` is how to ask for less than no node has.

    What is older than the object is of an earlier start of that name, and the garbage collector has not come to it.
    """
    since = created(seen)
    pods = [pod for pod in cluster.listed(POD, labels=labels)[0] if "deletionTimestamp" not in pod["metadata"]]
    pods = sorted((pod for pod in pods if created(pod) >= since), key=lambda pod: (created(pod), not evicted(pod)))
    events = [each for each in warnings(cluster, seen["metadata"]["name"]) if last_seen(each) >= since]
    if refused := refused_by_kserve(seen):
        return refused
    if not pods:
        return without_pods(seen, events)
    if is_up(pods[-1]):
        return Reason(f"its pod is ready, and it is not: {told_of(seen, events) or 'its controller does not say why.'}")
    reason = of_pod(cluster, pods[-1], events, container, less)
    before = next((ended for pod in reversed(pods[:-1]) if (ended := evicted(pod))), None)
    return Reason(f"{reason.text}\nBefore: {before.text}", reason.final) if before else reason


def of_pod(cluster: ClusterClient, pod: JSON, events: list[JSON], container: str, less: str) -> Reason:
    """What keeps a pod from being ready: an eviction first, as it ends the containers, and they do not say why."""
    if reason := evicted(pod):
        return reason
    status = pod.get("status", {})
    statuses = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    for each in statuses:
        if reason := of_container(cluster, pod, each):
            return reason
    begun = any({"running", "terminated"} & each.get("state", {}).keys() for each in statuses)
    return unscheduled(pod, less) or (starting(cluster, pod, container) if begun else not_begun(pod, events))


def warnings(cluster: ClusterClient, name: str) -> list[JSON]:
    """The warnings about the object and what was made of it (its ReplicaSet, its pods), the latest last."""
    found = cluster.listed(EVENT, fields="type=Warning")[0]
    ours = [each for each in found if str(each.get("involvedObject", {}).get("name", "")).startswith(name)]
    return sorted(ours, key=last_seen)


def last_seen(event: JSON) -> str:
    """When an event happened last, to the second; newer reporters fill in other fields than older ones."""
    series = event.get("series") or {}
    told = event.get("lastTimestamp") or series.get("lastObservedTime") or event.get("eventTime")
    return str(told)[:SECOND] if told else created(event)


def created(obj: JSON) -> str:
    """When the object was made, to the second."""
    return str(obj["metadata"].get("creationTimestamp", ""))[:SECOND]


def refused_by_kserve(seen: JSON) -> Reason | None:
    """What KServe says it cannot make of the object."""
    told = seen.get("status", {}).get("modelStatus", {}).get("lastFailureInfo", {})
    if told.get("reason") not in SPEC_REFUSED:
        return None
    return Reason(f"KServe refuses it: {told['reason']}: {told.get('message', '')}", final=True)


def without_pods(seen: JSON, events: list[JSON]) -> Reason:
    """Why no pod was made: a quota, a policy, a controller that does not run."""
    if failed := [each["message"] for each in events if each.get("reason") == "FailedCreate"]:
        return Reason(f"No pod could be made for it: {failed[-1]}")
    if told := told_of(seen, events):
        return Reason(f"It has no pod: {told}")
    if not seen.get("status"):
        return Reason("no controller has looked at it. Check that the one of its kind (KServe's) runs.")
    return Reason("it has no pod yet.")


def told_of(seen: JSON, events: list[JSON]) -> str:
    """What the object's controller says of it: by a condition or, as KServe where it fails, by an event alone."""
    conditions = seen.get("status", {}).get("conditions", ())
    if told := [each for each in conditions if each["status"] != "True" and each.get("message")]:
        return f"{told[0]['type']}: {told[0].get('reason', '')}: {told[0]['message']}"
    about = [each for each in events if each["involvedObject"]["name"] == seen["metadata"]["name"]]
    return f"{about[-1].get('reason', '')}: {about[-1].get('message', '')}" if about else ""


def is_up(pod: JSON) -> bool:
    """Whether the kubelet calls the pod ready."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def of_container(cluster: ClusterClient, pod: JSON, status: JSON) -> Reason | None:
    """What is wrong with one of the pod's containers; None when nothing is."""
    waiting = status.get("state", {}).get("waiting", {})
    why, said = waiting.get("reason", ""), waiting.get("message", "")
    if why in PULLING:
        there = "Check its name and that the nodes may pull it (imagePullSecrets of the service account)."
        final = why in PULLING[2:] or bool(NOT_THERE.search(said))
        return Reason(f"The image {status.get('image')} cannot be pulled: {why}: {said} {there}", final)
    if why in NOT_STARTING:
        final = not STARTING_LATER.search(said)
        return Reason(f"The container {status['name']} cannot be started: {why}: {said}", final)
    restarted = status.get("lastState", {}).get("terminated")
    ended = status.get("state", {}).get("terminated") or restarted
    in_error = ended and (ended.get("exitCode") or why == "CrashLoopBackOff")  # no server ends for a good reason
    if not ended or not in_error or status.get("ready"):
        return None
    return crashed(cluster, pod, status, ended, previous="terminated" not in status.get("state", {}))


def crashed(cluster: ClusterClient, pod: JSON, status: JSON, ended: JSON, *, previous: bool) -> Reason:
    """Why a container ended, as far as its exit and its last lines tell."""
    name, restarts = status["name"], int(status.get("restartCount", 0))
    lines = cluster.log(pod["metadata"]["name"], name, LOG_LINES, previous=previous)
    again = restarts >= ANOTHER_TRY and "running" not in status.get("state", {})  # else its other try is under way
    if ended.get("reason") == "OOMKilled":
        limit = limits(pod, name).get("memory", "its memory limit")
        more = STORAGE_INITIALIZER if name == KSERVE_FETCHER else "Raise QUANTGATE_SERVING_MEMORY."
        what = f"The container {name} was killed: it needs more main memory than {limit}. {more}"
        return Reason(with_log(what, name, lines), final=True)
    if name in FETCHERS:
        what = (
            f"The weights could not be fetched (exit status {ended['exitCode']}, {restarts} restarts). Check the S3 "
            "endpoint and credentials that the serving account has."
        )
        return Reason(with_log(what, name, lines), again)
    if any(GPU_MEMORY.search(line) for line in lines):
        gpus = ", ".join(f"{value} {key}" for key, value in limits(pod, name).items() if "/" in key) or "no GPU"
        what = (
            f"vLLM ran out of GPU memory on {gpus}. Give it more or larger ones (QUANTGATE_SERVING_GPUS, "
            "QUANTGATE_SERVING_NODE_SELECTOR), or less to hold (QUANTGATE_SERVING_OPTIONS=--max-model-len …)."
        )
        return Reason(with_log(what, name, lines), final=True)
    return Reason(with_log(f"vLLM ended (exit status {ended['exitCode']}, {restarts} restarts).", name, lines), again)


def with_log(what: str, container: str, lines: list[str]) -> str:
    """What happened, the first error of the log and its last lines."""
    told = "\n".join(f"  {line}" for line in lines[-LAST_LINES:]) or "  (it wrote nothing)"
    first = next((found[0] for line in lines if (found := ERROR_LINE.search(line))), "")
    cause = f" {first}" if first else ""
    return f"{what}{cause}\nLast lines of the container {container}:\n{told}"


def limits(pod: JSON, container: str) -> dict[str, str]:
    """What a container of the pod may have at most."""
    spec = pod.get("spec", {})
    all_of_them = (*spec.get("initContainers", ()), *spec.get("containers", ()))
    found: JSON = next((each for each in all_of_them if each["name"] == container), {})
    may: dict[str, str] = found.get("resources", {}).get("limits", {})
    return may


def unscheduled(pod: JSON, less: str) -> Reason | None:
    """What no node has."""
    conditions = pod.get("status", {}).get("conditions", ())
    told = next((each for each in conditions if each["type"] == "PodScheduled" and each["status"] == "False"), None)
    if told is None:
        return None
    lacking = sorted(set(LACKING.findall(told.get("message", ""))))
    asked = {key: value for each in pod.get("spec", {}).get("containers", ()) for key, value in requests(each).items()}
    what = ", ".join(f"{each} (it asks for {asked[each]})" if each in asked else each for each in lacking)
    short = f": not enough {what}" if what else ""
    return Reason(
        f"No node can take it{short}. The scheduler says: {told.get('message', '')} Free or add a node that can{less}."
    )


def requests(container: JSON) -> dict[str, str]:
    """What a container asks for."""
    asked: dict[str, str] = container.get("resources", {}).get("requests", {})
    return asked


def evicted(pod: JSON) -> Reason | None:
    """What a node says of a pod that it ended."""
    status = pod.get("status", {})
    if status.get("phase") != "Failed" or not status.get("reason"):
        return None
    return Reason(f"Its pod was ended: {status['reason']}: {status.get('message', '')}")


def not_begun(pod: JSON, events: list[JSON]) -> Reason:
    """What a pod on a node waits for that runs nothing yet: a volume, or what the last warning about it says."""
    about = [each for each in events if each["involvedObject"]["name"] == pod["metadata"]["name"]]
    phase = f"its pod is {pod.get('status', {}).get('phase', 'Pending')}"
    if not about:
        return Reason(f"{phase}.")
    why, said = about[-1].get("reason", ""), about[-1].get("message", "")
    if why in ("FailedMount", "FailedAttachVolume"):
        return Reason(f"A volume of its pod cannot be mounted: {said}")
    return Reason(f"{phase}: {why}: {said}")


def starting(cluster: ClusterClient, pod: JSON, container: str) -> Reason:
    """How far a pod is that runs, and that nothing is wrong with."""
    status = pod.get("status", {})
    fetching = [each["name"] for each in status.get("initContainerStatuses", ()) if "running" in each.get("state", {})]
    name = fetching[0] if fetching else container
    if not fetching and not any("running" in each.get("state", {}) for each in status.get("containerStatuses", ())):
        return Reason(f"its pod is {status.get('phase', 'Pending')}.")
    what = "its weights are still being fetched." if fetching else "vLLM is still starting."
    return Reason(with_log(what, name, cluster.log(pod["metadata"]["name"], name, LAST_LINES, previous=False)))
