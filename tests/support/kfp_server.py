"""Stands in for Kubeflow Pipelines at the process edge: its v2beta1 REST API, with state, and an S3 beside it.

A script lists the states of a run, one for each request for its state. A fault applies to one request with this method
and beginning of the path: a status, `drop` (the connection ends unanswered), `late` (it ends after the request was
executed), `blind` (a list is empty) or the seconds by which the answer is late.
"""

import base64
import contextlib
import http.server
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.support.kfp_workflow import pod_of, task_details, workflow

JSON = dict[str, Any]
APIS, API = "/apis/", "/apis/v2beta1/"
SUCCEEDS: tuple[tuple[str, dict[str, str]], ...] = (
    ("PENDING", {}),
    ("RUNNING", {"report": "RUNNING"}),
    ("SUCCEEDED", {"report": "SUCCEEDED"}),
)


class RefusedError(Exception):
    """The server answers with this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class State:
    """The server's state and behaviour."""

    version: str = "2.17.0"
    token: str = ""
    """The token that a request must have, if not empty."""
    namespaces: tuple[str, ...] = ()
    """The namespaces of this user, if several users share the server."""
    login_page: bool = False
    """Whether every request is answered with a login page."""
    script: list[tuple[str, dict[str, str]]] = field(default_factory=lambda: list(SUCCEEDS))
    """The states of the run and its tasks at each request; the last one stays. `quantize 2`: of the second variant."""
    logs: dict[str, str] = field(default_factory=dict)
    """By task; the pod of a task without a log is deleted."""
    kept_logs: dict[str, str] = field(default_factory=dict)
    """By task, the logs that Argo keeps as artifacts."""
    kept_logs_after: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By task, such a log and after how many requests for it it is there."""
    is_page: bool = False
    """Whether requests go to its web page, as with --port-forward: it passes on v1beta1 and v2beta1 (server/app.ts)."""
    has_v1: bool = True
    """Whether it serves the older APIs, with the workflow and the logs."""
    page_size: int = 2
    faults: list[tuple[str, str, float | str]] = field(default_factory=list)
    objects: dict[str, dict[str, JSON]] = field(
        default_factory=lambda: {kind: {} for kind in ("pipelines", "versions", "experiments", "runs", "recurringruns")}
    )
    requests_of_run: dict[str, int] = field(default_factory=dict)
    terminated: list[str] = field(default_factory=list)
    ended_with_their_schedule: list[str] = field(default_factory=list)
    """The runs whose workflow was deleted with the ScheduledWorkflow that owns it."""
    s3: dict[str, str] = field(default_factory=dict)
    """Text by /bucket/key."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each accepted request."""
    on_run: Callable[[JSON], None] = lambda _run: None
    port: int = 0
    created: int = 0

    @property
    def host(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def keep(self, kind: str, key: str, body: JSON) -> JSON:
        """A new object of that kind, with its id under that key."""
        self.created += 1
        body = {**body, key: f"{kind[:-1]}-{self.created}", "created_at": "2026-11-21T10:00:00Z"}
        self.objects[kind][body[key]] = body
        return body

    def started_by(self, schedule: JSON, status: str = "RUNNING") -> str:
        """The id of a new run that the schedule has started."""
        begun = {"experiment_id": schedule["experiment_id"], "state": status, "display_name": "by the clock"}
        run = self.keep("runs", "run_id", {**begun, "recurring_run_id": schedule["recurring_run_id"]})
        return str(run["run_id"])

    def only(self, kind: str) -> JSON:
        """The one object of that kind."""
        (body,) = self.objects[kind].values()
        return body

    def listing(self, kind: str, query: dict[str, str], wanted: Callable[[JSON], bool]) -> tuple[list[JSON], str]:
        """One page of the objects that `wanted` and the query's filter select, and the next page's token."""
        names = [
            predicate["stringValue"] for predicate in json.loads(query.get("filter") or "{}").get("predicates", [])
        ]
        matching = [body for body in self.objects[kind].values() if wanted(body)]
        matching = [body for body in matching if not names or body["display_name"] in names]
        begin = int(query.get("page_token") or 0)
        more = begin + self.page_size < len(matching)
        return matching[begin : begin + self.page_size], str(begin + self.page_size) if more else ""

    def allowed(self, namespace: str) -> None:
        """Refuse other users' namespaces, as a multi-user Kubeflow does; a single-user one has no namespaces."""
        if self.namespaces and namespace not in self.namespaces:
            raise RefusedError(403, f"User 'anna' is not authorized with reason: (namespace: {namespace})")
        if not self.namespaces and namespace:
            raise RefusedError(400, "In single-user mode, the request shouldn't contain a namespace")


def answer(state: State, method: str, path: str, query: dict[str, str], body: JSON) -> JSON:
    """The API's answer; raises RefusedError."""
    routes: list[tuple[str, str, Callable[..., JSON]]] = [
        ("GET", "healthz", lambda: {"multi_user": bool(state.namespaces), "tag_name": state.version}),
        ("GET", "pipelines", lambda: list_page(state, "pipelines", "pipelines", query)),
        ("POST", "pipelines", lambda: new_pipeline(state, body)),
        ("GET", "pipelines/([^/]+)/versions", lambda pipeline_id: versions(state, pipeline_id, query)),
        ("POST", "pipelines/upload_version", lambda: new_version(state, query, body)),
        ("GET", "experiments", lambda: list_page(state, "experiments", "experiments", query)),
        ("POST", "experiments", lambda: new_experiment(state, body)),
        ("GET", "runs", lambda: list_page(state, "runs", "runs", query)),
        ("POST", "runs", lambda: new_run(state, body)),
        ("GET", "runs/([^/:]+)", lambda run_id: next_state(state, run_id)),
        ("GET", "/apis/v1beta1/runs/([^/:]+)", lambda run_id: run_with_workflow(state, run_id)),
        ("POST", "runs/([^/:]+):terminate", lambda run_id: terminate(state, run_id)),
        ("GET", "recurringruns", lambda: list_page(state, "recurringruns", "recurringRuns", query)),
        ("POST", "recurringruns", lambda: new_schedule(state, body)),
        (
            "POST",
            "recurringruns/([^/:]+):(enable|disable)",
            lambda schedule_id, change: switch_schedule(state, schedule_id, change),
        ),
        ("DELETE", "recurringruns/([^/:]+)", lambda schedule_id: delete_schedule(state, schedule_id, query)),
    ]
    for verb, pattern, act in routes:
        if verb == method and (match := re.fullmatch(pattern, path)):
            return act(*match.groups())
    raise RefusedError(404, f"Not Found: {path}")


def list_page(state: State, kind: str, key: str, query: dict[str, str]) -> JSON:
    """A page of a list; a key without content is left out, as the real one does."""
    if kind in ("pipelines", "experiments"):
        state.allowed(query.get("namespace", ""))
    experiment = query.get("experiment_id")
    page, token = state.listing(kind, query, lambda run: not experiment or run["experiment_id"] == experiment)
    return ({key: page} if page else {}) | ({"next_page_token": token} if token else {})


def new_pipeline(state: State, body: JSON) -> JSON:
    state.allowed(body.get("namespace", ""))
    if any(pipeline["display_name"] == body["display_name"] for pipeline in state.objects["pipelines"].values()):
        raise RefusedError(409, f"Already exist error: the name {body['display_name']} already exist")
    return state.keep("pipelines", "pipeline_id", body)


def versions(state: State, pipeline_id: str, query: dict[str, str]) -> JSON:
    page, _ = state.listing("versions", query, lambda version: version["pipeline_id"] == pipeline_id)
    return {"pipeline_versions": page} if page else {}


def new_version(state: State, query: dict[str, str], body: JSON) -> JSON:
    existing(state, "pipelines", query["pipelineid"])
    taken = {(version["pipeline_id"], version["display_name"]) for version in state.objects["versions"].values()}
    if (query["pipelineid"], query["name"]) in taken:
        raise RefusedError(409, f"Already exist error: the name {query['name']} already exist")
    tags = json.loads(query.get("tags", "{}"))
    if any(len(text) > 63 for tag in tags.items() for text in tag):
        raise RefusedError(400, "Invalid input error: tag keys and values are limited to 63 characters")
    version = {
        "pipeline_id": query["pipelineid"],
        "display_name": query["name"],
        "content": body["content"],
        "tags": tags,
    }
    return state.keep("versions", "pipeline_version_id", version)


def new_experiment(state: State, body: JSON) -> JSON:
    state.allowed(body.get("namespace", ""))
    if any(experiment["display_name"] == body["display_name"] for experiment in state.objects["experiments"].values()):
        raise RefusedError(409, f"Already exist error: the name {body['display_name']} already exist")
    return state.keep("experiments", "experiment_id", body)


def new_run(state: State, body: JSON) -> JSON:
    existing(state, "experiments", body["experiment_id"])
    version = existing(state, "versions", body["pipeline_version_reference"]["pipeline_version_id"])
    check_parameters(version["content"], body["runtime_config"]["parameters"])
    run = state.keep("runs", "run_id", {**body, "state": "PENDING"})
    state.on_run(run)
    return run


KINDS: dict[str, type | tuple[type, ...]] = {
    "STRING": str,
    "BOOLEAN": bool,
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "LIST": list,
    "STRUCT": dict,
}


def check_parameters(content: str, parameters: JSON) -> None:
    """Refuse what the real one refuses: an unknown parameter, another type, a value that is not among the literals.

    See backend/src/apiserver/template/v2_template.go of Kubeflow Pipelines 2.17.
    """
    declared = compiled_inputs(content)
    if extra := parameters.keys() - declared.keys():
        raise RefusedError(400, f"parameter(s) provided are not required by pipeline: {', '.join(sorted(extra))}")
    for name, value in parameters.items():
        kind = declared[name]["parameterType"]
        if not isinstance(value, KINDS[kind]):
            raise RefusedError(400, f"input parameter {name} requires type {kind.lower()}")
        literals = declared[name].get("literals", [])
        if literals and value not in literals:
            raise RefusedError(
                400, f'input parameter "{name}" value {value} does not match any of the allowed literal values'
            )


def compiled_inputs(content: str) -> JSON:
    """The parameters of the uploaded pipeline, which the upload's form surrounds."""
    text = content[content.index("# PIPELINE DEFINITION") :].partition("\r\n--")[0]
    spec = next(iter(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))))
    parameters: JSON = spec["root"]["inputDefinitions"]["parameters"]
    return parameters


def next_state(state: State, run_id: str) -> JSON:
    run = existing(state, "runs", run_id)
    number = state.requests_of_run.get(run_id, 0)
    state.requests_of_run[run_id] = number + 1
    run["state"], tasks = state.script[min(number, len(state.script) - 1)]
    run["run_details"] = {"task_details": task_details(tasks)}
    return run


def run_with_workflow(state: State, run_id: str) -> JSON:
    """The run with its workflow, in the state that the last request for the run got."""
    existing(state, "runs", run_id)
    number = max(state.requests_of_run.get(run_id, 1) - 1, 0)
    _, tasks = state.script[min(number, len(state.script) - 1)]
    return {"pipeline_runtime": {"workflow_manifest": workflow(tasks, terminated=run_id in state.terminated)}}


def terminate(state: State, run_id: str) -> JSON:
    """Terminate the run: it is canceling until its workflow has failed with the deadline's message."""
    existing(state, "runs", run_id)
    state.terminated.append(run_id)
    _, tasks = state.script[min(max(state.requests_of_run.get(run_id, 1) - 1, 0), len(state.script) - 1)]
    ended = {
        name: "FAILED: Step exceeded its deadline" if outcome == "RUNNING" else outcome
        for name, outcome in tasks.items()
    }
    state.requests_of_run[run_id], state.script = 0, [("CANCELING", tasks), ("FAILED", ended)]
    return {}


def log_of(state: State, pod: str) -> str:
    """The log of the pod; as the real server, status 200 with an error in JSON when there is none."""
    for task, log in state.logs.items():
        if pod_of(task) == pod:
            return log
    return json.dumps({"error_message": f"Failed to read logs from pod {pod}: not found"})


def new_schedule(state: State, body: JSON) -> JSON:
    if len(body["trigger"]["cron_schedule"]["cron"].split()) != 6:
        raise RefusedError(400, "Schedule cron is not supported. Expected: six fields")
    return state.keep("recurringruns", "recurring_run_id", {**body, "status": "ENABLED"})


def switch_schedule(state: State, schedule_id: str, change: str) -> JSON:
    existing(state, "recurringruns", schedule_id)["status"] = f"{change.upper()}D"
    return {}


def delete_schedule(state: State, schedule_id: str, query: dict[str, str]) -> JSON:
    """Delete a recurring run; its ScheduledWorkflow owns the workflows that it started, so they go with it."""
    existing(state, "recurringruns", schedule_id)
    del state.objects["recurringruns"][schedule_id]
    if query.get("propagation_policy") != "ORPHAN":
        for run in state.objects["runs"].values():
            if run.get("recurring_run_id") == schedule_id and run["state"] == "RUNNING":
                state.ended_with_their_schedule.append(run["run_id"])
                run["state"] = "FAILED"
    return {}


def existing(state: State, kind: str, object_id: str) -> JSON:
    if object_id not in state.objects[kind]:
        raise RefusedError(404, f"ResourceNotFoundError: {kind[:-1]} {object_id} not found.")
    return state.objects[kind][object_id]


def kept_log(state: State, pod: str) -> tuple[int, str, bytes]:
    """The answer with the log that Argo keeps of the pod, in base64."""
    for task, (requests, log) in state.kept_logs_after.items():
        if pod_of(task) == pod:
            state.kept_logs_after[task] = (requests - 1, log)
            if requests <= 0:
                state.kept_logs[task] = log
    for task, log in state.kept_logs.items():
        if pod_of(task) == pod:
            data = base64.b64encode(log.encode()).decode()
            return 200, "application/json", json.dumps({"data": data}).encode()
    return 404, "application/json", b'{"error_message": "artifact not found"}'


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: the second would wait 40 ms for the first's ACK
    state: State

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def answer_request(self) -> None:
        """Answer the request, or fail it if the state says so."""
        length = int(self.headers.get("Content-Length", 0))
        request_body = self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        fault = self.fault(url.path)
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "blind":
            status, kind, data = 200, "application/json", b"{}"
        elif isinstance(fault, int):
            status, kind, data = fault, "text/plain", b"upstream"
        else:
            status, kind, data = self.respond(url, request_body)
        if fault == "late":
            self.close_connection = True
            return
        if isinstance(fault, float):
            time.sleep(fault)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """A request."""
        self.answer_request()

    def do_POST(self) -> None:
        """A request."""
        self.answer_request()

    def do_DELETE(self) -> None:
        """A request."""
        self.answer_request()

    def fault(self, path: str) -> float | str:
        """The fault for this request, which happens once."""
        for fault in self.state.faults:
            if fault[0] == self.command and path.removeprefix(API).startswith(fault[1]):
                self.state.faults.remove(fault)
                return fault[2]
        return ""

    def respond(self, url: urllib.parse.SplitResult, request_body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer."""
        state = self.state
        if url.path == "/k8s/pod/logs" and state.is_page:
            query = dict(urllib.parse.parse_qsl(url.query))
            log = log_of(state, query["podname"]) if query["podnamespace"] == "team" else ""
            return 200 if log else 404, "text/plain", log.encode()
        if not url.path.startswith(APIS):
            text = state.s3.get(urllib.parse.unquote(url.path))
            missing = b"<Error><Code>NoSuchKey</Code></Error>"
            return (404, "application/xml", missing) if text is None else (200, "text/plain", text.encode())
        if state.login_page:
            return 200, "text/html", b"<html><body>Log in</body></html>"
        if state.token and self.headers.get("authorization") != f"Bearer {state.token}":
            return (
                401,
                "application/json",
                json.dumps({"code": 16, "message": "Request header error: no user"}).encode(),
            )
        if not url.path.startswith(API) and not state.has_v1:
            return 404, "application/json", b'{"message": "Not Found"}'
        if pod := re.fullmatch("/apis/v1alpha1/runs/[^/]+/nodes/([^/]+)/log", url.path):
            return (404, "text/plain", b"") if state.is_page else (200, "text/plain", log_of(state, pod[1]).encode())
        if kept := re.fullmatch("/apis/v2beta1/runs/[^/]+/nodes/([^/]+)/artifacts/main-logs:read", url.path):
            return kept_log(state, kept[1])
        path = url.path.removeprefix(API)
        state.requests.append(f"{self.command} {path}")
        query = dict(urllib.parse.parse_qsl(url.query))
        multipart = self.headers.get("Content-Type", "").startswith("multipart/")
        try:
            body = {"content": request_body.decode()} if multipart else json.loads(request_body or b"{}")
            return 200, "application/json", json.dumps(answer(state, self.command, path, query, body)).encode()
        except RefusedError as refusal:
            error_body = {"error": str(refusal), "code": 5, "message": str(refusal)}
            return refusal.status, "application/json", json.dumps(error_body).encode()


@contextlib.contextmanager
def kubeflow_pipelines() -> Iterator[State]:
    """Run the server on a loopback port during the block."""
    state = State()
    handler = type("OwnHandler", (Handler,), {"state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
