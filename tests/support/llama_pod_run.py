"""A pod of the stand-in cluster in which the real llama.cpp runs, as the Deployment starts it."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from quantgate.components.servers.vllm_pod import FETCHED
from tests.support.kubernetes_state import JSON, Cluster
from tests.support.on_cluster import environment, mark_ready
from tests.support.serving_pod import free_port


@dataclass
class LlamaPods:
    """Runs the containers' commands for each new Deployment, with a folder of the test's in place of the pod's."""

    cluster: Cluster
    folder: Path
    """Of this machine, for the pod's volume with the weights."""
    port: int = field(default_factory=free_port)
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def address(self) -> str:
        """For the settings of serving."""
        return f"http://127.0.0.1:{self.port}"

    def on(self, what: str, plural: str, obj: JSON) -> None:
        """As `Cluster.on`: a pod for the new Deployment, which is ready; the test's calls wait until it answers."""
        if (what, plural) == ("created", "deployments"):
            self.start(obj["metadata"]["name"], obj["spec"]["template"]["spec"])

    def start(self, name: str, spec: JSON) -> None:
        """Fetch the weights, start llama.cpp with the container's arguments and variables, and create the pod."""
        (fetcher,), (container,) = spec["initContainers"], spec["containers"]
        subprocess.run(self.command(fetcher), check=True)
        variables = os.environ | environment(self.cluster, name)
        self.processes.append(subprocess.Popen(self.command(container), env=variables))
        status = {"name": container["name"], "imageID": container["image"], "ready": True, "state": {"running": {}}}
        metadata = {"name": f"{name}-{len(self.processes)}", "labels": {"app.kubernetes.io/instance": name}}
        self.cluster.create(
            "api/v1/pods", {"metadata": metadata, "status": {"phase": "Running", "containerStatuses": [status]}}
        )
        mark_ready(self.cluster, "deployments", name)

    def command(self, container: JSON) -> list[str]:
        """The container's command with what is another on this machine: Python, the volume, address and port."""
        replaced = {FETCHED: str(self.folder / "model"), "8080": str(self.port), "0.0.0.0": "127.0.0.1"}
        words: list[str] = [*container["command"][1:], *container.get("args", ())]
        return [sys.executable, *(replaced.get(word, word) for word in words)]

    def replace(self) -> None:
        """Put another pod in the place of the last one, as after a drained node."""
        (deployment,) = self.cluster.all("deployments")
        name = deployment["metadata"]["name"]
        self.stop()
        self.cluster.delete("api/v1/pods", f"{name}-{len(self.processes)}", {})
        self.start(name, deployment["spec"]["template"]["spec"])

    def stop(self) -> None:
        """End what runs."""
        for process in self.processes:
            process.kill()
            process.wait()
