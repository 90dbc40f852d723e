"""The Kubernetes API as serving needs it: plain objects in and out, retries, errors that say what to do.

It uses the official client, unpatched. After a transient failure (429, 5xx, a lost connection) a call is retried until
PATIENCE_S have passed, or longer until the client's deadline; a line in the log says so. So a controller that is
upgraded, and whose admission webhook does not answer, costs only time. The error of a forbidden call names the account,
the verb and the resource.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import kubernetes
from kubernetes.client.exceptions import ApiException
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential, wait_random
from urllib3.exceptions import HTTPError

from quantgate.components.errors import PrerequisiteError

JSON = dict[str, Any]
"""An object of the API as JSON: the cluster defines its schema."""
PATIENCE_S = 60.0
LONGEST_PAUSE_S = 30.0
"""The longest pause for a server's Retry-After: some servers ask for an hour."""
TIMEOUTS_S = (5, 30)
"""To connect, and to read."""
NO_TLS = 0
"""The client's status for a TLS failure: a load balancer that restarts, or a wrong certificate."""
TRANSIENT = (NO_TLS, HTTPStatus.TOO_MANY_REQUESTS)
"""Besides all of 5xx; an admission webhook that cannot be reached is a 500."""
WHO = re.compile(r'User "([^"]+)"')
NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
RBAC = "Grant it that right (the roles are in manifests/base), or run the step under an account that has it."


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object: its group, version and names in the API."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    singular: str
    """In the core group as the client's methods spell it, e.g. `config_map`; in other groups the kubectl name."""

    def __str__(self) -> str:
        """The name that RBAC and kubectl use."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


INFERENCE_SERVICE = ObjectKind("serving.kserve.io", "v1beta1", "inferenceservices", "inferenceservice")
LLM_INFERENCE_SERVICE = ObjectKind("serving.kserve.io", "v1alpha2", "llminferenceservices", "llminferenceservice")
SERVING_RUNTIME = ObjectKind("serving.kserve.io", "v1alpha1", "servingruntimes", "servingruntime")
DEPLOYMENT = ObjectKind("apps", "v1", "deployments", "deployment")
JOB = ObjectKind("batch", "v1", "jobs", "job")
LEASE = ObjectKind("coordination.k8s.io", "v1", "leases", "lease")
SERVICE = ObjectKind("", "v1", "services", "service")
CONFIG_MAP = ObjectKind("", "v1", "configmaps", "config_map")
SECRET = ObjectKind("", "v1", "secrets", "secret")
POD = ObjectKind("", "v1", "pods", "pod")
EVENT = ObjectKind("", "v1", "events", "event")
ACCESS_REVIEW = ObjectKind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "selfsubjectaccessreview")
SELF_REVIEW = ObjectKind("authentication.k8s.io", "v1", "selfsubjectreviews", "selfsubjectreview")


class ClusterClient:
    """One namespace of a cluster, through the service account of this pod or the current kubeconfig."""

    def __init__(self, namespace: str, patience_s: float = PATIENCE_S, *, deadline: float = 0.0) -> None:
        """`deadline` is a time of the monotonic clock until which calls are retried, if it is later."""
        self.namespace, self.patience_s, self.deadline = namespace, patience_s, deadline
        settings = configuration()
        settings.retries = False  # urllib3's retries are invisible here, and wait as long as the server asks
        self.host = settings.host
        self.client = kubernetes.client.ApiClient(settings)
        self.core = kubernetes.client.CoreV1Api(self.client)
        self.custom = kubernetes.client.CustomObjectsApi(self.client)

    def create(self, kind: ObjectKind, body: JSON) -> JSON | None:
        """The created object; None if an object of that name exists."""
        call = partial(self._method("create", kind), body=body)
        return self._answer(call, "create", kind, absent=(HTTPStatus.CONFLICT,))

    def get(self, kind: ObjectKind, name: str) -> JSON | None:
        """The object; None if it does not exist."""
        call = partial(self._method("get", kind), name=name)
        return self._answer(call, "get", kind, absent=(HTTPStatus.NOT_FOUND,))

    def listed(self, kind: ObjectKind, labels: str = "", fields: str = "") -> tuple[list[JSON], str]:
        """The matching objects, and the version from which to watch them; none of a kind that the cluster lacks."""
        call = partial(self._method("list", kind), label_selector=labels, field_selector=fields)
        answer = self._answer(call, "list", kind, absent=(HTTPStatus.NOT_FOUND,)) or {}
        return answer.get("items", []), answer.get("metadata", {}).get("resourceVersion", "")

    def patch(self, kind: ObjectKind, name: str, change: JSON) -> JSON | None:
        """The object after a JSON merge patch (RFC 7386); None if it does not exist or has another uid than the patch.

        A patch without a version conflicts only with a simultaneous change: it is retried.
        """
        call = partial(self._method("patch", kind), name=name, body=change)
        absent = (HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)
        return self._answer(call, "patch", kind, absent)

    def delete(self, kind: ObjectKind, name: str, uid: str = "", version: str = "") -> bool:
        """Delete the object if it still has that uid and version; returns whether it had.

        The cluster's garbage collector deletes the objects that it owns.
        """
        preconditions = {key: value for key, value in (("uid", uid), ("resourceVersion", version)) if value}
        body = {"propagationPolicy": "Background", "preconditions": preconditions}
        call = partial(self._method("delete", kind), name=name, body=body)
        return self._answer(call, "delete", kind, absent=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)) is not None

    def may(self, verb: str, kind: ObjectKind, subresource: str = "") -> bool:
        """Whether this account may do that in the namespace: a SelfSubjectAccessReview, which every account may ask."""
        place = {"namespace": self.namespace, "group": kind.group, "resource": kind.plural, "subresource": subresource}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"verb": verb, **place}},
        }
        ask = kubernetes.client.AuthorizationV1Api(self.client).create_self_subject_access_review
        answer = self._answer(partial(ask, body=body), "create", ACCESS_REVIEW, absent=()) or {}
        return bool(answer.get("status", {}).get("allowed"))

    def own_account(self) -> str:
        """The name of this account, as the API server knows it."""
        ask = kubernetes.client.AuthenticationV1Api(self.client).create_self_subject_review
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = self._answer(partial(ask, body=body), "create", SELF_REVIEW, absent=()) or {}
        return str(answer.get("status", {}).get("userInfo", {}).get("username", "of this pod"))

    def log(self, pod: str, container: str, lines: int, *, previous: bool) -> list[str]:
        """The last lines of a container's log, or of its log before a restart; an empty list if there is no log.

        It is requested once, without retries. A log that cannot be read returns a line that says so: the log comes from
        the node's kubelet, which may be unreachable, and a server that starts well needs no log.
        """
        call = partial(
            self.core.read_namespaced_pod_log,
            namespace=self.namespace,
            name=pod,
            container=container,
            previous=previous,
            tail_lines=lines,
        )
        try:
            data: bytes = call(_preload_content=False, _request_timeout=TIMEOUTS_S).data
        except ApiException as error:
            if error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST):
                return []
            return [f"(the log cannot be read: {refused(error, 'get', 'pods/log', self.namespace)})"]
        except HTTPError as error:
            return [f"(the log cannot be read: {error})"]
        return data.decode("utf-8", errors="replace").splitlines()

    def changes(self, kind: ObjectKind, name: str, version: str, within_s: int) -> Iterator[JSON | None]:
        """The object after each change since `version`, None after its deletion, for `within_s` seconds.

        Ends early if the connection is lost or the version is too old to watch from: list the object again then.
        """
        watch = kubernetes.watch.Watch(return_type="object")
        method = self._method("list", kind)
        try:
            for event in watch.stream(
                method,
                field_selector=f"metadata.name={name}",
                resource_version=version,
                timeout_seconds=within_s,
                _request_timeout=(TIMEOUTS_S[0], within_s + TIMEOUTS_S[1]),
            ):
                yield None if event["type"] == "DELETED" else event["raw_object"]
        except HTTPError:
            return
        except ApiException as error:
            if error.status != HTTPStatus.GONE and not is_transient(error):
                raise refused(error, "watch", kind, self.namespace) from error

    def _method(self, verb: str, kind: ObjectKind) -> Callable[..., Any]:
        if kind.group:  # Deployments and Leases too: their paths have the same form, and the answers stay plain objects
            method = getattr(self.custom, f"{verb}_namespaced_custom_object")
            where = {"group": kind.group, "version": kind.version, "plural": kind.plural}
            return partial(method, namespace=self.namespace, **where)
        name = f"{'read' if verb == 'get' else verb}_namespaced_{kind.singular}"
        return partial(getattr(self.core, name), namespace=self.namespace)

    def _answer(self, call: Callable[..., Any], verb: str, kind: ObjectKind, absent: tuple[int, ...]) -> JSON | None:
        data = self._data(call, verb, kind, absent)
        answer: JSON | None = None if data is None else json.loads(data)
        return answer

    def _data(self, call: Callable[..., Any], verb: str, kind: ObjectKind, absent: tuple[int, ...]) -> bytes | None:
        """The bytes of the answer; None for one of the `absent` statuses."""
        statuses = (*TRANSIENT, HTTPStatus.CONFLICT) if verb == "patch" else TRANSIENT
        patience_s = max(self.patience_s, self.deadline - time.monotonic())
        retrying = Retrying(
            retry=retry_if_exception(partial(is_transient, statuses=statuses)),
            wait=pause_s,
            stop=stop_after_delay(patience_s),
            before_sleep=Waiting(f"{verb} {kind} in {self.namespace}", patience_s),
            reraise=True,
        )
        try:
            # undecoded: the client's models reject some of the API's answers, such as an event without a series
            data: bytes = retrying(lambda: call(_preload_content=False, _request_timeout=TIMEOUTS_S).data)
            return data
        except ApiException as error:
            if error.status in absent and (error.status != HTTPStatus.NOT_FOUND or verb != "create"):
                return None
            if error.status == NO_TLS:
                raise self._no_answer(error.reason, patience_s) from error
            waited_s = patience_s if is_transient(error) else 0.0
            raise refused(error, verb, kind, self.namespace, waited_s) from error
        except HTTPError as error:
            raise self._no_answer(error, patience_s) from error

    def _no_answer(self, reason: object, patience_s: float) -> PrerequisiteError:
        return PrerequisiteError(
            f"The Kubernetes API at {self.host} did not answer for {patience_s:.0f} s: {reason}. Check that this "
            "pod may reach it (network policies), or the current context of your kubeconfig."
        )


class Waiting:
    """Prints one line for each reason why a call is retried; called before each pause."""

    def __init__(self, call: str, patience_s: float) -> None:
        self.call, self.patience_s = call, patience_s
        self.printed: set[str] = set()

    def __call__(self, state: RetryCallState) -> None:
        """Print the reason of the last attempt, unless it is printed already."""
        error = state.outcome.exception() if state.outcome else None
        reason = message_of(error) if isinstance(error, ApiException) else str(error)
        digest = NUMBER.sub("", reason)  # ports and addresses change from one attempt to the next
        if digest not in self.printed:
            self.printed.add(digest)
            print(f"quantgate: cannot {self.call} now, trying for up to {self.patience_s:.0f} s: {reason}", flush=True)


def configuration() -> "kubernetes.client.Configuration":
    """The connection to the cluster: this pod's service account, else the kubeconfig."""
    settings = kubernetes.client.Configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            kubernetes.config.load_incluster_config(client_configuration=settings)
        else:
            file = os.environ.get("KUBECONFIG") or "~/.kube/config"  # the client reads KUBECONFIG once, when imported
            kubernetes.config.load_kube_config(file, client_configuration=settings)
    except kubernetes.config.ConfigException as error:
        raise PrerequisiteError(
            f"No connection to a cluster is configured: {error} Run in a pod with a service account, set KUBECONFIG, "
            "or serve on this machine with QUANTGATE_SERVING=local."
        ) from error
    return settings


def is_transient(error: BaseException, statuses: tuple[int, ...] = TRANSIENT) -> bool:
    """Whether a retry may succeed."""
    if not isinstance(error, ApiException):
        return isinstance(error, HTTPError)
    return error.status in statuses or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR


def pause_s(state: RetryCallState) -> float:
    """Seconds until the next try: the server's Retry-After, else twice as long each time, up to ten."""
    error = state.outcome.exception() if state.outcome else None
    retry_after = str((getattr(error, "headers", None) or {}).get("Retry-After", ""))
    backoff = wait_exponential(multiplier=0.2, max=10) + wait_random(0, 0.2)
    return min(float(retry_after), LONGEST_PAUSE_S) if retry_after.isdecimal() else backoff(state)


def refused(
    error: ApiException, verb: str, kind: ObjectKind | str, namespace: str, waited_s: float = 0.0
) -> PrerequisiteError:
    """An error that says what the API's refusal means and what to do; `waited_s` is how long the call was retried."""
    message = message_of(error)
    if error.status == HTTPStatus.FORBIDDEN and (account := WHO.search(message)):
        return PrerequisiteError(f"{account[1]} may not {verb} {kind} in the namespace {namespace}. {RBAC}")
    if error.status == HTTPStatus.UNAUTHORIZED:
        return PrerequisiteError(
            f"The cluster does not know the account that wants to {verb} {kind}: log in again ({message})."
        )
    if error.status == HTTPStatus.NOT_FOUND:
        missing = f"There is no namespace {namespace}" if "namespaces" in message else f"The cluster has no {kind}"
        return PrerequisiteError(
            f"{missing} ({message}). Install KServe and manifests/, or serve without it: QUANTGATE_SERVING=deployment."
        )
    refusal = f"The cluster refused to {verb} {kind} in {namespace}"
    if waited_s:
        return PrerequisiteError(f"{refusal} for {waited_s:.0f} s: {message} Check the controller that it names.")
    return PrerequisiteError(f"{refusal}: {message}")


def message_of(error: ApiException) -> str:
    """The API's own message."""
    body = error.body.decode("utf-8", errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip() or f"{error.status} {error.reason}"
