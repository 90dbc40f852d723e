"""Why a server on a cluster is not ready: each reason from the cluster's objects, events and logs."""

from collections.abc import Callable

import pytest

from quantgate.components.run.artifacts import Server
from quantgate.components.servers.cluster_settings import DEPLOYMENT, KSERVE
from tests.support.kubernetes_state import JSON, Cluster
from tests.support.on_cluster import cluster, deployed, left, model, settings, vllm

pytestmark = pytest.mark.slow  # many starts wait for their deadline

__all__ = ["cluster", "deployed", "model", "settings", "vllm"]

Deploy = Callable[..., Server]
SOON_S = 0.4
"""A short deadline that still allows all requests of a start on a busy machine."""
PODS, EVENTS = "api/v1/pods", "api/v1/events"
UNSCHEDULABLE = "0/3 nodes are available: 1 node(s) had untolerated taint {team: a}, 2 Insufficient nvidia.com/gpu."
OUT_OF_MEMORY = """INFO 11-21 vLLM API server version 0.32.0
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB
RuntimeError: Engine core initialization failed.
"""
RESOURCES = {"nvidia.com/gpu": "2", "memory": "16Gi"}
POD_SPEC = {
    "initContainers": [{"name": "storage-initializer", "resources": {"limits": {"memory": "1Gi"}}}],
    "containers": [{"name": "kserve-container", "resources": {"requests": RESOURCES, "limits": RESOURCES}}],
}


def with_pod(cluster: Cluster, status: JSON, container: str = "kserve-container", log: str = "", **event: str) -> None:
    """Let the controller create a pod with this status, a log of this container and an event about the pod."""

    def on(what: str, plural: str, obj: JSON) -> None:
        if what == "created" and plural in ("inferenceservices", "deployments"):
            name = obj["metadata"]["name"]
            labels = {"serving.kserve.io/inferenceservice": name, "app.kubernetes.io/instance": name}
            pod = f"{name}-predictor-1"
            metadata = {"name": pod, "labels": labels, "ownerReferences": [{"uid": obj["metadata"]["uid"]}]}
            cluster.create(PODS, {"metadata": metadata, "spec": POD_SPEC, "status": status})
            cluster.logs[pod, container, True] = cluster.logs[pod, container, False] = log
            if event:
                about = {"name": pod, "kind": "Pod"}
                cluster.create(EVENTS, {"metadata": {"name": "e"}, "type": "Warning", "involvedObject": about, **event})

    cluster.on = on


def waiting(reason: str, message: str, **more: object) -> JSON:
    """The status of a waiting container."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": "kserve-container", "image": "vllm/vllm:no", "state": state, **more}


def crashed(container: str, reason: str = "Error", restarts: int = 1) -> JSON:
    """The status of a container that ended once or several times."""
    ended = {"terminated": {"reason": reason, "exitCode": {"OOMKilled": 137, "Completed": 0}.get(reason, 1)}}
    looping = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    if not restarts:
        return {"name": container, "restartCount": 0, "state": ended}
    return {"name": container, "restartCount": restarts, "state": looping, "lastState": ended}


def of(*statuses: JSON, init: bool = False) -> JSON:
    """A pod's status."""
    return {"phase": "Pending", "initContainerStatuses" if init else "containerStatuses": list(statuses)}


@pytest.mark.parametrize(
    ("status", "container", "log", "messages"),
    [
        (
            of(waiting("ImagePullBackOff", "manifest for vllm/vllm:no not found: manifest unknown")),
            "kserve-container",
            "",
            ["The image vllm/vllm:no cannot be pulled", "manifest unknown", "imagePullSecrets"],
        ),
        (
            of(waiting("InvalidImageName", "couldn't parse image name")),
            "kserve-container",
            "",
            ["The image vllm/vllm:no cannot be pulled: InvalidImageName"],
        ),
        (
            of(waiting("CreateContainerConfigError", 'secret "quantgate-s3" not found')),
            "kserve-container",
            "",
            ['cannot be started: CreateContainerConfigError: secret "quantgate-s3" not found'],
        ),
        (
            of(crashed("kserve-container")),
            "kserve-container",
            "INFO starts\nValueError: Unknown quantization method: int3\nINFO bye\n",
            [
                "vLLM ended (exit status 1, 1 restarts). ValueError: Unknown quantization method: int3",
                "Last lines of the container kserve-container:\n  INFO starts",
                "  INFO bye",
            ],
        ),
        (
            of(crashed("kserve-container", restarts=0)),
            "kserve-container",
            OUT_OF_MEMORY,
            ["vLLM ran out of GPU memory on 2 nvidia.com/gpu", "CUDA out of memory", "QUANTGATE_SERVING_GPUS"],
        ),
        (
            of(crashed("kserve-container", restarts=0)),
            "kserve-container",
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.\n",
            ["vLLM ran out of GPU memory", "No available memory for the cache blocks"],
        ),
        (
            of(crashed("kserve-container", restarts=0)),
            "kserve-container",
            "ValueError: The quantization method int3 is not supported for the current GPU\n"
            + 400 * "INFO stops\n"
            + "RuntimeError: Engine core initialization failed. See root cause above.\n",
            [
                (
                    "vLLM ended (exit status 1, 0 restarts). ValueError: The quantization method int3 is not "
                    "supported for the current GPU. vLLM cannot run this format on this device"
                ),
            ],
        ),
        (
            of(crashed("kserve-container", "OOMKilled", restarts=0)),
            "kserve-container",
            "",
            ["needs more main memory than 16Gi. Raise QUANTGATE_SERVING_MEMORY", "(it wrote nothing)"],
        ),
        (
            of(crashed("storage-initializer", "OOMKilled", restarts=0), init=True),
            "storage-initializer",
            "",
            ["storage-initializer was killed: it needs more main memory than 1Gi", "ConfigMap inferenceservice-config"],
        ),
        (
            of(crashed("weights", "OOMKilled", restarts=0), init=True),
            "weights",
            "",
            ["weights was killed: it needs more main memory", "That limit is fixed"],
        ),
        (
            of(crashed("kserve-container", "Completed", restarts=2)),
            "kserve-container",
            "INFO shutting down\n",
            ["vLLM ended (exit status 0, 2 restarts).", "  INFO shutting down"],
        ),
        (
            of(crashed("storage-initializer"), init=True),
            "storage-initializer",
            "botocore.exceptions.ClientError: An error occurred (403) when calling HeadObject: Forbidden\n",
            [
                "The model's files could not be fetched (exit status 1, 1 restarts)",
                "calling HeadObject: Forbidden",
                "S3",
            ],
        ),
    ],
)
def test_a_permanent_fault_is_reported_at_once_and_the_server_is_deleted(
    cluster: Cluster, deployed: Deploy, status: JSON, container: str, log: str, messages: list[str]
) -> None:
    with_pod(cluster, status, container, log)
    failure = deployed().failure
    assert [message for message in messages if message not in failure] == []
    assert left(cluster) == []
    assert "watch inferenceservices" not in cluster.counted()


EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}
SCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": UNSCHEDULABLE}


@pytest.mark.parametrize(
    ("status", "log", "event", "messages"),
    [
        (
            {"phase": "Pending", "conditions": [SCHEDULED]},
            "",
            {},
            ["No node can take it: not enough nvidia.com/gpu (it asks for 2)", UNSCHEDULABLE, "QUANTGATE_SERVING_GPUS"],
        ),
        (
            of(waiting("ErrImagePull", "dial tcp: i/o timeout")),
            "",
            {},
            ["The image vllm/vllm:no cannot be pulled: ErrImagePull: dial tcp: i/o timeout"],
        ),
        (
            of(crashed("kserve-container", restarts=0)),
            "RuntimeError: NCCL error\n",
            {},
            ["vLLM ended (exit status 1, 0 restarts). RuntimeError: NCCL error"],
        ),
        (
            of({"name": "kserve-container", "state": {"running": {}}, "ready": False}),
            "INFO Loading weights took 11 s\n",
            {},
            ["vLLM is still starting.", "  INFO Loading weights took 11 s"],
        ),
        (
            {"phase": "Pending"},
            "",
            {"reason": "FailedMount", "message": 'configmap "x" not found'},
            ['A volume of its pod cannot be mounted: configmap "x" not found'],
        ),
        (
            of({"name": "kserve-container", "state": {"running": {}}, "ready": False}),
            "INFO Loading weights took 11 s\n",
            {"reason": "FailedMount", "message": "failed to sync configmap cache"},
            ["vLLM is still starting.", "  INFO Loading weights took 11 s"],
        ),
        (
            {"phase": "Pending"},
            "",
            {"reason": "FailedCreatePodSandBox", "message": "failed to assign an IP address"},
            ["its pod is Pending: FailedCreatePodSandBox: failed to assign an IP address"],
        ),
        (
            of(
                waiting(
                    "CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"
                )
            ),
            "",
            {},
            ["cannot be started: CreateContainerConfigError: failed to sync secret cache"],
        ),
        (
            of({**crashed("kserve-container"), "state": {"running": {}}}),
            "RuntimeError: NCCL error\n",
            {},
            ["vLLM ended (exit status 1, 1 restarts). RuntimeError: NCCL error"],
        ),
        (
            {**EVICTED, "containerStatuses": [crashed("kserve-container", restarts=0)]},
            "",
            {},
            ["Its pod was ended: Evicted: The node was low on resource: ephemeral-storage."],
        ),
        (
            {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            "",
            {},
            ["its pod is ready, and it is not: its controller does not say why."],
        ),
        ({"phase": "Pending"}, "", {}, ["its pod is Pending."]),
    ],
)
def test_a_temporary_fault_is_reported_at_the_deadline(
    cluster: Cluster, deployed: Deploy, status: JSON, log: str, event: dict[str, str], messages: list[str]
) -> None:
    with_pod(cluster, status, log=log, **event)
    failure = deployed(ready_within_s=SOON_S).failure
    assert failure.startswith(f"It was not ready after {SOON_S} s: ")
    assert [message for message in messages if message not in failure] == []
    assert left(cluster) == []


def test_an_unfinished_download_is_reported_at_the_deadline(cluster: Cluster, deployed: Deploy) -> None:
    running = {"name": "storage-initializer", "state": {"running": {}}}
    with_pod(cluster, of(running, init=True), "storage-initializer", "INFO Copying contents of s3://bucket\n")
    failure = deployed(ready_within_s=SOON_S).failure
    assert "its weights are still being fetched." in failure
    assert "INFO Copying contents of s3://bucket" in failure


def test_the_newest_pod_counts_and_a_terminating_one_does_not(cluster: Cluster, deployed: Deploy) -> None:
    with_pod(cluster, of(crashed("kserve-container")))
    before = cluster.on

    def on(what: str, plural: str, obj: JSON) -> None:
        before(what, plural, obj)
        if what == "created" and plural == "pods" and obj["metadata"]["name"].endswith("-1"):
            labels = obj["metadata"]["labels"]
            old = {"labels": labels, "ownerReferences": obj["metadata"]["ownerReferences"], "creationTimestamp": "2000"}
            gone = {**old, "creationTimestamp": "9999", "deletionTimestamp": "9999"}
            refused = of(waiting("InvalidImageName", ""))
            cluster.create(PODS, {"metadata": {**old, "name": "old"}, "status": refused})
            cluster.create(PODS, {"metadata": {**gone, "name": "gone"}, "status": refused})

    cluster.on = on
    assert "vLLM ended" in deployed().failure


def test_faults_of_an_earlier_start_are_ignored(cluster: Cluster, deployed: Deploy) -> None:
    def on(what: str, plural: str, obj: JSON) -> None:
        if what == "created" and plural == "inferenceservices":
            name = obj["metadata"]["name"]
            labels = {"serving.kserve.io/inferenceservice": name}
            old = {"name": "old", "labels": labels, "creationTimestamp": "2026-01-01T12:00:00Z"}
            cluster.create(PODS, {"metadata": old, "status": of(waiting("InvalidImageName", ""))})
            event = {"type": "Warning", "reason": "FailedCreate", "involvedObject": {"name": name}}
            ago = {"message": "an old quota", "eventTime": "2026-01-01T12:00:00.123456Z"}
            cluster.create(EVENTS, {"metadata": {"name": "e"}, **event, **ago})

    cluster.on = on
    assert deployed(ready_within_s=SOON_S).failure.endswith(
        ": no controller has looked at it. Check that the one of its kind (KServe's) runs."
    )


def test_an_evicted_pod_and_its_replacement_are_both_reported(cluster: Cluster, deployed: Deploy) -> None:
    running = {"name": "storage-initializer", "state": {"running": {}}}
    with_pod(cluster, of(running, init=True))
    before = cluster.on

    def on(what: str, plural: str, obj: JSON) -> None:
        before(what, plural, obj)
        if what == "created" and plural == "pods" and obj["metadata"]["name"].endswith("-1"):
            metadata = {"name": f"{obj['metadata']['name']}0", "labels": obj["metadata"]["labels"]}
            cluster.create(PODS, {"metadata": metadata, "spec": POD_SPEC, "status": EVICTED})

    cluster.on = on
    failure = deployed(ready_within_s=SOON_S).failure
    assert "its weights are still being fetched." in failure
    assert "Before: Its pod was ended: Evicted: The node was low on resource: ephemeral-storage." in failure


@pytest.mark.parametrize(
    ("kind", "status", "event", "text"),
    [
        (
            KSERVE,
            {},
            "exceeded quota: quantgate, requested: requests.nvidia.com/gpu=2, used: requests.nvidia.com/gpu=4",
            "No pod could be created for it: exceeded quota: quantgate, requested: requests.nvidia.com/gpu=2",
        ),
        (
            DEPLOYMENT,
            {"conditions": [{"type": "Progressing", "status": "False", "reason": "Stuck", "message": "no progress"}]},
            "",
            "It has no pod: Progressing: Stuck: no progress",
        ),
        (KSERVE, {}, "", "no controller has looked at it. Check that the one of its kind (KServe's) runs."),
        (KSERVE, {"observedGeneration": 1}, "", "it has no pod yet."),
    ],
)
def test_the_reason_for_a_missing_pod_is_reported(
    cluster: Cluster, deployed: Deploy, kind: str, status: JSON, event: str, text: str
) -> None:
    def on(what: str, plural: str, obj: JSON) -> None:
        if what == "created" and plural in ("inferenceservices", "deployments"):
            name = obj["metadata"]["name"]
            cluster.change(plural, name, lambda obj: obj.update(status=status))
            about = {"name": f"{name}-predictor-5d9", "kind": "ReplicaSet"}
            for number, (object_of, message) in enumerate(((about, event), ({"name": "another"}, "not ours"))):
                warning = {"type": "Warning", "reason": "FailedCreate", "message": message, "involvedObject": object_of}
                if message:
                    cluster.create(EVENTS, {"metadata": {"name": f"e{number}"}, **warning})

    cluster.on = on
    failure = deployed(kind=kind, ready_within_s=SOON_S).failure
    assert text in failure
    assert "not ours" not in failure


@pytest.mark.parametrize("has_pod", [False, True])
def test_a_fault_that_kserve_reports_only_as_an_event_is_reported(
    cluster: Cluster, deployed: Deploy, has_pod: bool
) -> None:
    if has_pod:
        with_pod(cluster, {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
    before = cluster.on

    def on(what: str, plural: str, obj: JSON) -> None:
        before(what, plural, obj)
        if what == "created" and plural == "inferenceservices":
            about = {"kind": "InferenceService", "name": obj["metadata"]["name"]}
            warning = {"type": "Warning", "reason": "InternalError", "message": "fails to reconcile predictor: no"}
            warning["eventTime"] = obj["metadata"]["creationTimestamp"].replace("Z", ".000001Z")  # within that second
            cluster.create(EVENTS, {"metadata": {"name": "internal"}, "involvedObject": about, **warning})

    cluster.on = on
    what = "its pod is ready, and it is not" if has_pod else "It has no pod"
    message = f"It was not ready after {SOON_S} s: {what}: InternalError: fails to reconcile predictor: no"
    assert deployed(ready_within_s=SOON_S).failure == message


def test_a_refusal_by_kserve_is_reported_at_once(cluster: Cluster, deployed: Deploy) -> None:
    refusal = {"reason": "NoSupportingRuntime", "message": "Specified runtime does not support specified framework"}

    def on(what: str, plural: str, obj: JSON) -> None:
        if what == "created" and plural == "inferenceservices":
            status = {"modelStatus": {"transitionStatus": "InvalidSpec", "lastFailureInfo": refusal}}
            cluster.change(plural, obj["metadata"]["name"], lambda obj: obj.update(status=status))

    cluster.on = on
    message = "KServe refuses it: NoSupportingRuntime: Specified runtime does not support specified framework"
    assert deployed().failure == message
