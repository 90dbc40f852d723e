"""The variants of a run in a Kubeflow Model Registry, by its REST API v1alpha3.

    RegisteredModel     one for each base model and use case, with the name that it has in MLflow's registry
    ModelVersion        one for each variant's weights, named by variant and digest; the verdict is in its properties
    ModelArtifact       the address of the weights

What exists already is updated, so that repeating the command changes nothing. An account needs a token, in
QUANTGATE_MODEL_REGISTRY_TOKEN. Source: api/openapi/model-registry.yaml of kubeflow/model-registry.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from quantgate.components.errors import PrerequisiteError
from quantgate.components.promote.registry import model_name
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.verdicts import Decision, Verdict

API = "/api/model_registry/v1alpha3"
TOKEN = "QUANTGATE_MODEL_REGISTRY_TOKEN"
TIMEOUT_S = 30.0
DIGITS = 12
JSON = dict[str, Any]


@dataclass(frozen=True)
class EntityKind:
    """One kind of entity: the path that finds one by name, and the path of all of them."""

    find: str
    all: str


MODEL = EntityKind("registered_model", "registered_models")
VERSION = EntityKind("model_version", "model_versions")
ARTIFACT = EntityKind("model_artifact", "model_artifacts")


@dataclass(frozen=True)
class Entity:
    """An entity as it is to be."""

    kind: EntityKind
    name: str
    fields: JSON
    parent: str = ""
    """The id of the entity that it belongs to; empty for a registered model."""

    @property
    def created_at(self) -> str:
        """The path that creates it."""
        return f"{VERSION.all}/{self.parent}/artifacts" if self.kind == ARTIFACT else self.kind.all

    @property
    def new(self) -> JSON:
        """What creates it: a version names its registered model."""
        return {
            "name": self.name,
            **self.fields,
            **({"registeredModelId": self.parent} if self.kind == VERSION else {}),
        }


def register_in(url: str, decision: Decision, run: str) -> list[str]:
    """Register the variants that have weights and a verdict; returns the names of the versions.

    `url` is the registry's address, `run` the location of the run's results. Raises PrerequisiteError if the registry
    cannot be reached or refuses.
    """
    name = model_name(decision.model.source, decision.use_case)
    versions = []
    with _client(url) as client:
        registry = _Registry(client)
        model = registry.put(Entity(MODEL, name, {"description": f"{decision.model.source} for {decision.use_case}"}))
        for verdict, weights in registered_rows(decision):
            version = f"{weights.variant}-{weights.digest.removeprefix('sha256:')[:DIGITS]}"
            judged = {
                "description": verdict.sentence,
                "customProperties": properties(decision, verdict, weights, run),
            }
            version_id = registry.put(Entity(VERSION, version, judged, model))
            format_name = "gguf" if weights.is_gguf else "safetensors"
            address = {"artifactType": "model-artifact", "uri": weights.uri, "modelFormatName": format_name}
            registry.put(Entity(ARTIFACT, f"{name}.{version}", {**address, "state": "LIVE"}, version_id))
            versions.append(version)
    return versions


def registered_rows(decision: Decision) -> Iterator[tuple[Verdict, Weights]]:
    """The verdict and the weights of each variant that has both."""
    verdicts = {row.variant: row for row in decision.verdicts}
    for weights in decision.weights:
        if weights.digest and verdicts[weights.variant].verdict != "failed":
            yield verdicts[weights.variant], weights


def properties(decision: Decision, verdict: Verdict, weights: Weights, run: str) -> JSON:
    """The version's properties: verdict, digests, scores, drops and the upper bounds of the limits."""
    texts = {
        "verdict": verdict.verdict,
        "variant": weights.variant,
        "scheme": weights.scheme,
        "kv_cache_dtype": weights.kv_cache_dtype,
        "digest": weights.digest,
        "baseline_digest": weights.baseline_digest,
        "evidence_digest": decision.digests.combined if decision.digests else "",
        "base_model": decision.model.source,
        "suite": decision.suite,
        "policy": decision.policy,
        "run": run,
    }
    numbers = {
        "average_drop": verdict.average_drop,
        "confidence": verdict.confidence,
        **{f"score.{task}": score for task, score in verdict.scores.items()},
        **{f"drop.{task}": drop for task, drop in verdict.drops.items()},
        **{f"at_most.{limit.what}.{limit.kind}": limit.upper for limit in verdict.limits},
    }
    return {
        **{name: text_value(text) for name, text in texts.items() if text},
        **{name: number_value(number) for name, number in numbers.items() if number is not None},
    }


def text_value(text: str) -> JSON:
    """A text as the registry's properties have it."""
    return {"metadataType": "MetadataStringValue", "string_value": text}


def number_value(number: float) -> JSON:
    """A number as the registry's properties have it."""
    return {"metadataType": "MetadataDoubleValue", "double_value": number}


class _Registry:
    """The registry's API."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def put(self, entity: Entity) -> str:
        """Create the entity, or update the one of that name and parent; returns its id."""
        found = self._find(entity)
        if not found:
            created = self._send("POST", entity.created_at, entity.new)
            if created is not None:
                return str(created["id"])
            found = self._find(entity)  # somebody else created it meanwhile
            if not found:
                raise PrerequisiteError(
                    f"The Model Registry at {self.client.base_url} refuses {entity.name}: another entity has that name."
                )
        self._send("PATCH", f"{entity.kind.all}/{found}", entity.fields)
        return found

    def _find(self, entity: Entity) -> str:
        """The id of the entity; empty if there is none."""
        query = {"name": entity.name, **({"parentResourceId": entity.parent} if entity.parent else {})}
        answer = self._request("GET", f"/{entity.kind.find}", params=query)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return ""
        return str(self._read(answer)["id"])

    def _send(self, method: str, path: str, body: JSON) -> JSON | None:
        """The entity that the registry answers with; None if a new one's name is taken."""
        answer = self._request(method, f"/{path}", json=body)
        if method == "POST" and answer.status_code == HTTPStatus.CONFLICT:
            return None
        return self._read(answer)

    def _request(self, method: str, path: str, **body: Any) -> httpx.Response:
        try:
            return self.client.request(method, path, **body)
        except httpx.HTTPError as error:
            raise PrerequisiteError(
                f"The Model Registry at {self.client.base_url} does not answer ({type(error).__name__}: {error}). Check"
                " the address, e.g. http://model-registry-service.kubeflow.svc:8080, and the network between."
            ) from error

    def _read(self, answer: httpx.Response) -> JSON:
        """The answer's entity; raises PrerequisiteError for a refusal, with what to do."""
        where = f"{answer.request.method} {answer.request.url}"
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise PrerequisiteError(
                f"The Model Registry does not let this account in ({where}: {answer.status_code}). Set {TOKEN} to a"
                " token of an account that may write there."
            )
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.is_success and isinstance(content, dict) and "id" in content:
            return content
        if answer.status_code == HTTPStatus.NOT_FOUND or answer.is_success:
            raise PrerequisiteError(f"There is no Model Registry API v1alpha3 at {self.client.base_url} ({where}).")
        message = content.get("message") if isinstance(content, dict) else answer.text[:200]
        raise PrerequisiteError(f"The Model Registry refuses {where}: {answer.status_code} {message}.")


def _client(url: str) -> httpx.Client:
    if not url.startswith(("http://", "https://")):
        raise PrerequisiteError(f"{url!r} is not the address of a Model Registry. Write it like http://HOST:8080.")
    token = os.environ.get(TOKEN, "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=f"{url.rstrip('/').removesuffix(API)}{API}", headers=headers, timeout=TIMEOUT_S)
