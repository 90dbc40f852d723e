"""A connection to Kubeflow Pipelines: kfp's client, with deadlines, and its refusals in a user's words.

kfp's client knows how to be let in. Calls go through the REST methods that it carries (`client.runs` and its like)
and not through its own, which have no deadline, print, and answer a refusal by asking again.
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

from components.errors import PrerequisiteError
from pipelines.kubeflow.port_forward import forwarded

ANSWER_S = 30
EXPERIMENT = "quantgate"
LONGEST_WORDS = 500
BUSY = (0, 408, 429, 500, 502, 503, 504)


class NotReachedError(PrerequisiteError):
    """Kubeflow Pipelines does not answer, or cannot now: the same call may succeed later."""


@dataclass(frozen=True)
class Place:
    """Where Kubeflow Pipelines answers, and how one is let in."""

    host: str = ""
    namespace: str = ""
    """Of the runs, where several users share Kubeflow."""
    token: str = ""
    in_cluster: bool = False
    port_forward: bool = False
    kubeflow_namespace: str = "kubeflow"
    ca: str = ""
    """The file with the authority that signed its certificate."""

    @property
    def options(self) -> str:
        """How a command is told of this place: all but the token."""
        installed = self.kubeflow_namespace if self.kubeflow_namespace != Place.kubeflow_namespace else ""
        named = {
            "--host": self.host,
            "--kubeflow-namespace": installed,
            "--namespace": self.namespace,
            "--ca": self.ca,
        }
        flags = {"--port-forward": self.port_forward, "--in-cluster": self.in_cluster}
        told = [name for name, given in flags.items() if given]
        return " ".join([*told, *(f"{name} {shlex.quote(value)}" for name, value in named.items() if value)])


@dataclass(frozen=True)
class Kubeflow:
    """A Kubeflow Pipelines that has answered."""

    client: kfp.Client
    host: str
    place: Place

    @property
    def namespace(self) -> str:
        """Of the runs; empty where Kubeflow has one user."""
        return self.place.namespace

    @property
    def scope(self) -> dict[str, str]:
        """What narrows a list to the namespace; a Kubeflow of one user wants no such word."""
        return {"namespace": self.namespace} if self.namespace else {}

    def page(self, run_id: str) -> str:
        """Where a browser finds the run."""
        return f"{self.host}/#/runs/details/{run_id}"

    @contextmanager
    def asked_to(self, what: str) -> Iterator[None]:
        """Turn a refusal, or no answer, into a PrerequisiteError that says what was wanted and what to do."""
        try:
            yield
        except ApiException as refusal:
            raise refused(self.host, what, refusal, self.namespace) from refusal
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NotReachedError(f"{self.host} does not answer ({type(error).__name__}).") from error


@contextmanager
def connected(place: Place) -> Iterator[Kubeflow]:
    """A Kubeflow Pipelines that has answered; raises PrerequisiteError where there is none, or it lets nobody in."""
    with reached(place) as host:
        kubeflow = Kubeflow(client_of(place, host), host, place)
        try:
            with kubeflow.asked_to("say how it is"):
                health = kubeflow.client.healthzs.healthz_service_get_healthz(_request_timeout=ANSWER_S)
        except NotReachedError as error:
            raise PrerequisiteError(
                f"{error} Check the address and that Kubeflow Pipelines runs; from outside of its cluster use "
                "--port-forward, or --host with the address of its ingress."
            ) from error
        if not isinstance(health, api.V2beta1GetHealthzResponse) or health.multi_user is None:
            raise PrerequisiteError(
                f"{host} answers, but not as Kubeflow Pipelines does: perhaps with the page of a login. Give --token, "
                "or the address under which its API is found (often it ends in /pipeline)."
            )
        if health.multi_user and not place.namespace:
            raise PrerequisiteError("Several users share this Kubeflow: name your namespace with --namespace.")
        yield kubeflow


@contextmanager
def reached(place: Place) -> Iterator[str]:
    """The address of Kubeflow Pipelines, forwarded to this machine for the time of the block where that was asked."""
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
            raise PrerequisiteError(f"--host {place.host} is no URL. Give one like https://kubeflow.example/pipeline.")
        yield place.host.rstrip("/")


def client_of(place: Place, host: str) -> kfp.Client:
    """kfp's client for that address; nothing has been sent yet."""
    token = place.token.strip()  # a file's last line break comes along easily
    if any(each.isspace() for each in token):
        raise PrerequisiteError("The token for Kubeflow holds a space or a line break, which no token does.")
    if place.ca and not Path(place.ca).is_file():
        raise PrerequisiteError(f"There is no certificate at {place.ca}. Name its file with --ca.")
    mounted = os.environ.get(kfp.client.KF_PIPELINES_SA_TOKEN_ENV) or kfp.client.KF_PIPELINES_SA_TOKEN_PATH
    own = place.in_cluster and not token and Path(mounted).exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says with which versions it works
        return kfp.Client(
            host=host,
            # With kfp's default it would ask for its health at once: five times in 25 s where it is refused.
            namespace=place.namespace or EXPERIMENT,
            existing_token=token or None,
            credentials=kfp.client.ServiceAccountTokenVolumeCredentials() if own else None,
            ssl_ca_cert=place.ca or None,
        )


def refused(host: str, what: str, refusal: ApiException, namespace: str) -> PrerequisiteError:
    """The refusal in words that a user can act on."""
    words = words_of(refusal)
    if refusal.status == 401:
        return PrerequisiteError(
            f"{host} does not know who asks: {words} Give a token with --token, or a newer one; one of a service "
            "account: kubectl -n NAMESPACE create token ACCOUNT --audience pipelines.kubeflow.org"
        )
    if refusal.status == 403:
        where = f" in the namespace {namespace}" if namespace else ""
        return PrerequisiteError(
            f"{host} does not let you {what}{where}: {words} Check --namespace (one that does not exist is refused in "
            "the same way), and ask for the right to run pipelines there."
        )
    told = f"{host} did not {what}: {words} ({refusal.status})"
    return NotReachedError(told) if refusal.status in BUSY else PrerequisiteError(told)


def words_of(refusal: ApiException) -> str:
    """What the server said, on one line."""
    body = refusal.body.decode(errors="replace") if isinstance(refusal.body, bytes) else refusal.body or ""
    try:
        told = json.loads(body)
        body = str(told.get("message") or told.get("error") or body)
    except (ValueError, AttributeError):
        body = "" if "<html" in body.lower() else body
    words = " ".join((body or str(refusal.reason)).split())
    return f"{words[:LONGEST_WORDS]} …" if len(words) > LONGEST_WORDS else f"{words.rstrip('.')}."
