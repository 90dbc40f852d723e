"""The state and the behaviour of the stand-in for a Kubernetes API server, without HTTP: see kubernetes_server.py."""

import base64
import copy
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

JSON = dict[str, Any]
Key = tuple[str, str]
"""The collection's path without its namespace, and the name."""


class StatusError(Exception):
    """The server answers with an error status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass(frozen=True)
class Request:
    """A request to the server."""

    verb: str
    plural: str
    name: str

    def __str__(self) -> str:
        return f"{self.verb} {self.plural}"


@dataclass
class Cluster:
    """The cluster's state, and the behaviour that a test sets."""

    on: Callable[[str, str, JSON], None] = lambda *_: None
    """Called with `created`, `changed` or `deleted`, the plural and the object."""
    faults: Callable[[int, Request], int | None] = lambda *_: None
    """For a request and its number, from 1, the status with which it fails."""
    headers: dict[str, str] = field(default_factory=dict)
    """The headers of the answers to failed requests."""
    forbidden: set[str] = field(default_factory=set)
    """`create leases`."""
    absent: set[str] = field(default_factory=set)
    """Plurals of the kinds that this cluster does not have."""
    pruned: set[str] = field(default_factory=set)
    """Fields of a `spec` that this cluster's CRDs lack: its API server drops them."""
    unreachable_webhooks: dict[str, int] = field(default_factory=dict)
    """By plural, how many more writes find its admission webhook unreachable: its controller is being restarted."""
    logs: dict[tuple[str, str, bool], str] = field(default_factory=dict)
    """Logs by pod, container and whether it is the previous container."""
    collects_garbage: bool = True
    watch_s: float = 0.2
    """The longest duration of a watch: an API server may end one before its client's timeout."""
    objects: dict[Key, JSON] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    working: int = 0
    """The number of requests in progress, even if their client is gone."""
    version: int = 0
    oldest: int = 0
    """The oldest version from which a watch can begin."""
    history: list[tuple[int, str, str, JSON]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    stopped: bool = False
    uids: set[str] = field(default_factory=set)

    def all(self, plural: str) -> list[JSON]:
        """The objects of a kind."""
        with self.changed:
            return [copy.deepcopy(obj) for (path, _), obj in self.objects.items() if path.endswith(f"/{plural}")]

    def counted(self) -> Counter[str]:
        """The number of requests by `verb plural`."""
        return Counter(map(str, self.requests))

    def create(self, path: str, body: JSON) -> JSON:
        """Create an object at the path of its collection, e.g. `apis/apps/v1/deployments`."""
        with self.changed:
            created, plural = copy.deepcopy(body), path.rsplit("/", 1)[1]
            check_admitted(plural, created)
            for key, text in created.pop("stringData", {}).items():  # the API takes it, and gives only `data`
                created.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()
            name = created["metadata"]["name"]
            if (path, name) in self.objects:
                raise StatusError(409, "AlreadyExists", f'{plural} "{name}" already exists')
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            generated = {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": now, "namespace": "quantgate"}
            created["metadata"] = generated | created["metadata"]
            self.uids.add(created["metadata"]["uid"])
            self._keep("ADDED", path, created)
            self.on("created", plural, copy.deepcopy(created))
            self._collect()
            return copy.deepcopy(created)

    def change(self, plural: str, name: str, how: Callable[[JSON], None]) -> JSON:
        """Change an object in place, as a controller would."""
        with self.changed:
            path = next(
                collection for collection, named in self.objects if named == name and collection.endswith(f"/{plural}")
            )
            current = self.objects[path, name]
            changed = copy.deepcopy(current)
            how(changed)
            if changed.get("spec") != current.get("spec"):
                changed["metadata"]["generation"] += 1
            if "deletionTimestamp" in changed["metadata"] and not changed["metadata"].get("finalizers"):
                self._drop(path, name)
            else:
                self._keep("MODIFIED", path, changed)
                self.on("changed", plural, copy.deepcopy(changed))
            return copy.deepcopy(changed)

    def delete(self, path: str, name: str, preconditions: JSON) -> JSON:
        """Delete an object, or mark it for deletion if it has finalizers."""
        with self.changed:
            obj = self.existing(path, name)
            for key, value in preconditions.items():
                if obj["metadata"][key] != value:
                    raise StatusError(409, "Conflict", f"the {key} in the precondition ({value}) is not the object's")
            if obj["metadata"].get("finalizers"):
                marked = copy.deepcopy(obj)
                marked["metadata"]["deletionTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                self._keep("MODIFIED", path, marked)
                return marked
            self._drop(path, name)
            return obj

    def forget_versions(self) -> None:
        """Make every version seen so far too old to watch from."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.changed.notify_all()

    def settle(self, within_s: float = 20) -> None:
        """Wait until no request is in progress, not even one of a killed process."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.working == 0, within_s)

    def collect(self) -> None:
        """Run the garbage collector."""
        with self.changed:
            self.collects_garbage = True
            self._collect()

    def existing(self, path: str, name: str) -> JSON:
        """The object, not a copy."""
        plural = path.rsplit("/", 1)[1]
        if (path, name) not in self.objects:
            raise StatusError(404, "NotFound", f'{plural} "{name}" not found')
        return self.objects[path, name]

    def _keep(self, event: str, path: str, obj: JSON) -> None:
        self.version += 1
        for name in self.pruned:
            obj.get("spec", {}).pop(name, None)
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.objects[path, obj["metadata"]["name"]] = obj
        self.history.append((self.version, event, path, copy.deepcopy(obj)))
        self.changed.notify_all()

    def _drop(self, path: str, name: str) -> None:
        gone = self.objects.pop((path, name))
        self.uids.discard(gone["metadata"]["uid"])
        self.version += 1
        self.history.append((self.version, "DELETED", path, copy.deepcopy(gone)))
        self.changed.notify_all()
        self.on("deleted", path.rsplit("/", 1)[1], copy.deepcopy(gone))
        self._collect()

    def _collect(self) -> None:
        """Delete the objects all of whose owners are gone."""
        for (path, name), obj in list(self.objects.items() if self.collects_garbage else ()):
            owners = [reference["uid"] for reference in obj["metadata"].get("ownerReferences", ())]
            orphaned = bool(owners) and self.uids.isdisjoint(owners)
            if orphaned and (path, name) in self.objects and "deletionTimestamp" not in obj["metadata"]:
                self.delete(path, name, {})


def check_admitted(plural: str, obj: JSON) -> None:
    """Raise StatusError if KServe's validating webhook denies the object (kserve/kserve #5340)."""
    if plural not in ("inferenceservices", "servingruntimes"):
        return
    spec = obj.get("spec", {})
    predictor = spec.get("predictor", {})
    containers = (*spec.get("containers", ()), *predictor.get("containers", ()), predictor.get("model", {}))
    if any(variable["name"] == "PYTHONPATH" for container in containers for variable in container.get("env", ())):
        webhook = f"{plural.removesuffix('s')}.kserve-webhook-server.validator"
        raise StatusError(
            403,
            "Forbidden",
            f'admission webhook "{webhook}" denied the request: setting PYTHONPATH in container is not allowed for '
            "security reasons",
        )


def check_patch(obj: JSON, patch: JSON) -> None:
    """Raise StatusError if the patch changes an immutable field, or is for another version."""
    metadata = patch.get("metadata", {})
    for key, code in (("uid", 422), ("resourceVersion", 409)):
        if metadata.get(key, obj["metadata"][key]) != obj["metadata"][key]:
            raise StatusError(code, "Invalid" if code == 422 else "Conflict", f"metadata.{key}: field is immutable")


def merged(obj: JSON, patch: JSON) -> None:
    """Apply a JSON merge patch (RFC 7386)."""
    for key, value in patch.items():
        if value is None:
            obj.pop(key, None)
        elif isinstance(value, dict):
            merged(obj.setdefault(key, {}), value)
        else:
            obj[key] = value


def value_at(obj: JSON, field_path: str) -> object:
    """The value of a field like `metadata.name`; None if the object does not have it."""
    value: Any = obj
    for key in field_path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def selected(obj: JSON, query: dict[str, str]) -> bool:
    """Whether the object matches the label selector and the field selector."""
    labels = obj["metadata"].get("labels", {})
    for requirement in filter(None, query.get("labelSelector", "").split(",")):
        name, equals, value = requirement.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    for requirement in filter(None, query.get("fieldSelector", "").split(",")):
        name, _, value = requirement.partition("=")
        if value_at(obj, name) != value:
            return False
    return True
