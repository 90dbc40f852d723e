"""What the stand-in for a Kubernetes API server knows and does, without HTTP: see kubernetes_server.py."""

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
    """An answer other than the object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass(frozen=True)
class Request:
    """What was asked."""

    verb: str
    plural: str
    name: str

    def __str__(self) -> str:
        return f"{self.verb} {self.plural}"


@dataclass
class Cluster:
    """The state, and what a test wants of it."""

    on: Callable[[str, str, JSON], None] = lambda *_: None
    """Called with `created`, `changed` or `deleted`, the plural and the object."""
    faults: Callable[[int, Request], int | None] = lambda *_: None
    """From a request and its number, from 1, to the status with which it fails."""
    headers: dict[str, str] = field(default_factory=dict)
    """Of the answers with which requests fail."""
    forbidden: set[str] = field(default_factory=set)
    """`create leases`."""
    absent: set[str] = field(default_factory=set)
    """Plurals that this cluster does not know."""
    logs: dict[tuple[str, str, bool], str] = field(default_factory=dict)
    """By pod, container and whether it is the previous one."""
    collects_garbage: bool = True
    watch_s: float = 0.2
    """How long a watch lasts at most: an API server may end one before the time that its client asks for."""
    objects: dict[Key, JSON] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    working: int = 0
    """How many requests are being worked on, whether or not somebody still waits for them."""
    version: int = 0
    oldest: int = 0
    """The version from which a watch can still begin."""
    history: list[tuple[int, str, str, JSON]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    stopped: bool = False
    uids: set[str] = field(default_factory=set)

    def all(self, plural: str) -> list[JSON]:
        """The objects of a kind."""
        with self.changed:
            return [copy.deepcopy(each) for (path, _), each in self.objects.items() if path.endswith(f"/{plural}")]

    def counted(self) -> Counter[str]:
        """How often each `verb plural` was asked."""
        return Counter(map(str, self.requests))

    def create(self, path: str, body: JSON) -> JSON:
        """Make an object at the path of its collection, e.g. `apis/apps/v1/deployments`."""
        with self.changed:
            made, plural = copy.deepcopy(body), path.rsplit("/", 1)[1]
            name = made["metadata"]["name"]
            if (path, name) in self.objects:
                raise StatusError(409, "AlreadyExists", f'{plural} "{name}" already exists')
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            given = {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": now, "namespace": "quantgate"}
            made["metadata"] = given | made["metadata"]
            self.uids.add(made["metadata"]["uid"])
            self._keep("ADDED", path, made)
            self.on("created", plural, copy.deepcopy(made))
            self._collect()
            return copy.deepcopy(made)

    def change(self, plural: str, name: str, how: Callable[[JSON], None]) -> JSON:
        """Change an object in place, as a controller would."""
        with self.changed:
            path = next(each for each, named in self.objects if named == name and each.endswith(f"/{plural}"))
            found = self.objects[path, name]
            made = copy.deepcopy(found)
            how(made)
            if made.get("spec") != found.get("spec"):
                made["metadata"]["generation"] += 1
            if "deletionTimestamp" in made["metadata"] and not made["metadata"].get("finalizers"):
                self._drop(path, name)
            else:
                self._keep("MODIFIED", path, made)
                self.on("changed", plural, copy.deepcopy(made))
            return copy.deepcopy(made)

    def delete(self, path: str, name: str, preconditions: JSON) -> JSON:
        """Delete an object, or mark it where finalizers hold it."""
        with self.changed:
            found = self.found(path, name)
            for key, value in preconditions.items():
                if found["metadata"][key] != value:
                    raise StatusError(409, "Conflict", f"the {key} in the precondition ({value}) is not the object's")
            if found["metadata"].get("finalizers"):
                marked = copy.deepcopy(found)
                marked["metadata"]["deletionTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                self._keep("MODIFIED", path, marked)
                return marked
            self._drop(path, name)
            return found

    def forget_versions(self) -> None:
        """Make every version seen so far too old to watch from."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.changed.notify_all()

    def settle(self, within_s: float = 20) -> None:
        """Wait until nothing is worked on: what a killed process asked for is done or not."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.working == 0, within_s)

    def collect(self) -> None:
        """Let the garbage collector work now."""
        with self.changed:
            self.collects_garbage = True
            self._collect()

    def found(self, path: str, name: str) -> JSON:
        """The object, not a copy."""
        plural = path.rsplit("/", 1)[1]
        if (path, name) not in self.objects:
            raise StatusError(404, "NotFound", f'{plural} "{name}" not found')
        return self.objects[path, name]

    def _keep(self, event: str, path: str, obj: JSON) -> None:
        self.version += 1
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
        """Delete what has owners and none that lives."""
        for (path, name), obj in list(self.objects.items() if self.collects_garbage else ()):
            owners = [each["uid"] for each in obj["metadata"].get("ownerReferences", ())]
            orphaned = bool(owners) and self.uids.isdisjoint(owners)
            if orphaned and (path, name) in self.objects and "deletionTimestamp" not in obj["metadata"]:
                self.delete(path, name, {})


def check_patch(obj: JSON, patch: JSON) -> None:
    """Raise when the patch would change what cannot be changed, or is for another version."""
    asked = patch.get("metadata", {})
    for key, code in (("uid", 422), ("resourceVersion", 409)):
        if asked.get(key, obj["metadata"][key]) != obj["metadata"][key]:
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
    """The value of a field like `metadata.name`; None where the object lacks it."""
    found: Any = obj
    for each in field_path.split("."):
        found = found.get(each) if isinstance(found, dict) else None
    return found


def selected(obj: JSON, query: dict[str, str]) -> bool:
    """Whether label and field selector let the object through."""
    labels = obj["metadata"].get("labels", {})
    for each in filter(None, query.get("labelSelector", "").split(",")):
        name, equals, value = each.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    for each in filter(None, query.get("fieldSelector", "").split(",")):
        name, _, value = each.partition("=")
        if value_at(obj, name) != value:
            return False
    return True
