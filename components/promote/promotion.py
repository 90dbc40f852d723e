"""Move the aliases of a registered model: to a version that its verdict allows, or back to the previous one."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from components.errors import PrerequisiteError
from components.models.digest import check_stored
from components.promote.alias_move import CHAMPION, FORCED, PREVIOUS, Serving, move, settled
from components.promote.registry import BASELINE, CANDIDATE, DIGEST, RUN, as_source, sources_of
from components.run.artifacts import Verdict, Weights
from components.storage.artifact import Artifact
from components.storage.cache import cache_dir
from components.tracking.connect import connected

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

A = TypeVar("A", bound=Artifact)
Check = Callable[[str], None]
REFERENCE = "reference"
SERVED = ("ship", "monitor")
"""The verdicts that some policy allows to serve."""


class Promotion(Artifact):
    """The versions that the aliases name after a promotion or a rollback."""

    model: str
    champion: str
    """Its version."""
    variant: str
    verdict: str
    weights: str
    """The URI of its weights."""
    previous: str = ""
    """The version that it replaced; empty if there was none."""
    forced: str = ""
    """The reason given for a promotion against the verdict; empty if the verdict allowed it."""


def promote(
    tracking_uri: str,
    model: str,
    version: str = "",
    *,
    allowed: Sequence[str] = ("ship",),
    force: str = "",
    check: Check = lambda _weights: None,
) -> Promotion:
    """Make a version the champion, by default the candidate; the version that it replaces becomes `previous`.

    Raises PrerequisiteError unless the verdict in the version's own run is one of `allowed` and the run's digests match
    the version's. `force` is a reason to promote it nevertheless, and is recorded. Promoting the champion again changes
    nothing. `check` gets the URI of the weights, and may raise before an alias is moved; then the stored bytes are read
    and compared with the weights' digest.
    """
    with connected(tracking_uri, "make the version champion") as client:
        chosen = version_of(client, model, version)
        verdict, weights = evidence(client, chosen)
        refusal = verdict_refusal(chosen, verdict, weights, allowed) or source_refusal(client, chosen, weights)
        if refusal and not force.strip():
            raise PrerequisiteError(
                f"Version {chosen.version} of {model} may not become champion: {refusal} Nothing was changed."
                " To promote it nevertheless, give --force with the reason; the reason is recorded."
            )
        check(weights.uri)
        check_stored(weights.uri, weights.digest, cache_dir())
        before = served(client, model)
        after = before
        if before.champion != str(chosen.version):
            after = Serving(champion=str(chosen.version), previous=before.champion or before.previous)
        reason = {"reason": force.strip(), "against": refusal, "at": time.time()} if refusal else {}
        move(client, model, before, after, json.dumps(reason) if reason else "")
    moved = promotion(model, chosen, verdict, weights, after.previous)
    return moved.model_copy(update={"forced": force.strip()}) if refusal else moved


def rollback(tracking_uri: str, model: str, check: Check = lambda _weights: None) -> Promotion:
    """Swap champion and previous; raises PrerequisiteError without a previous version, or if it may not serve.

    `check` is as in `promote`.
    """
    with connected(tracking_uri, "swap champion and previous") as client:
        serving = served(client, model)
        if not serving.champion or not serving.previous:
            missing = PREVIOUS if serving.champion else CHAMPION
            raise PrerequisiteError(f"{model} has no {missing}: there is nothing to roll back to.")
        if serving.champion == serving.previous:
            raise PrerequisiteError(
                f"Champion and previous of {model} are both version {serving.champion}: a rollback changes nothing."
                " Promote the version that is to serve, with --version."
            )
        previous = version_of(client, model, serving.previous)
        verdict, weights = evidence(client, previous)
        refusal = verdict_refusal(previous, verdict, weights, SERVED) or source_refusal(client, previous, weights)
        if refusal and FORCED not in previous.tags:
            raise PrerequisiteError(f"Version {previous.version} of {model} may not become champion again: {refusal}")
        check(weights.uri)
        check_stored(weights.uri, weights.digest, cache_dir())
        move(client, model, serving, Serving(champion=serving.previous, previous=serving.champion))
    return promotion(model, previous, verdict, weights, serving.champion)


def served(client: "MlflowClient", model: str) -> Serving:
    """The versions that champion and previous name, after an unfinished move; PrerequisiteError without the model."""
    aliased(client, model, CHAMPION)  # raises for a model that does not exist
    return settled(client, model)


def promotion(model: str, champion: "ModelVersion", verdict: Verdict, weights: Weights, previous: str) -> Promotion:
    """The versions that the aliases name after they are moved."""
    return Promotion(
        model=model,
        champion=str(champion.version),
        variant=verdict.variant,
        verdict=verdict.verdict,
        weights=weights.uri,
        previous=previous,
    )


def verdict_refusal(version: "ModelVersion", verdict: Verdict, weights: Weights, allowed: Sequence[str]) -> str:
    """Why the verdict does not allow the version to serve; empty if it does."""
    if verdict.verdict not in (*allowed, REFERENCE):
        return f"its verdict is {verdict.verdict}: {verdict.sentence}"
    if verdict.variant != weights.variant:
        return f"its run has a verdict on {verdict.variant}, but weights of {weights.variant}."
    for tag, digest in ((DIGEST, weights.digest), (BASELINE, weights.baseline_digest)):
        if version.tags.get(tag, "") != digest or not digest:
            return f"its {tag} is {version.tags.get(tag, 'missing')}, but the run with its verdict has {digest}."
    if version.source not in sources_of(weights, version):
        return f"it points at {version.source}, but the weights with this verdict are at {weights.uri}."
    return ""


def source_refusal(client: "MlflowClient", version: "ModelVersion", weights: Weights) -> str:
    """How the weights that the version points at differ from those with the verdict; empty if they are the same.

    A version that points at a run has that run's weights, whatever its tags say.
    """
    if version.source == as_source(weights):
        return ""
    stored = artifact_of(client, version, str(version.run_id or ""), "weights", Weights)
    if stored.digest == weights.digest:
        return ""
    return (
        f"its source {version.source} has the digest {stored.digest}, but the weights with this verdict have"
        f" {weights.digest}."
    )


def version_of(client: "MlflowClient", model: str, version: str) -> "ModelVersion":
    """The version with that number, or the candidate; raises PrerequisiteError if it does not exist."""
    from mlflow.exceptions import MlflowException

    if not version:
        candidate = aliased(client, model, CANDIDATE)
        if not candidate:
            raise PrerequisiteError(f"{model} has no {CANDIDATE}. Run the pipeline, or give a version.")
        return candidate
    try:
        return client.get_model_version(model, version)
    except MlflowException as error:
        raise PrerequisiteError(f"MLflow has no version {version} of {model}: {error.message}") from error


def aliased(client: "MlflowClient", model: str, alias: str) -> "ModelVersion | None":
    """The version that the alias names, None if it names none; raises PrerequisiteError if the model does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_registered_model(model).aliases.get(alias)
    except MlflowException as error:
        known = ", ".join(registered.name for registered in client.search_registered_models(max_results=20)) or "none"
        raise PrerequisiteError(f"MLflow has no registered model {model}. It has: {known}.") from error
    return client.get_model_version(model, version) if version else None


def evidence(client: "MlflowClient", version: "ModelVersion") -> tuple[Verdict, Weights]:
    """The verdict and the weights in the artifacts of the version's run; raises PrerequisiteError without them."""
    from mlflow.exceptions import MlflowException

    run_id = str(version.tags.get(RUN) or version.run_id or "")
    try:
        run = client.get_run(run_id).info
    except MlflowException as error:
        raise PrerequisiteError(f"Version {version.version} of {version.name} has no run: {error.message}") from error
    if run.lifecycle_stage != "active" or run.status != "FINISHED":
        state = "deleted" if run.lifecycle_stage != "active" else run.status
        raise PrerequisiteError(
            f"Version {version.version} of {version.name} got its verdict in the run {run_id}, which is {state}. Only a"
            " version of a finished run can be promoted."
        )
    return (
        artifact_of(client, version, run_id, "verdict", Verdict),
        artifact_of(client, version, run_id, "weights", Weights),
    )


def artifact_of(client: "MlflowClient", version: "ModelVersion", run_id: str, name: str, kind: type[A]) -> A:
    """The artifact `<name>.json` of the version's run; raises PrerequisiteError if it cannot be read."""
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as scratch:
            return kind.read(client.download_artifacts(run_id, f"{name}.json", scratch))
    except (MlflowException, OSError, ValueError) as error:
        raise PrerequisiteError(
            f"Version {version.version} of {version.name} cannot be promoted: {name}.json of its run"
            f" {run_id or '(none)'} is unavailable ({type(error).__name__}: {error}). Only"
            " a version whose run has a verdict can be promoted: run the pipeline again."
        ) from error
