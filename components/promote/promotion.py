"""Move the aliases of a registered model: to what a verdict allows, or back to what served before."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from components.errors import PrerequisiteError
from components.promote.registry import BASELINE, CANDIDATE, CHAMPION, DIGEST, PREVIOUS, RUN, as_source, sources_of
from components.run.artifacts import Verdict, Weights
from components.storage.artifact import Artifact
from components.tracking.connect import connected

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

A = TypeVar("A", bound=Artifact)
Check = Callable[[str], None]
REFERENCE = "reference"
FORCED = "quantgate.forced"
SERVED = ("ship", "monitor")
"""What some policy lets serve."""


class Promotion(Artifact):
    """What the aliases name now."""

    model: str
    champion: str
    """The version."""
    variant: str
    verdict: str
    weights: str
    """Where they are stored."""
    previous: str = ""
    """The version that it replaced; empty where there was none."""
    forced: str = ""
    """The reason that was given for it against the verdict; empty where the verdict allowed it."""


def promote(
    tracking_uri: str,
    model: str,
    version: str = "",
    *,
    allowed: Sequence[str] = ("ship",),
    force: str = "",
    check: Check = lambda _weights: None,
) -> Promotion:
    """Make a version the champion, the candidate where none is named; what it replaces becomes `previous`.

    Refused with PrerequisiteError unless the verdict in the version's own run is one of `allowed` and its digests are
    the version's; `force` is a reason to do it all the same, which is recorded. The champion again stays as it is.
    `check` may refuse the place of the weights before anything is moved.
    """
    with connected(tracking_uri, "make the version champion") as client:
        chosen = version_of(client, model, version)
        judged, weights = evidence(client, chosen)
        refusal = why_not(chosen, judged, weights, allowed) or why_not_these(client, chosen, weights)
        if refusal and not force.strip():
            raise PrerequisiteError(
                f"Version {chosen.version} of {model} may not become champion: {refusal} Nothing was changed."
                " To do it all the same, give --force with the reason; it is recorded."
            )
        check(weights.uri)
        serving = aliased(client, model, CHAMPION)
        before = serving if serving and serving.version != chosen.version else aliased(client, model, PREVIOUS)
        if before:
            client.set_registered_model_alias(model, PREVIOUS, before.version)
        if refusal:
            told = json.dumps({"reason": force.strip(), "against": refusal, "at": time.time()})
            client.set_model_version_tag(model, chosen.version, FORCED, told)
        client.set_registered_model_alias(model, CHAMPION, chosen.version)
    done = promotion(model, chosen, judged, weights, before)
    return done.model_copy(update={"forced": force.strip()}) if refusal else done


def rollback(tracking_uri: str, model: str, check: Check = lambda _weights: None) -> Promotion:
    """Swap champion and previous; raises PrerequisiteError when nothing served before, or nothing that may have.

    `check` is as in `promote`.
    """
    with connected(tracking_uri, "swap champion and previous") as client:
        serving, before = aliased(client, model, CHAMPION), aliased(client, model, PREVIOUS)
        if not serving or not before:
            lacking = PREVIOUS if serving else CHAMPION
            raise PrerequisiteError(f"{model} has no {lacking}: there is nothing to roll back to.")
        judged, weights = evidence(client, before)
        refusal = why_not(before, judged, weights, SERVED) or why_not_these(client, before, weights)
        if refusal and FORCED not in before.tags:
            raise PrerequisiteError(f"Version {before.version} of {model} may not become champion again: {refusal}")
        check(weights.uri)
        # the champion first: a crash in between leaves it named twice and never unnamed
        client.set_registered_model_alias(model, CHAMPION, before.version)
        client.set_registered_model_alias(model, PREVIOUS, serving.version)
    return promotion(model, before, judged, weights, serving)


def promotion(
    model: str, champion: "ModelVersion", judged: Verdict, weights: Weights, previous: "ModelVersion | None"
) -> Promotion:
    """What the aliases name, once they are moved."""
    return Promotion(
        model=model,
        champion=str(champion.version),
        variant=judged.variant,
        verdict=judged.verdict,
        weights=weights.uri,
        previous=str(previous.version) if previous else "",
    )


def why_not(version: "ModelVersion", judged: Verdict, weights: Weights, allowed: Sequence[str]) -> str:
    """Why the verdict does not let the version serve; empty when it does."""
    if judged.verdict not in (*allowed, REFERENCE):
        return f"its verdict is {judged.verdict}: {judged.sentence}"
    if judged.variant != weights.variant:
        return f"its run judged {judged.variant} and made {weights.variant}."
    for tag, digest in ((DIGEST, weights.digest), (BASELINE, weights.baseline_digest)):
        if version.tags.get(tag, "") != digest or not digest:
            return f"its {tag} is {version.tags.get(tag, 'missing')}, that of the run that judged it {digest}."
    if version.source not in sources_of(weights, version):
        return f"it points at {version.source}, the weights that were judged lie at {weights.uri}."
    return ""


def why_not_these(client: "MlflowClient", version: "ModelVersion", weights: Weights) -> str:
    """Why the run that made the version made other weights than those that were judged; empty where it did not.

    A version that points at its run is as good as what that run made, whatever its tags say.
    """
    if version.source == as_source(weights):
        return ""
    made = artifact_of(client, version, str(version.run_id or ""), "weights", Weights)
    if made.digest == weights.digest:
        return ""
    return f"its source {version.source} has the digest {made.digest}, the weights that were judged {weights.digest}."


def version_of(client: "MlflowClient", model: str, version: str) -> "ModelVersion":
    """The version of that number, or the candidate; raises PrerequisiteError when there is none."""
    from mlflow.exceptions import MlflowException

    if not version:
        found = aliased(client, model, CANDIDATE)
        if not found:
            raise PrerequisiteError(f"{model} has no {CANDIDATE}. Run the pipeline, or name a version.")
        return found
    try:
        return client.get_model_version(model, version)
    except MlflowException as error:
        raise PrerequisiteError(f"MLflow has no version {version} of {model}: {error.message}") from error


def aliased(client: "MlflowClient", model: str, alias: str) -> "ModelVersion | None":
    """The version that the alias names; raises PrerequisiteError when there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_registered_model(model).aliases.get(alias)
    except MlflowException as error:
        known = ", ".join(each.name for each in client.search_registered_models(max_results=20)) or "none"
        raise PrerequisiteError(f"MLflow has no registered model {model}. It has: {known}.") from error
    return client.get_model_version(model, version) if version else None


def evidence(client: "MlflowClient", version: "ModelVersion") -> tuple[Verdict, Weights]:
    """The verdict and the weights in the artifacts of the run that judged the version; raises PrerequisiteError."""
    from mlflow.exceptions import MlflowException

    run_id = str(version.tags.get(RUN) or version.run_id or "")
    try:
        run = client.get_run(run_id).info
    except MlflowException as error:
        raise PrerequisiteError(f"Version {version.version} of {version.name} has no run: {error.message}") from error
    if run.lifecycle_stage != "active" or run.status != "FINISHED":
        state = "deleted" if run.lifecycle_stage != "active" else run.status
        raise PrerequisiteError(
            f"Version {version.version} of {version.name} was judged in the run {run_id}, which is {state}. Only what a"
            " run holds that came to its end can be promoted."
        )
    return (
        artifact_of(client, version, run_id, "verdict", Verdict),
        artifact_of(client, version, run_id, "weights", Weights),
    )


def artifact_of(client: "MlflowClient", version: "ModelVersion", run_id: str, name: str, kind: type[A]) -> A:
    """What a run's artifact says of the version; raises PrerequisiteError where it cannot be read."""
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as scratch:
            return kind.read(client.download_artifacts(run_id, f"{name}.json", scratch))
    except (MlflowException, OSError, ValueError) as error:
        raise PrerequisiteError(
            f"Version {version.version} of {version.name} has no verdict that can be read: its run {run_id or '(none)'}"
            f" says {type(error).__name__}: {error}. Only what a run has judged can be promoted."
        ) from error
