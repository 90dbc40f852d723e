"""Fixtures for serving on a cluster: the API server's stand-in, a server that answers like vLLM, and controllers."""

import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quantgate.components.run.artifacts import Server, Weights
from quantgate.components.servers import kserve
from quantgate.components.servers.cluster_settings import DEPLOYMENT, KSERVE, ServingSettings
from tests.support.kubernetes_server import running
from tests.support.kubernetes_state import JSON, Cluster

PLURALS = {KSERVE: "inferenceservices", DEPLOYMENT: "deployments"}
WORKFLOW = "quantgate-ship-x7k2p"
RESULTS = "s3://bucket/results"
SERVERS_SECRET = "of the servers of this stand-in cluster"
WEIGHTS = Weights(
    variant="int8", baseline_digest="b" * 64, digest="d" * 64, uri="s3://bucket/store/weights/int8", scheme="W8A8"
)
RUNTIME: JSON = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "ServingRuntime",
    "metadata": {"name": "quantgate-vllm"},
    "spec": {
        "supportedModelFormats": [{"name": "vLLM"}],
        "containers": [
            {
                "name": "kserve-container",
                "image": "vllm/vllm-openai@sha256:abc",
                "args": ["--model", "/mnt/models", "--port", "8080"],
                "env": [{"name": "VLLM_ATTENTION_BACKEND", "value": "FLASH_ATTN"}],
                "ports": [{"containerPort": 8080}],
            }
        ],
    },
}


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers like vLLM at every path that contains /v1: each service has its own prefix."""

    dtype = ""
    """What our plugin reports as the server's data type; empty for a vLLM without the plugin."""
    cluster: Cluster
    """Whose kubelet gives each server its API key."""
    takes: Callable[[str, str], bool] = staticmethod(lambda sent, key: sent == f"Bearer {key}")
    """Whether it answers a request with that Authorization header; the key is its own."""
    asked: list[tuple[str, str]]
    """The path and the Authorization header of each request."""

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def do_GET(self) -> None:
        """The list of models, and the version."""
        bodies = {"version": {"version": "0.32.0"}, "quantgate": {"dtype": self.dtype}}
        last = self.path.rpartition("/")[2]
        sent, name = self.headers.get("Authorization", ""), self.path.split("/")[1].partition(".")[0]
        self.asked.append((self.path, sent))
        if "/v1/" in self.path and not self.takes(sent, environment(self.cluster, name).get("VLLM_API_KEY", "")):
            self.send_error(401)
            return
        body = bodies.get(last, {"data": [{"id": "quantgate-int8"}]})
        data = json.dumps(body).encode()
        self.send_response(404 if last == "quantgate" and not self.dtype else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def environment(cluster: Cluster, name: str) -> dict[str, str]:
    """The environment variables that a kubelet gives vLLM's container of the server of that name."""
    served = cluster.all("inferenceservices") + cluster.all("deployments")
    (spec,) = (one["spec"] for one in served if one["metadata"]["name"] == name.removesuffix("-predictor"))
    container = spec["predictor"]["model"] if "predictor" in spec else spec["template"]["spec"]["containers"][0]
    return given_variables(cluster, container["env"])


def given_variables(cluster: Cluster, listed: Iterable[JSON]) -> dict[str, str]:
    """The environment variables that a kubelet gives a container whose spec lists these."""
    secrets = {secret["metadata"]["name"]: secret["data"] for secret in cluster.all("secrets")}
    variables = {}
    for variable in listed:
        wanted = variable.get("valueFrom", {}).get("secretKeyRef")
        value = base64.b64decode(secrets[wanted["name"]][wanted["key"]]).decode() if wanted else variable["value"]
        variables[variable["name"]] = value
    return variables


@pytest.fixture
def vllm() -> Iterator[str]:
    """The address at which every service answers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{{service}}.{{namespace}}/{{port}}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster with KServe's runtime, in which this process is a pod of a run."""
    state = Cluster()
    state.create("apis/serving.kserve.io/v1alpha1/servingruntimes", RUNTIME)
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": WORKFLOW, "uid": "uid-of-the-workflow"}
    state.uids.add(owner["uid"])
    labels = {"workflows.argoproj.io/workflow": WORKFLOW}
    own_pod = {"metadata": {"name": "own-pod", "labels": labels, "ownerReferences": [{**owner, "controller": True}]}}
    state.create("api/v1/pods", own_pod)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "in-a-pod")
    monkeypatch.setenv("HOSTNAME", "own-pod")
    monkeypatch.setenv("QUANTGATE_SERVERS_SECRET", SERVERS_SECRET)
    monkeypatch.setattr(Answering, "cluster", state, raising=False)
    monkeypatch.setattr(Answering, "asked", [], raising=False)
    monkeypatch.setattr(kserve, "POLL_S", 0.02)
    for name in ("QUANTGATE_RUN", "KFP_POD_NAME"):
        monkeypatch.delenv(name, raising=False)
    with running(state, tmp_path / "kubeconfig"):
        yield state


@pytest.fixture
def settings(vllm: str) -> ServingSettings:
    """KServe, on two GPUs."""
    return ServingSettings(kind=KSERVE, gpus=2, node_selector=(("gpu", "H100"),), address=vllm, ready_within_s=60)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The step's copy of the model: here its configuration."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"max_position_embeddings": 1024}))
    return tmp_path / "model"


@pytest.fixture
def deployed(cluster: Cluster, settings: ServingSettings, model: Path) -> Callable[..., Server]:
    """A function that serves the weights, with some settings changed."""

    def deploy(**changed: object) -> Server:
        return kserve.deploy(WEIGHTS, model, RESULTS, replace(settings, **changed), 1024)  # type: ignore[arg-type]

    return deploy


def mark_ready(cluster: Cluster, plural: str, name: str) -> None:
    """Give the object the status that its controller sets when its pods are ready."""
    condition = {"type": "Ready" if plural == "inferenceservices" else "Available", "status": "True"}

    def how(obj: JSON) -> None:
        obj["status"] = {"observedGeneration": obj["metadata"]["generation"], "conditions": [condition]}

    cluster.change(plural, name, how)


def ready_at_once(cluster: Cluster) -> None:
    """Make every server ready as soon as it is created."""

    def on(what: str, plural: str, obj: JSON) -> None:
        if what == "created" and plural in ("inferenceservices", "deployments"):
            mark_ready(cluster, plural, obj["metadata"]["name"])

    cluster.on = on


def left(cluster: Cluster) -> list[str]:
    """The remaining objects with quantgate's label, as `plural/name`."""
    return sorted(
        f"{path.rsplit('/', 1)[1]}/{name}"
        for (path, name), obj in cluster.objects.items()
        if obj["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "quantgate"
    )


def the_one(cluster: Cluster, plural: str) -> JSON:
    """The only object of its kind."""
    objects = cluster.all(plural)
    assert len(objects) == 1
    return objects[0]
