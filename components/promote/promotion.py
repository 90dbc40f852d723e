"""Move the aliases of a registered model: to a version that its verdict allows, or back to the previous one."""

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.digest import check_stored
from quantgate.components.promote.alias_move import CHAMPION, FORCED, PREVIOUS, Serving, move, settled
from quantgate.components.promote.judged_version import JudgedVersion, aliased, judged_version, version_of
from quantgate.components.run.artifacts import Weights
from quantgate.components.storage.artifact import Artifact
from quantgate.components.storage.cache import cache_dir
from quantgate.components.tracking.connect import connected

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Check = Callable[[Weights], None]
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
    kv_cache_dtype: str = ""
    """vLLM's --kv-cache-dtype with which it was judged; empty: the model's own."""
    previous: str = ""
    """The version that it replaced; empty if there was none."""
    forced: str = ""
    """The reason given for a promotion against the verdict; empty if the verdict allowed it."""
    unread: tuple[str, ...] = ()
    """The records that could not be read, and so were not compared with their digests."""


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

    Raises PrerequisiteError unless the verdict in the version's own run is one of `allowed`, the run's evidence matches
    the digests that it was recorded with, and the version has the weights that were judged. `force` is a reason to
    promote it nevertheless, and is recorded. Promoting the champion again changes nothing. `check` gets the weights,
    and may raise before an alias is moved; then the stored bytes are read and compared with the digest.
    """
    with connected(tracking_uri, "make the version champion") as client:
        chosen = version_of(client, model, version)
        judged = judged_version(client, chosen)
        weights, refusal = judged.weights, judged.refusal(client, allowed)
        if refusal and not force.strip():
            raise PrerequisiteError(
                f"Version {chosen.version} of {model} may not become champion: {refusal} Nothing was changed."
                " To promote it nevertheless, give --force with the reason; the reason is recorded."
            )
        check(weights)
        check_stored(weights.uri, weights.digest, cache_dir())
        before = served(client, model)
        after = before
        if before.champion != str(chosen.version):
            after = Serving(champion=str(chosen.version), previous=before.champion or before.previous)
        reason = {"reason": force.strip(), "against": refusal, "at": time.time()} if refusal else {}
        move(client, model, before, after, json.dumps(reason) if reason else "")
    promoted = promotion(judged, after.previous)
    return promoted.model_copy(update={"forced": force.strip()}) if refusal else promoted


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
        judged = judged_version(client, previous)
        weights, refusal = judged.weights, judged.refusal(client, SERVED)
        if refusal and FORCED not in previous.tags:
            raise PrerequisiteError(
                f"Version {previous.version} of {model} may not become champion again: {refusal} If it must serve,"
                f" promote it with --version {previous.version} and --force with the reason."
            )
        check(weights)
        check_stored(weights.uri, weights.digest, cache_dir())
        move(client, model, serving, Serving(champion=serving.previous, previous=serving.champion))
    return promotion(judged, serving.champion)


def served(client: "MlflowClient", model: str) -> Serving:
    """The versions that champion and previous name, after an unfinished move; PrerequisiteError without the model."""
    aliased(client, model, CHAMPION)  # raises for a model that does not exist
    return settled(client, model)


def promotion(champion: JudgedVersion, previous: str) -> Promotion:
    """The versions that the aliases name after they are moved."""
    return Promotion(
        model=champion.version.name,
        champion=str(champion.version.version),
        variant=champion.verdict.variant,
        verdict=champion.verdict.verdict,
        weights=champion.weights.uri,
        kv_cache_dtype=champion.weights.kv_cache_dtype,
        previous=previous,
        unread=champion.evidence.unread,
    )
