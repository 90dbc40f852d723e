"""Stands in for a Kubernetes API server: real HTTP in a thread, any resource by its path, state with resourceVersions.

It behaves in the ways that clients must handle: conflicts, preconditions, finalizers, the garbage collector, watches
that end or are too old (410), label and field selectors, merge patches. A test plays the controllers: `on` is called
after each change. `faults` fails requests: with a status, or by a lost connection, before or after the request was
executed.
"""

import contextlib
import copy
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.kubernetes_state import Cluster, Request, StatusError, check_patch, merged, selected

USER = "system:serviceaccount:quantgate:quantgate-pipeline"
WEBHOOK_UNREACHABLE = (
    'Internal error occurred: failed calling webhook "{plural}.kserve-webhook-server.defaulter": failed to call '
    'webhook: Post "https://kserve-webhook-server-service.kserve.svc:443/mutate-{plural}?timeout=10s": read tcp '
    "172.18.0.2:{port}->10.96.211.7:443: read: connection reset by peer"
)
"""What the API server answers, with status 500, while an admission webhook cannot be reached."""
VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
LOST, LOST_AFTER = 0, -1
"""A fault instead of a status: the connection is lost before, or after, the request was executed."""


class Handler(BaseHTTPRequestHandler):
    """Translate HTTP requests into calls of the cluster."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: the second would wait 40 ms for the first's ACK
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def answer(self) -> None:
        """Answer any method."""
        with self.cluster.changed:
            self.cluster.working += 1
        try:
            self.answer_one()
        finally:
            self.done()

    def done(self) -> None:
        """Count the request as finished."""
        with self.cluster.changed:
            self.cluster.working -= 1
            self.cluster.changed.notify_all()

    def answer_one(self) -> None:
        """Execute the request and answer it."""
        cluster = self.cluster
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        path, name, subresource = split_path(url.path)
        plural = path.rsplit("/", 1)[1] + (f"/{subresource}" if subresource else "")
        verb = VERBS.get(self.command) or ("watch" if query.get("watch") else "get" if name else "list")
        request = Request(verb, plural, name)
        with cluster.changed:
            cluster.requests.append(request)
            number = len(cluster.requests)
        fault = cluster.faults(number, request)
        if fault == LOST:
            self.hang_up()
            return
        try:
            if fault and fault > 0:
                raise StatusError(fault, "Fault", "the server is in trouble")
            refuse(cluster, request, path)
            admit(cluster, request)
            if verb == "watch":
                self.watch(path, query)
                return
            answer = execute(cluster, request, path, query, body, self.headers.get("Content-Type", ""))
        except StatusError as error:
            status = {"kind": "Status", "status": "Failure", "code": error.code, "reason": error.reason}
            self.send(error.code, {**status, "message": str(error)})
            return
        if fault == LOST_AFTER:
            self.hang_up()
        else:
            self.send(201 if verb == "create" else 200, answer)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

    def hang_up(self) -> None:
        """Close the connection without an answer."""
        self.close_connection = True
        self.connection.close()

    def send(self, status: int, body: object) -> None:
        """Send JSON, or text."""
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for header, value in self.cluster.headers.items() if status >= 400 else ():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(data)

    def watch(self, path: str, query: dict[str, str]) -> None:
        """Stream the changes until the timeout."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cluster, since = self.cluster, int(query.get("resourceVersion") or 0)
        deadline = time.monotonic() + min(cluster.watch_s, int(query.get("timeoutSeconds", 1)))
        while True:
            with cluster.changed:
                if since < cluster.oldest:
                    events = [{"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}]
                    deadline = 0.0
                else:
                    fresh = [event for event in cluster.history if event[0] > since and event[2] == path]
                    events = [{"type": e, "object": obj} for _, e, _, obj in fresh if selected(obj, query)]
                    since = cluster.version
                if not events and time.monotonic() < deadline and not cluster.stopped:
                    cluster.changed.wait(max(0.0, deadline - time.monotonic()))
                    continue
            for event in events:
                self.chunk(json.dumps(event).encode() + b"\n")
            if time.monotonic() >= deadline or cluster.stopped:
                self.chunk(b"")
                return

    def chunk(self, data: bytes) -> None:
        """Send a piece of a stream; the empty one ends it."""
        with contextlib.suppress(ConnectionError):  # the client may have closed the watch
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()


def split_path(path: str) -> tuple[str, str, str]:
    """The collection's path without its namespace, the object's name and its subresource."""
    parts = path.strip("/").split("/")
    if "namespaces" not in parts:  # a review of the account's own rights
        return path.strip("/"), "", ""
    before = parts.index("namespaces")
    rest = [*parts[before + 2 :], "", ""]
    return "/".join([*parts[:before], rest[0]]), rest[1], rest[2]


def refuse(cluster: Cluster, request: Request, path: str) -> None:
    """Raise StatusError for a request that the cluster does not support or allow."""
    if request.plural in cluster.absent:
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    if str(request) in cluster.forbidden:
        group = path.split("/")[1] if path.startswith("apis/") else ""
        raise StatusError(
            403,
            "Forbidden",
            f'{request.plural} is forbidden: User "{USER}" cannot {request.verb} resource "{request.plural}" in API '
            f'group "{group}" in the namespace "quantgate"',
        )


def admit(cluster: Cluster, request: Request) -> None:
    """Raise StatusError for a write whose admission webhook is unreachable."""
    with cluster.changed:
        left = cluster.unreachable_webhooks.get(request.plural, 0)
        if not left or request.verb not in ("create", "patch", "update"):
            return
        cluster.unreachable_webhooks[request.plural] = left - 1
    raise StatusError(500, "InternalError", WEBHOOK_UNREACHABLE.format(plural=request.plural, port=40000 + left))


def execute(
    cluster: Cluster, request: Request, path: str, query: dict[str, str], body: Any, content_type: str
) -> object:
    """Execute the request; returns the body of the answer."""
    if request.plural == "pods/log":
        key = (request.name, query["container"], query.get("previous", "False").lower() == "true")
        if key not in cluster.logs:
            raise StatusError(400, "BadRequest", f"previous terminated container {key[1]} not found")
        return "".join(cluster.logs[key].splitlines(keepends=True)[-int(query["tailLines"]) :])
    if request.plural == "selfsubjectreviews":
        return {**body, "status": {"userInfo": {"username": USER}}}
    if request.plural == "selfsubjectaccessreviews":
        wanted = body["spec"]["resourceAttributes"]
        subresource = f"/{wanted['subresource']}" if wanted.get("subresource") else ""
        right = Request(wanted["verb"], f"{wanted['resource']}{subresource}", "")
        return {**body, "status": {"allowed": str(right) not in cluster.forbidden}}
    with cluster.changed:
        if request.verb == "create":
            return cluster.create(path, body)
        if request.verb == "list":
            matching = [
                obj for (collection, _), obj in cluster.objects.items() if collection == path and selected(obj, query)
            ]
            return {"metadata": {"resourceVersion": str(cluster.version)}, "items": copy.deepcopy(matching)}
        current = cluster.existing(path, request.name)
        if request.verb == "patch":
            if content_type != "application/merge-patch+json":
                raise StatusError(415, "UnsupportedMediaType", f"{content_type} is not for custom resources")
            check_patch(current, body)
            return cluster.change(request.plural, request.name, lambda obj: merged(obj, body))
        if request.verb == "delete":
            return cluster.delete(path, request.name, body.get("preconditions") or {})
        return copy.deepcopy(current)


@contextlib.contextmanager
def running(cluster: Cluster, kubeconfig: Path, handler: type[Handler] = Handler) -> Iterator[str]:
    """Serve the cluster during the block, write its kubeconfig, and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), {"cluster": cluster}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    name = {"name": "stand-in"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{**name, "cluster": {"server": address}}],
        "users": [{**name, "user": {"token": "none"}}],
        "contexts": [{**name, "context": {"cluster": "stand-in", "user": "stand-in"}}],
        "current-context": "stand-in",
    }
    kubeconfig.write_text(json.dumps(config), encoding="utf-8")
    try:
        yield address
    finally:
        with cluster.changed:
            cluster.stopped = True
            cluster.changed.notify_all()
        server.shutdown()
        server.server_close()
        thread.join()
