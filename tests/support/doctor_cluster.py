"""A healthy cluster for `quantgate doctor --cluster`: a stand-in for the API server, and an image registry.

It adds to kubernetes_server.py what only the doctor requests: objects outside the run's namespace, API groups, access
reviews and dry runs (`dryRun=All`). A test puts one fault into `Facts`.
"""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.kubernetes_server import USER, Handler, running
from tests.support.kubernetes_state import JSON, Cluster

GPU_NODE: JSON = {
    "metadata": {"name": "node-1", "labels": {"gpu": "h100"}},
    "status": {"allocatable": {"cpu": "64", "nvidia.com/gpu": "8"}, "images": [{"names": ["docker.io/kept/here:1"]}]},
}
ADMIN = "anna"


def deployment(image: str) -> JSON:
    """A list with one controller's Deployment."""
    return {"items": [{"spec": {"template": {"spec": {"containers": [{"image": image}]}}}}]}


def service(*ports: int) -> JSON:
    """A Service."""
    return {"spec": {"ports": [{"port": port} for port in ports]}}


@dataclass
class Facts:
    """What the API answers besides the objects of the run's namespace, by path."""

    answers: dict[str, JSON] = field(
        default_factory=lambda: {
            "/version": {"gitVersion": "v1.35.4"},
            "/apis/argoproj.io": {"kind": "APIGroup"},
            "/apis/serving.kserve.io": {"kind": "APIGroup"},
            "/api/v1/nodes": {"items": [GPU_NODE]},
            "/api/v1/namespaces/kubeflow/services": {"items": [{"metadata": {"name": "seaweedfs"}, **service(9000)}]},
            "/api/v1/namespaces/kubeflow/services/seaweedfs": service(9000),
            "/api/v1/namespaces/quantgate/services/mlflow": service(5000),
            "/api/v1/namespaces/quantgate/serviceaccounts/quantgate-pipeline": {"kind": "ServiceAccount"},
            "/api/v1/namespaces/quantgate/secrets/quantgate-s3": {"kind": "PartialObjectMetadata"},
            "/api/v1/namespaces/quantgate/secrets/quantgate-servers": {"kind": "PartialObjectMetadata"},
            "/api/v1/namespaces/quantgate/persistentvolumeclaims/quantgate-cache": {"kind": "PartialObjectMetadata"},
            "/api/v1/namespaces/quantgate/secrets/regcred": {"kind": "Secret"},
            "/api/v1/namespaces/quantgate/resourcequotas": {"items": []},
        }
    )
    controllers: dict[str, JSON] = field(
        default_factory=lambda: {
            "workflow-controller": deployment("quay.io/argoproj/workflow-controller:v4.0.8"),
            "kserve-controller-manager": deployment("kserve/kserve-controller@sha256:abc"),
        }
    )
    user: str = ADMIN
    """The account that sends the requests."""
    unreadable: tuple[str, ...] = ()
    """The prefixes of the paths that this account may not read or create."""
    lacking: tuple[str, ...] = ()
    """The rights that the run's account lacks, as `verb resource`."""
    denies: Callable[[JSON], str] = lambda _body: ""
    """An admission webhook: the message with which it denies an object, or none."""
    reviewed: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Group, resource, name and verb of each right that was reviewed."""
    writes: list[str] = field(default_factory=list)
    """Every request that would have changed the cluster."""


class DoctorHandler(Handler):
    """Answers from `Facts`; requests for the run's own objects go to the stand-in for the API server."""

    facts: Facts

    def answer_one(self) -> None:
        """Answer one request."""
        url, facts = urlsplit(self.path), self.facts
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.read_body() if self.command == "POST" else {}
        assert "/secrets/" not in url.path or "PartialObjectMetadata" in self.headers["Accept"], "a Secret's values"
        if url.path.startswith(facts.unreadable or "none"):
            self.send_status(403, f'User "{facts.user}" cannot do that')
        elif "reviews" in url.path:
            self.send(201, {"status": self.review(url.path, body)})
        elif self.command == "POST" and query.get("dryRun") == "All":
            if message := facts.denies(body):
                self.send_status(403, f'admission webhook "isvc.kserve.io" denied the request: {message}')
            else:
                self.send(201, body)
        elif self.command != "GET":
            facts.writes.append(f"{self.command} {self.path}")
            self.send_status(405, "the doctor must not write")
        elif url.path == "/apis/apps/v1/deployments":
            self.send(200, facts.controllers.get(query["fieldSelector"].removeprefix("metadata.name="), {"items": []}))
        elif url.path in facts.answers:
            self.send(200, facts.answers[url.path])
        elif "/namespaces/quantgate/" in url.path:
            super().answer_one()
        else:
            self.send_status(404, "the server could not find the requested resource")

    def read_body(self) -> JSON:
        """The body of the request."""
        body: JSON = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        return body

    def review(self, path: str, body: JSON) -> JSON:
        """The status of an access review."""
        if path.endswith("/selfsubjectreviews"):
            return {"userInfo": {"username": self.facts.user}}
        attributes: dict[str, Any] = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (attributes["resource"], attributes.get("subresource"))))
        self.facts.reviewed.append((attributes["group"], resource, attributes.get("name", ""), attributes["verb"]))
        account = body["spec"].get("user", self.facts.user)
        return {"allowed": account != USER or f"{attributes['verb']} {resource}" not in self.facts.lacking}

    def send_status(self, status: int, message: str) -> None:
        """Refuse the request."""
        self.send(status, {"kind": "Status", "status": "Failure", "code": status, "message": message})


@contextlib.contextmanager
def serve_cluster(cluster: Cluster, facts: Facts, kubeconfig: Path) -> Iterator[str]:
    """Serve the cluster with these facts during the block, and yield its address."""
    handler = type("BoundDoctorHandler", (DoctorHandler,), {"facts": facts})
    with running(cluster, kubeconfig, handler) as address:
        yield address


class RegistryHandler(http.server.BaseHTTPRequestHandler):
    """A registry of images that gives everybody a token: `missing` is not there, `private` wants a login."""

    def do_GET(self) -> None:
        """The token."""
        self.respond(200, json.dumps({"token": "for-everybody"}).encode())

    def do_HEAD(self) -> None:
        """The manifest's headers."""
        if self.headers.get("Authorization") != "Bearer for-everybody":
            address = f"http://{self.headers['Host']}/token"
            self.respond(401, challenge=f'Bearer realm="{address}",service="registry",scope="repository:x:pull"')
        elif "/private/" in self.path:
            self.respond(403)
        else:
            self.respond(404 if "/missing/" in self.path else 200)

    def respond(self, status: int, body: bytes = b"", challenge: str = "") -> None:
        """Send the answer."""
        self.send_response(status)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no log."""


@contextlib.contextmanager
def registry() -> Iterator[str]:
    """The host and port of a registry, during the block."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), RegistryHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
