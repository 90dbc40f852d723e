"""Questions to the Kubernetes API that change nothing: any path, access reviews, and rehearsed creations.

Unlike `ClusterClient` it returns refusals as answers: what the API refuses is what a check wants to know. A rehearsal
is a creation with `dryRun=All`: the API server runs every admission webhook, quota and default, and stores nothing.
"""

import json
from dataclasses import dataclass
from http import HTTPStatus

import kubernetes
from kubernetes.client.exceptions import ApiException
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed
from urllib3.exceptions import HTTPError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import (
    JSON,
    TIMEOUTS_S,
    WHO,
    configuration,
    is_transient,
    message_of,
)

TRIES, PAUSE_S = 3, 0.5
PLAIN = "application/json"
METADATA = f"{PLAIN};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@dataclass(frozen=True)
class Answer:
    """The API's answer to one question."""

    status: int
    body: JSON
    message: str = ""
    """The API's own, of a refusal."""

    @property
    def is_ok(self) -> bool:
        """Whether the API did what was requested."""
        return self.status < HTTPStatus.BAD_REQUEST

    @property
    def is_missing(self) -> bool:
        """Whether there is no such object, or no such kind."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def is_forbidden(self) -> bool:
        """Whether the account lacks the right; a webhook's refusal can have the same status, and is something else."""
        return self.status == HTTPStatus.FORBIDDEN and WHO.search(self.message) is not None

    @property
    def items(self) -> list[JSON]:
        """The objects of a list."""
        listed: list[JSON] = self.body.get("items") or []
        return listed


class ClusterQuestions:
    """Questions to one cluster, through the service account of this pod or the current kubeconfig."""

    def __init__(self) -> None:
        settings = configuration()
        settings.retries = False
        self.host: str = settings.host
        self.client = kubernetes.client.ApiClient(settings)

    def get(self, path: str, **query: str) -> Answer:
        """The object or the list at the path."""
        return self._answer("GET", path, query)

    def metadata(self, kind: str, name: str, namespace: str) -> Answer:
        """The metadata of the object of the core group with that plural and name: of a Secret, nothing secret."""
        return self._answer("GET", f"/api/v1/namespaces/{namespace}/{kind}/{name}", {}, accept=METADATA)

    def named(self, kind: str, name: str, namespace: str) -> Answer:
        """The object of the core group with that plural and name."""
        return self.get(f"/api/v1/namespaces/{namespace}/{kind}/{name}")

    def review(self, group: str, kind: str, spec: JSON, namespace: str = "") -> JSON | None:
        """The status of a review, a question in the form of an object that is never stored; None if it is refused."""
        where = f"namespaces/{namespace}/" if namespace else ""
        body = {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"namespace": namespace} if namespace else {}}
        answer = self._answer("POST", f"/apis/{group}/v1/{where}{kind.lower()}s", {}, {**body, "spec": spec})
        status: JSON | None = answer.body.get("status", {}) if answer.is_ok else None
        return status

    def rehearse(self, path: str, body: JSON) -> Answer:
        """What the API would answer to the creation of the object in the collection at the path."""
        return self._answer("POST", path, {"dryRun": "All"}, body)

    def _answer(
        self, method: str, path: str, query: dict[str, str], body: JSON | None = None, accept: str = PLAIN
    ) -> Answer:
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_fixed(PAUSE_S),
            stop=stop_after_attempt(TRIES),
            reraise=True,
        )
        try:
            response = retrying(
                lambda: self.client.call_api(
                    path,
                    method,
                    query_params=list(query.items()),
                    header_params={"Accept": accept, "Content-Type": PLAIN},
                    body=body,
                    auth_settings=["BearerToken"],
                    _return_http_data_only=True,
                    _preload_content=False,
                    _request_timeout=TIMEOUTS_S,
                )
            )
        except ApiException as error:
            if error.status:
                return Answer(error.status, {}, message_of(error))
            raise self._no_answer(error.reason) from error
        except HTTPError as error:
            raise self._no_answer(error) from error
        return Answer(response.status, json.loads(response.data))

    def _no_answer(self, reason: object) -> PrerequisiteError:
        return PrerequisiteError(
            f"The Kubernetes API at {self.host} does not answer: {reason}. Check the current context of your "
            "kubeconfig; in a pod, that network policies let it reach the API."
        )
