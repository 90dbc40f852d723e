"""Which Kubernetes, Kubeflow Pipelines, Argo Workflows and KServe there are, and their versions."""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from quantgate.components.kubernetes.cluster_client import INFERENCE_SERVICE
from quantgate.components.kubernetes.questions import ClusterQuestions
from quantgate.pipelines.doctor.finding import FAULT, GOOD, NOTE, Examined, Finding

if TYPE_CHECKING:
    from quantgate.pipelines.kubeflow.connection import Place

TRIED = {"Kubernetes": "1.35.4", "Pipelines": "2.17.0", "Argo": "4.0.8", "KServe": "main, autumn 2026"}
"""The versions on which whole runs were tried; docs/cluster.md has them too."""
VERSION = re.compile(r"\d+\.\d+[\w.+-]*")


def kubernetes_version(examined: Examined) -> Iterator[Finding]:
    """The API server's version."""
    version = examined.questions.get("/version").body.get("gitVersion", "")
    yield installed("Kubernetes", version, f" at {examined.questions.host}")


def pipelines_version(place: "Place") -> Iterator[Finding]:
    """Whether Kubeflow Pipelines answers, and its version."""
    from quantgate.pipelines.kubeflow.connection import ANSWER_S, connected

    with connected(place) as kubeflow, kubeflow.request("report its version"):
        # kfp's client leaves out the version when it parses the answer
        api = kubeflow.client.healthzs
        health = json.loads(api.healthz_service_get_healthz(_preload_content=False, _request_timeout=ANSWER_S).data)
        version = str(health.get("tag_name", ""))
        if version.startswith(("0.", "1.")):
            yield Finding(FAULT, "Pipelines", f"{version} at {kubeflow.host} is too old", "Install version 2.")
        else:
            yield installed("Pipelines", version, f" at {kubeflow.host}")


def controllers(examined: Examined) -> Iterator[Finding]:
    """Whether Argo Workflows and, if the pipeline uses it, KServe are installed, and their versions."""
    questions = examined.questions
    if questions.get("/apis/argoproj.io").is_missing:
        remedy = "Install Kubeflow Pipelines, which brings it."
        yield Finding(FAULT, "Argo", "the cluster has no Argo Workflows (API group argoproj.io)", remedy)
    else:
        yield installed("Argo", controller_version(questions, "workflow-controller"))
    if not examined.uses_kserve:
        return
    if questions.get(f"/apis/{INFERENCE_SERVICE.group}").is_missing:
        remedy = "Install KServe, or serve without it: quantgate compile --serving deployment."
        yield Finding(FAULT, "KServe", f"the cluster has no KServe (API group {INFERENCE_SERVICE.group})", remedy)
    else:
        yield installed("KServe", controller_version(questions, "kserve-controller-manager"))


def controller_version(questions: ClusterQuestions, deployment: str) -> str:
    """The tag of the controller's image; empty if the account may not read it, or the image has no tag."""
    listed = questions.get("/apis/apps/v1/deployments", fieldSelector=f"metadata.name={deployment}").items
    containers = [entry for body in listed for entry in body["spec"]["template"]["spec"]["containers"]]
    tags = [entry["image"].partition("@")[0].rpartition("/")[2].partition(":")[2] for entry in containers]
    return next((tag for tag in tags if tag), "")


def installed(subject: str, version: str, where: str = "") -> Finding:
    """The finding for something that is installed, with the tried version if it is another one."""
    number = version.removeprefix("v")
    tried = "" if number == TRIED[subject] else f" (tried: {TRIED[subject]})"
    if VERSION.match(number) or number == "latest":
        return Finding(GOOD, subject, f"{number}{where}{tried}")
    return Finding(NOTE, subject, f"installed{where}, version unknown{tried}")
