"""Whether the nodes have the GPUs that are requested, and whether the namespace's quota has room for a run's pods."""

from collections.abc import Iterator
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

from quantgate.components.kubernetes.cluster_client import INFERENCE_SERVICE, JSON
from quantgate.components.servers.objects import GPU
from quantgate.pipelines.doctor.finding import FAULT, GOOD, NOTE, Examined, Finding
from quantgate.pipelines.doctor.pipeline_needs import PodNeeds


def pods(examined: Examined) -> tuple[PodNeeds, ...]:
    """The largest pods of a run: steps, and a variant's server."""
    settings = examined.settings
    server = PodNeeds(
        name="a server",
        cpu=settings.cpu,
        memory=settings.memory,
        gpus=settings.gpus,
        gpu_resource=settings.gpu_resource,
        node_selector=settings.node_selector,
    )
    return (*examined.needs.largest, server)


def gpus(examined: Examined) -> Iterator[Finding]:
    """For each pod with GPUs, whether a node has as many under the requested name."""
    asking = [pod for pod in pods(examined) if pod.gpus]
    if not asking:
        yield Finding(GOOD, "GPU", "none is requested: the pipeline and QUANTGATE_SERVING_GPUS say 0")
        return
    answer = examined.questions.get("/api/v1/nodes")
    if not answer.is_ok:
        yield Finding(NOTE, "GPU", "not checked: you may not list nodes", "Ask as an administrator of the cluster.")
        return
    for pod in asking:
        yield gpu_finding(pod, answer.items)


def gpu_finding(pod: PodNeeds, nodes: list[JSON]) -> Finding:
    """Whether one of the nodes has the GPUs of the pod."""
    wanted = f"{pod.gpus} {pod.gpu_resource}"
    labels = ", ".join(f"{name}={value}" for name, value in pod.node_selector)
    where = f" on a node with {labels}" if labels else ""
    suitable = [
        node["metadata"]["name"]
        for node in nodes
        if set(pod.node_selector) <= set(node["metadata"].get("labels", {}).items())
        and parse_quantity(node["status"].get("allocatable", {}).get(pod.gpu_resource, "0")) >= pod.gpus
    ]
    if suitable:
        return Finding(GOOD, "GPU", f"{pod.name}: {wanted}{where}: {len(suitable)} of {len(nodes)} nodes")
    offered = sorted({name for node in nodes for name in node["status"].get("allocatable", {}) if GPU.match(name)})
    remedy = (
        "Install the GPU's device plugin, or choose another name, number or label: --accelerator, --gpus and --node of "
        "quantgate compile; QUANTGATE_SERVING_* in the ConfigMap quantgate-serving. Correct only if the cluster adds "
        "such nodes when a pod waits."
    )
    return Finding(
        FAULT, "GPU", f"{pod.name}: no node offers {wanted}{where}; offered: {', '.join(offered) or 'no GPU'}", remedy
    )


def quotas(examined: Examined) -> Iterator[Finding]:
    """Whether each ResourceQuota of the namespace has room for the largest pods of a run."""
    answer = examined.questions.get(f"/api/v1/namespaces/{examined.namespace}/resourcequotas")
    if not answer.is_ok:
        yield Finding(NOTE, "quota", f"not checked: you may not list the quotas of {examined.namespace}")
        return
    findings = [finding for quota in answer.items for finding in quota_findings(examined, quota)]
    names = ", ".join(quota["metadata"]["name"] for quota in answer.items)
    yield from findings or [Finding(GOOD, "quota", f"{names} has room for a run" if names else "none")]


def quota_findings(examined: Examined, quota: JSON) -> Iterator[Finding]:
    """The resources of which the quota allows or has left less than a pod requests."""
    name = quota["metadata"]["name"]
    hard: JSON = quota.get("spec", {}).get("hard", {})
    used: JSON = quota.get("status", {}).get("used", {})
    for pod in pods(examined):
        for resource, need in counted(pod).items():
            if resource not in hard:
                continue
            allowed, taken = parse_quantity(hard[resource]), parse_quantity(used.get(resource, "0"))
            said = f"{name}: {resource} is {hard[resource]}, and {pod.name} needs {need}"
            if allowed < need_of(need):
                remedy = "Raise the quota, or request less (quantgate compile; the ConfigMap quantgate-serving)."
                yield Finding(FAULT, "quota", said, remedy)
            elif allowed - taken < need_of(need):
                yield Finding(NOTE, "quota", f"{said}; {used[resource]} is in use", "A run waits until it is free.")


def counted(pod: PodNeeds) -> dict[str, str]:
    """What the pod takes of a quota, by the quota's names."""
    amounts = {"pods": "1", "requests.cpu": pod.cpu, "requests.memory": pod.memory, "limits.memory": pod.memory}
    if pod.gpus:
        amounts[f"requests.{pod.gpu_resource}"] = str(pod.gpus)
    if pod.name == "a server":
        amounts[f"count/{INFERENCE_SERVICE}"] = "1"
    return amounts


def need_of(amount: str) -> Decimal:
    """The amount as a number."""
    number: Decimal = parse_quantity(amount)
    return number
