"""Why a server on a cluster is not ready, in words for the one who started it: from pods, events, conditions and logs.

A reason is *final* where waiting does not mend it: an image that does not exist, a crash that came twice, a model that
does not fit. A GPU that is taken is not: it may become free, or a node be added, until the deadline.
"""

import re
from dataclasses import dataclass

from components.serving.cluster_api import EVENT, JSON, POD, Cluster
from components.serving.local import ERROR_TOLD, LAST_LINES
from components.serving.vllm_pod import FETCHER, KSERVE_FETCHER

LOG_LINES = 200
FETCHERS = (KSERVE_FETCHER, FETCHER)
PULLING = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
NOT_THERE = re.compile(r"not found|manifest unknown|unauthorized|denied|invalid reference|InvalidImageName", re.I)
NOT_STARTING = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
LACKING = re.compile(r"Insufficient ([\w./-]*\w)")
GPU_MEMORY = re.compile(
    r"OutOfMemoryError|out of memory|No available memory for the cache blocks|desired GPU memory utilization"
    r"|larger than the (?:maximum number of tokens|available KV cache)|larger than available KV cache",
    re.I,
)
SPEC_REFUSED = ("RuntimeNotRecognized", "RuntimeDisabled", "NoSupportingRuntime", "InvalidPredictorSpec")
ANOTHER_TRY = 1
"""How many restarts a container gets before its crash is final."""


@dataclass(frozen=True)
class Reason:
    """What keeps a server from being ready."""

    text: str
    final: bool = False


def why_not_ready(cluster: Cluster, seen: JSON, labels: str, container: str) -> Reason:
    """The reason, told by the newest pod of these labels, or by the object itself where it has no pod yet."""
    found = [pod for pod in cluster.listed(POD, labels=labels)[0] if "deletionTimestamp" not in pod["metadata"]]
    events = warnings(cluster, seen["metadata"]["name"])
    if refused := refused_by_kserve(seen):
        return refused
    if not found:
        return without_pods(seen, events)
    pod = max(found, key=lambda each: str(each["metadata"].get("creationTimestamp", "")))
    status = pod.get("status", {})
    for each in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        if reason := of_container(cluster, pod, each):
            return reason
    return unscheduled(pod) or evicted(pod) or unmounted(pod, events) or starting(cluster, pod, container)


def warnings(cluster: Cluster, name: str) -> list[JSON]:
    """The warnings about the object and what was made of it (its ReplicaSet, its pods), the latest last."""
    found = cluster.listed(EVENT, fields="type=Warning")[0]
    ours = [each for each in found if str(each.get("involvedObject", {}).get("name", "")).startswith(name)]
    return sorted(ours, key=lambda each: str(each.get("lastTimestamp") or each["metadata"].get("creationTimestamp")))


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
    conditions = seen.get("status", {}).get("conditions", ())
    if told := [each for each in conditions if each["status"] != "True" and each.get("message")]:
        return Reason(f"It has no pod: {told[0]['type']}: {told[0].get('reason', '')}: {told[0]['message']}")
    if not seen.get("status"):
        return Reason("no controller has looked at it. Check that the one of its kind (KServe's) runs.")
    return Reason("it has no pod yet.")


def of_container(cluster: Cluster, pod: JSON, status: JSON) -> Reason | None:
    """What is wrong with one of the pod's containers; None when nothing is."""
    waiting = status.get("state", {}).get("waiting", {})
    why, said = waiting.get("reason", ""), waiting.get("message", "")
    if why in PULLING:
        there = "Check its name and that the nodes may pull it (imagePullSecrets of the service account)."
        final = why in PULLING[2:] or bool(NOT_THERE.search(said))
        return Reason(f"The image {status.get('image')} cannot be pulled: {why}: {said} {there}", final)
    if why in NOT_STARTING:
        return Reason(f"The container {status['name']} cannot be started: {why}: {said}", final=True)
    restarted = status.get("lastState", {}).get("terminated")
    ended = status.get("state", {}).get("terminated") or restarted
    if not ended or not ended.get("exitCode") or status.get("ready"):
        return None
    return crashed(cluster, pod, status, ended, previous="terminated" not in status.get("state", {}))


def crashed(cluster: Cluster, pod: JSON, status: JSON, ended: JSON, *, previous: bool) -> Reason:
    """Why a container ended, as far as its exit and its last lines tell."""
    name, restarts = status["name"], int(status.get("restartCount", 0))
    lines = cluster.log(pod["metadata"]["name"], name, LOG_LINES, previous=previous)
    again = restarts >= ANOTHER_TRY
    if ended.get("reason") == "OOMKilled":
        limit = limits(pod, name).get("memory", "its memory limit")
        what = (
            f"The container {name} was killed: it needs more main memory than {limit}. Raise QUANTGATE_SERVING_MEMORY."
        )
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
    first = next((found[0] for line in lines if (found := ERROR_TOLD.search(line))), "")
    cause = f" {first}" if first else ""
    return f"{what}{cause}\nLast lines of the container {container}:\n{told}"


def limits(pod: JSON, container: str) -> dict[str, str]:
    """What a container of the pod may have at most."""
    spec = pod.get("spec", {})
    all_of_them = (*spec.get("initContainers", ()), *spec.get("containers", ()))
    found: JSON = next((each for each in all_of_them if each["name"] == container), {})
    may: dict[str, str] = found.get("resources", {}).get("limits", {})
    return may


def unscheduled(pod: JSON) -> Reason | None:
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
        f"No node can take it{short}. The scheduler says: {told.get('message', '')} Free or add a node that can, or "
        "change QUANTGATE_SERVING_GPUS, _MEMORY, _NODE_SELECTOR or _TOLERATIONS."
    )


def requests(container: JSON) -> dict[str, str]:
    """What a container asks for."""
    asked: dict[str, str] = container.get("resources", {}).get("requests", {})
    return asked


def evicted(pod: JSON) -> Reason | None:
    """What a node says of a pod that it ended."""
    status = pod.get("status", {})
    if status.get("phase") != "Failed":
        return None
    return Reason(f"Its pod was ended: {status.get('reason', '')}: {status.get('message', '')}")


def unmounted(pod: JSON, events: list[JSON]) -> Reason | None:
    """Which volume the pod waits for."""
    of_pod = [each for each in events if each["involvedObject"]["name"] == pod["metadata"]["name"]]
    last = of_pod[-1] if of_pod else {}
    if last.get("reason") not in ("FailedMount", "FailedAttachVolume"):
        return None
    return Reason(f"A volume of its pod cannot be mounted: {last['message']}")


def starting(cluster: Cluster, pod: JSON, container: str) -> Reason:
    """How far a pod is that nothing is wrong with."""
    status = pod.get("status", {})
    fetching = [each["name"] for each in status.get("initContainerStatuses", ()) if "running" in each.get("state", {})]
    name = fetching[0] if fetching else container
    if not fetching and not any("running" in each.get("state", {}) for each in status.get("containerStatuses", ())):
        return Reason(f"its pod is {status.get('phase', 'Pending')}.")
    what = "its weights are still being fetched." if fetching else "vLLM is still starting."
    return Reason(with_log(what, name, cluster.log(pod["metadata"]["name"], name, LAST_LINES, previous=False)))
