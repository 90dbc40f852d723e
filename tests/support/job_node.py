"""A node of the stand-in cluster that runs a step's Jobs, as the Job controller and the kubelet would."""

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
from tests.support.on_cluster import given_variables

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
    python3: str = sys.executable
    """The Python of vLLM's image."""
    threads: list[threading.Thread] = field(default_factory=list)

    def on(self, what: str, plural: str, obj: JSON) -> None:
        """Start a pod for a new Job."""
        if (what, plural) != ("created", "jobs"):
            return
        name, template = obj["metadata"]["name"], obj["spec"]["template"]
        container = template["spec"]["containers"][0]["name"]
        owner = [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": obj["metadata"]["uid"]}]
        for number, phase in enumerate(self.phases):
            pod = f"{name}-{number}"
            self.cluster.logs.pop((pod, container, False), None)
            metadata = {"name": pod, "labels": template["metadata"]["labels"], "ownerReferences": owner}
            metadata["creationTimestamp"] = f"2199-01-01T00:00:0{number}Z"  # after the Job
            body = {"metadata": metadata, "spec": template["spec"], "status": self.status or {"phase": phase}}
            self.cluster.create("api/v1/pods", body)
            if self.status:
                return
            if phase == "Failed":
                self.cluster.logs[pod, container, False] = json.dumps({"program": 0, "passed": False, "reason": "x"})
        thread = threading.Thread(target=self.run, args=(name, pod, template["spec"]))
        self.threads.append(thread)
        thread.start()

    def run(self, name: str, pod: str, spec: JSON) -> None:
        """Write the pod's log, and the Job's end."""
        container, ended = spec["containers"][0]["name"], 0
        if self.lines is None:
            container, ended, text = self.run_containers(pod, spec)
        else:
            text = "\n".join(self.lines)
        end = "Failed" if ended or self.phases[-1] == "Failed" else "Complete"
        condition = {"type": end, "status": "True", "reason": "DeadlineExceeded", "message": "it was active too long"}
        with self.cluster.changed:
            self.cluster.logs[pod, container, False] = text
            if not any(job["metadata"]["name"] == name for job in self.cluster.all("jobs")):
                return
            if ended:
                status = {"name": container, "state": {"terminated": {"exitCode": ended, "reason": "Error"}}}
                which = "containerStatuses" if container == spec["containers"][0]["name"] else "initContainerStatuses"
                self.cluster.change("pods", pod, lambda obj: obj.update(status={"phase": "Failed", which: [status]}))
            self.cluster.change("jobs", name, lambda obj: obj.update(status={"conditions": [condition]}))

    def run_containers(self, pod: str, spec: JSON) -> tuple[str, int, str]:
        """Run the pod's containers up to the first that fails: the last one's name, exit status and output."""
        volumes = Path(os.environ["KUBECONFIG"]).with_name(pod)
        for volume in spec["volumes"]:
            (volumes / volume["name"]).mkdir(parents=True)
            if named := volume.get("configMap"):
                data = self.cluster.existing("api/v1/configmaps", named["name"])["binaryData"]
                for file, packed in data.items():
                    (volumes / volume["name"] / file).write_bytes(base64.b64decode(packed))
        for container in (*spec["initContainers"], *spec["containers"]):
            process = [*WITHOUT_CAPABILITIES, *self.placed(container, volumes)]
            variables = os.environ | given_variables(self.cluster, container.get("env", ()))
            ran = subprocess.run(process, capture_output=True, text=True, check=False, env=variables)
            if ran.returncode:
                break
        return container["name"], ran.returncode, ran.stdout + ran.stderr

    def placed(self, container: JSON, volumes: Path) -> list[str]:
        """The container's command, with this machine's programs and the places of the volumes that it mounts."""
        places = {mount["mountPath"]: str(volumes / mount["name"]) for mount in container["volumeMounts"]}
        program, *arguments = container["command"]
        mounted = re.compile("|".join(rf"(?<![\w.]){re.escape(path)}\b" for path in places))
        arguments = [mounted.sub(lambda path: places[path[0]], argument) for argument in arguments]
        return [{"python": sys.executable, "python3": self.python3}.get(program, program), *arguments]


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
