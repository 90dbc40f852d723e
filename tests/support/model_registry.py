"""Stands in for a Kubeflow Model Registry: its REST API v1alpha3 in a thread, with the checks of its OpenAPI schema."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PREFIX = "/api/model_registry/v1alpha3/"
FIELDS = {
    "registered_models": {"name", "description", "customProperties"},
    "model_versions": {"name", "description", "customProperties", "registeredModelId"},
    "model_artifacts": {"name", "artifactType", "uri", "modelFormatName", "state"},
}
"""The fields of an entity that we send; its schema has more."""
VALUES = {"MetadataStringValue": ("string_value", str), "MetadataDoubleValue": ("double_value", float)}


@dataclass
class ModelRegistry:
    """The state of the stand-in."""

    token: str = ""
    """What it demands; empty for none."""
    entities: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id; `kind` and `parent` beside the fields."""
    requests: list[str] = field(default_factory=list)
    taken: bool = False
    """Whether another client creates each entity just before ours."""

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The entities of a kind, the oldest first."""
        return [entity for entity in self.entities.values() if entity["kind"] == kind]

    def add(self, kind: str, parent: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an entity."""
        entity = {"id": str(len(self.entities) + 1), "kind": kind, "parent": parent, **body}
        self.entities[entity["id"]] = entity
        return entity


class Handler(BaseHTTPRequestHandler):
    """Answers the calls that register a variant."""

    registry: ModelRegistry

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def answer(self) -> None:
        """Answer any method."""
        url, registry = urlsplit(self.path), self.registry
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        registry.requests.append(f"{self.command} {url.path.removeprefix(PREFIX)}")
        if registry.token and self.headers.get("Authorization") != f"Bearer {registry.token}":
            self.send(401, {"code": "401", "message": "no token"})
        elif not url.path.startswith(PREFIX):
            self.send(404, {"code": "404", "message": "not found"})
        elif self.command == "GET":
            self.find(url.path.removeprefix(PREFIX), dict(parse_qsl(url.query)))
        else:
            self.write(url.path.removeprefix(PREFIX).split("/"), body)

    do_GET = do_POST = do_PATCH = answer  # noqa: N815

    def find(self, kind: str, query: dict[str, str]) -> None:
        """Answer with the entity of that name and parent."""
        wanted = (query["name"], query.get("parentResourceId", ""))
        found = [one for one in self.registry.of_kind(f"{kind}s") if (one["name"], one["parent"]) == wanted]
        self.send(*((200, found[0]) if found else (404, {"code": "404", "message": "no such entity"})))

    def write(self, path: list[str], body: dict[str, Any]) -> None:
        """Create or change an entity, if its fields are those of the schema."""
        kind, parent = ("model_artifacts", path[1]) if path[-1] == "artifacts" else (path[0], "")
        parent = parent or str(body.get("registeredModelId", ""))
        if error := fault(kind, body, creates=self.command == "POST"):
            self.send(400, {"code": "400", "message": error})
        elif self.command == "PATCH":
            self.registry.entities[path[1]].update(body)
            self.send(200, self.registry.entities[path[1]])
        elif self.registry.taken:
            self.registry.add(kind, parent, body)
            self.send(409, {"code": "409", "message": "already exists"})
        else:
            self.send(201, self.registry.add(kind, parent, body))

    def send(self, status: int, body: dict[str, Any]) -> None:
        """Send JSON."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def fault(kind: str, body: dict[str, Any], *, creates: bool) -> str:
    """What the schema has against the body; empty if nothing."""
    if unknown := body.keys() - FIELDS[kind]:
        return f"unknown fields {sorted(unknown)}"
    if creates and not body.get("name"):
        return "name is required"
    if not creates and body.keys() & {"name", "registeredModelId"}:
        return "a name cannot be changed"
    for name, value in body.get("customProperties", {}).items():
        key, kind_of_value = VALUES.get(value.get("metadataType"), ("", str))
        if value.keys() != {"metadataType", key} or not isinstance(value[key], kind_of_value):
            return f"customProperties.{name} is no metadata value"
    return ""


@contextlib.contextmanager
def registry_running(registry: ModelRegistry) -> Iterator[str]:
    """Serve the registry during the block; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"registry": registry}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
