"""A pod of the stand-in cluster in which the fake vLLM runs, and the cluster that replaces it."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import fake_vllm
from tests.support.kubernetes_state import JSON, Cluster
from tests.support.on_cluster import PLURALS, environment, the_one

POD_LABELS = {"kserve": "serving.kserve.io/inferenceservice", "deployment": "app.kubernetes.io/instance"}
CONTAINERS = {"kserve": "kserve-container", "deployment": "vllm"}
IMAGE = "docker.io/vllm/vllm-openai@sha256:abc"


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class ServingPods:
    """The pods of one server, one after the other at the same address, as a Service gives it."""

    cluster: Cluster
    kind: str
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    threads: list[threading.Thread] = field(default_factory=list)
    number: int = 0
    stopped: bool = False
    again: str = "ok"
    """How a vLLM behaves that takes the place of the first one, see fake_vllm.py."""

    @property
    def address(self) -> str:
        """For the settings of serving."""
        return f"http://127.0.0.1:{self.port}"

    def on(self, what: str, plural: str, obj: JSON) -> None:
        """As `Cluster.on`: a pod for the new object, which ends after so many answers."""
        if what == "created" and plural == PLURALS[self.kind]:
            self.start(obj["metadata"]["name"], dies_after=DIES_AFTER)

    def start(self, name: str, image: str = IMAGE, dies_after: int | None = None) -> None:
        """Start a pod and its vLLM, and report the object ready."""
        self.number += 1
        mode = {"VLLM_FAKE": self.again}
        if dies_after is not None:
            mode = {"VLLM_FAKE": "mortal", "VLLM_FAKE_PROBES": str(dies_after)}
        self.serve(name, mode)
        status = {"name": CONTAINERS[self.kind], "imageID": image, "ready": True, "state": {"running": {}}}
        metadata = {"name": f"{name}-{self.number}", "labels": {POD_LABELS[self.kind]: name}}
        self.cluster.create(
            "api/v1/pods", {"metadata": metadata, "status": {"phase": "Running", "containerStatuses": [status]}}
        )
        self.report(name, "True")

    def serve(self, name: str, mode: dict[str, str]) -> None:
        """Start a vLLM and wait until it answers; `mode` is the environment that says how it behaves."""
        key = {"VLLM_API_KEY": environment(self.cluster, name)["VLLM_API_KEY"]}
        command = [sys.executable, str(Path(fake_vllm.__file__)), "--port", str(self.port)]
        command += ["--served-model-name", "quantgate-int8", "--max-model-len", "1024"]
        self.process = subprocess.Popen(command, env=os.environ | key | mode, stdout=subprocess.DEVNULL)
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        """Wait for the process, or for the end of the test, which kills it."""
        for _ in range(500):
            if self.stopped:
                return
            try:
                urllib.request.urlopen(f"{self.address}/version").close()
                return
            except urllib.error.URLError:
                time.sleep(0.02)
        raise AssertionError("the fake vLLM did not start")

    def report(self, name: str, ready: str) -> None:
        """Set the status of the object."""
        conditions = [{"type": kind, "status": ready} for kind in ("Ready", "Available")]

        def how(obj: JSON) -> None:
            obj["status"] = {"observedGeneration": obj["metadata"]["generation"], "conditions": conditions}

        self.cluster.change(PLURALS[self.kind], name, how)

    def replace_when_it_ends(self, image: str = IMAGE, after_s: float = 0.5) -> None:
        """When vLLM ends, its node is gone: delete the pod, and start another one on another node after a while."""

        def replace() -> None:
            assert self.process is not None
            self.process.wait()
            if self.stopped:
                return
            name = the_one(self.cluster, PLURALS[self.kind])["metadata"]["name"]
            self.report(name, "False")
            self.cluster.delete("api/v1/pods", f"{name}-{self.number}", {})
            time.sleep(after_s)
            self.start(name, image)

        self.threads.append(threading.Thread(target=replace))
        self.threads[-1].start()

    def crash_when_it_ends(self, *, restarts: bool = False) -> None:
        """When vLLM ends, its container is in error, in the same pod; `restarts`: the kubelet starts it again."""

        def crash() -> None:
            assert self.process is not None
            self.process.wait()
            if self.stopped:
                return
            name = the_one(self.cluster, PLURALS[self.kind])["metadata"]["name"]
            ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
            state = {"state": {"running": {}}, "lastState": ended, "ready": True} if restarts else {"state": ended}
            status = {"name": CONTAINERS[self.kind], "imageID": IMAGE, **state, "restartCount": int(restarts)}
            self.cluster.change(
                "pods", f"{name}-{self.number}", lambda pod: pod["status"].update(containerStatuses=[status])
            )
            if restarts:
                self.serve(name, {"VLLM_FAKE": "ok"})

        self.threads.append(threading.Thread(target=crash))
        self.threads[-1].start()

    def stop(self) -> None:
        """End the threads and the process."""
        self.stopped = True
        if self.process:
            self.process.kill()
            self.process.wait()
        for thread in self.threads:
            thread.join()
        if self.process:  # that a thread has started meanwhile
            self.process.kill()
            self.process.wait()


DIES_AFTER = 18 + 6
"""The calls that the first pod answers: the probes, and some questions."""
