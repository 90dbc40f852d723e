"""A connection to Kubeflow Pipelines: kfp's client with deadlines, and messages for refused requests.

kfp's client handles authentication. Calls use its REST methods (`client.runs` and others): the client's other methods
have no deadline, print, and repeat refused requests.
"""

import json
import os
import shlex
import urllib.parse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kfp
import kfp.client
import urllib3
from kfp_server_api import ApiException
from kfp_server_api import models as api

from quantgate.components.errors import PrerequisiteError
from quantgate.pipelines.kubeflow.port_forward import forwarded

ANSWER_S = 30
EXPERIMENT = "quantgate"
LONGEST_ANSWER = 500
BUSY = (0, 408, 429, 500, 502, 503, 504)


class NotReachedError(PrerequisiteError):
    """Kubeflow Pipelines does not answer, or is busy: the same call may succeed later."""


@dataclass(frozen=True)
class Place:
    """The address of Kubeflow Pipelines, and the credentials for it."""

    host: str = ""
    namespace: str = ""
    """The runs' namespace, if several users share Kubeflow."""
    token: str = ""
    in_cluster: bool = False
    port_forward: bool = False
    kubeflow_namespace: str = "kubeflow"
    ca: str = ""
    """The file with the certificate authority of the server."""

    @property
    def options(self) -> str:
        """The place as options of a command, without the token."""
        kubeflow_namespace = self.kubeflow_namespace if self.kubeflow_namespace != Place.kubeflow_namespace else ""
        values = {
            "--host": self.host,
            "--kubeflow-namespace": kubeflow_namespace,
            "--namespace": self.namespace,
            "--ca": self.ca,
        }
        flags = {"--port-forward": self.port_forward, "--in-cluster": self.in_cluster}
        set_flags = [name for name, is_set in flags.items() if is_set]
        return " ".join([*set_flags, *(f"{name} {shlex.quote(value)}" for name, value in values.items() if value)])


@dataclass(frozen=True)
class Kubeflow:
    """A connection to a Kubeflow Pipelines that has answered."""

    client: kfp.Client
    host: str
    place: Place

    @property
    def namespace(self) -> str:
        """The runs' namespace; empty when Kubeflow has one user."""
        return self.place.namespace

    @property
    def scope(self) -> dict[str, str]:
        """The arguments that limit a list to the namespace; empty when Kubeflow has one user."""
        return {"namespace": self.namespace} if self.namespace else {}

    def page(self, run_id: str) -> str:
        """The URL of the run's page."""
        return f"{self.host}/#/runs/details/{run_id}"

    @contextmanager
    def request(self, action: str) -> Iterator[None]:
        """Turn a refusal, or no answer, into a PrerequisiteError with the action (`start the run`) and what to do."""
        try:
            yield
        except ApiException as refusal:
            raise refused(self.host, action, refusal, self.namespace) from refusal
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NotReachedError(f"{self.host} does not answer ({type(error).__name__}).") from error


@contextmanager
def connected(place: Place) -> Iterator[Kubeflow]:
    """A connection to a Kubeflow Pipelines that answers; raises PrerequisiteError when none answers, or it refuses."""
    with reached(place) as host:
        kubeflow = Kubeflow(client_of(place, host), host, place)
        try:
            with kubeflow.request("report its health"):
                health = kubeflow.client.healthzs.healthz_service_get_healthz(_request_timeout=ANSWER_S)
        except NotReachedError as error:
            raise PrerequisiteError(
                f"{error} Check the address and that Kubeflow Pipelines runs. From outside the cluster use "
                "--port-forward, or --host with the address of its ingress."
            ) from error
        if not isinstance(health, api.V2beta1GetHealthzResponse) or health.multi_user is None:
            raise PrerequisiteError(
                f"{host} answers, but not like Kubeflow Pipelines: perhaps with a login page. Give --token, or the "
                "address of the API (often it ends in /pipeline)."
            )
        if health.multi_user and not place.namespace:
            raise PrerequisiteError("Several users share this Kubeflow: give your namespace with --namespace.")
        yield kubeflow


@contextmanager
def reached(place: Place) -> Iterator[str]:
    """The address of Kubeflow Pipelines; with --port-forward an address on this machine, for the time of the block."""
    if sum(map(bool, (place.host, place.in_cluster, place.port_forward))) != 1:
        raise PrerequisiteError(
            "Say where Kubeflow Pipelines is, in one way: --host URL; --in-cluster, in a pod of its cluster; or "
            "--port-forward, through kubectl."
        )
    if place.port_forward:
        with forwarded("service/ml-pipeline-ui", 80, place.kubeflow_namespace) as host:
            yield host
    elif place.in_cluster:
        yield f"http://ml-pipeline.{place.kubeflow_namespace}.svc.cluster.local:8888"
    else:
        if urllib.parse.urlsplit(place.host).scheme not in ("http", "https"):
            raise PrerequisiteError(
                f"--host {place.host} is not a URL. Give one like https://kubeflow.example/pipeline."
            )
        yield place.host.rstrip("/")


def client_of(place: Place, host: str) -> kfp.Client:
    """kfp's client for the host; it has sent nothing yet."""
    token = place.token.strip()  # a token from a file often ends with a line break
    if any(character.isspace() for character in token):
        raise PrerequisiteError("The token for Kubeflow contains a space or a line break. Check --token.")
    if place.ca and not Path(place.ca).is_file():
        raise PrerequisiteError(f"There is no certificate at {place.ca}. Give its file with --ca.")
    mounted = os.environ.get(kfp.client.KF_PIPELINES_SA_TOKEN_ENV)
    in_pod = place.in_cluster and Path(mounted or kfp.client.KF_PIPELINES_SA_TOKEN_PATH).exists()
    uses_mounted = not token and (in_pod or bool(mounted))
    if mounted and uses_mounted and not Path(mounted).is_file():
        raise PrerequisiteError(
            f"There is no token at {mounted}, the file that {kfp.client.KF_PIPELINES_SA_TOKEN_ENV} names."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp warns about the versions that it works with
        return kfp.Client(
            host=host,
            # Without a namespace kfp requests the server's health at once: five times in 25 s when it is refused.
            namespace=place.namespace or EXPERIMENT,
            existing_token=token or None,
            credentials=kfp.client.ServiceAccountTokenVolumeCredentials() if uses_mounted else None,
            ssl_ca_cert=place.ca or None,
        )


def refused(host: str, action: str, refusal: ApiException, namespace: str) -> PrerequisiteError:
    """The error for a refused action, with what to do."""
    answer = answer_text(refusal)
    if refusal.status == 401:
        return PrerequisiteError(
            f"{host} did not accept the credentials: {answer} Give a new token with --token. For a service account: "
            "kubectl -n NAMESPACE create token ACCOUNT --audience pipelines.kubeflow.org"
        )
    if refusal.status == 403:
        where = f" in the namespace {namespace}" if namespace else ""
        return PrerequisiteError(
            f"{host} does not let you {action}{where}: {answer} Check --namespace (a missing namespace gives the same "
            "answer), and ask for the right to run pipelines there."
        )
    message = f"{host} did not {action}: {answer} ({refusal.status})"
    return NotReachedError(message) if refusal.status in BUSY else PrerequisiteError(message)


def answer_text(refusal: ApiException) -> str:
    """The server's message, on one line."""
    body = refusal.body.decode(errors="replace") if isinstance(refusal.body, bytes) else refusal.body or ""
    try:
        answer = json.loads(body)
        body = str(answer.get("message") or answer.get("error") or body)
    except (ValueError, AttributeError):
        body = "" if "<html" in body.lower() else body
    text = " ".join((body or str(refusal.reason)).split())
    return f"{text[:LONGEST_ANSWER]} …" if len(text) > LONGEST_ANSWER else f"{text.rstrip('.')}."
