"""A node of the stand-in cluster that runs Jobs of programs, as the Job controller and the kubelet would."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from quantgate.components.servers import step_job
from tests.support.kubernetes_state import JSON, Cluster

WITHOUT_CAPABILITIES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
"""As the pod's container has none."""


@dataclass
class Node:
    """The Job controller and the kubelet: start a pod for each Job, and the pod's process."""

    cluster: Cluster
    phases: Sequence[str] = ("Succeeded",)
    """How the Job's pods end, one after the other."""
    lines: tuple[str, ...] | None = None
    """The pod's log, in place of the process's output."""
    status: JSON = field(default_factory=dict)
    """Of a pod that does not start."""
    threads: list[threading.Thread] = field(default_factory=list)

    def on(self, what: str, plural: str, obj: JSON) -> None:
        """Start a pod for a new Job."""
        if (what, plural) != ("created", "jobs"):
            return
        name, template = obj["metadata"]["name"], obj["spec"]["template"]
        packed = self.cluster.existing("api/v1/configmaps", name)["binaryData"]["wanted.json.gz"]
        owner = [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": obj["metadata"]["uid"]}]
        for number, phase in enumerate(self.phases):
            pod = f"{name}-{number}"
            self.cluster.logs.pop((pod, "programs", False), None)
            metadata = {"name": pod, "labels": template["metadata"]["labels"], "ownerReferences": owner}
            metadata["creationTimestamp"] = f"2199-01-01T00:00:0{number}Z"  # after the Job
            body = {"metadata": metadata, "spec": template["spec"], "status": self.status or {"phase": phase}}
            self.cluster.create("api/v1/pods", body)
            if self.status:
                return
            if phase == "Failed":
                self.cluster.logs[pod, "programs", False] = json.dumps({"program": 0, "passed": False, "reason": "x"})
        thread = threading.Thread(target=self.run, args=(name, pod, template["spec"], packed))
        self.threads.append(thread)
        thread.start()

    def run(self, name: str, pod: str, spec: JSON, packed: str) -> None:
        """Write the pod's log, and the Job's end."""
        if self.lines is None:
            volumes = Path(os.environ["KUBECONFIG"]).with_name(pod)
            for volume in spec["volumes"]:
                (volumes / volume["name"]).mkdir(parents=True)
            (volumes / "programs" / "wanted.json.gz").write_bytes(base64.b64decode(packed))
            for container in (*spec["initContainers"], *spec["containers"]):
                process = [*WITHOUT_CAPABILITIES, *placed(container, volumes)]
                ran = subprocess.run(process, capture_output=True, text=True, check=True)
            text = ran.stdout + ran.stderr
        else:
            text = "\n".join(self.lines)
        end = "Failed" if self.phases[-1] == "Failed" else "Complete"
        condition = {"type": end, "status": "True", "reason": "DeadlineExceeded", "message": "it was active too long"}
        with self.cluster.changed:
            self.cluster.logs[pod, "programs", False] = text
            if any(job["metadata"]["name"] == name for job in self.cluster.all("jobs")):
                self.cluster.change("jobs", name, lambda obj: obj.update(status={"conditions": [condition]}))


def placed(container: JSON, volumes: Path) -> list[str]:
    """The container's command, with this interpreter and the places of the volumes that it mounts."""
    places = {mount["mountPath"]: str(volumes / mount["name"]) for mount in container["volumeMounts"]}
    program, *arguments = container["command"]
    arguments = [re.sub(r"^/\w+(?=/)", lambda path: places.get(path[0], path[0]), argument) for argument in arguments]
    return [sys.executable if program == "python" else program, *arguments]


@pytest.fixture
def node(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node that runs Jobs, in an environment that lets steps use it."""
    monkeypatch.setattr(step_job, "POLL_S", 0.02)
    monkeypatch.setenv("QUANTGATE_CONTAINMENT", "job")
    monkeypatch.setenv("QUANTGATE_SANDBOX_IMAGE", "quantgate@sha256:abc")
    monkeypatch.delenv("QUANTGATE_SANDBOX_RUNTIME_CLASS", raising=False)
    node = Node(cluster)
    cluster.on = node.on
    yield node
    for thread in node.threads:
        thread.join()
