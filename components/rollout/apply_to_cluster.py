"""Apply a step of a rollout to a cluster: create its objects, or change those that are there."""

from collections.abc import Iterator

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import INFERENCE_SERVICE, JSON, ClusterClient, ObjectKind

OF_OTHER_STEPS: JSON = {"canary": None, "predictor": {"canaryTrafficPercent": None, "name": None}}
"""What another step may have set, as a merge patch that removes it."""


def apply(cluster: ClusterClient, kind: ObjectKind, objects: list[JSON]) -> Iterator[str]:
    """Apply the objects; yields a line for each.

    Raises PrerequisiteError if the cluster refuses one, or drops a canary that its KServe does not know: then all
    traffic would stay where it is, without a word.
    """
    for body in objects:
        name = body["metadata"]["name"]
        applied, done = cluster.create(kind, body), "created"
        if applied is None:
            change = {key: body[key] for key in ("metadata", "spec")}
            if kind == INFERENCE_SERVICE:
                change["spec"] = merged(OF_OTHER_STEPS, body["spec"])
            applied, done = cluster.patch(kind, name, change), "changed"
        if applied is None:
            raise PrerequisiteError(f"{kind} {name} was deleted meanwhile. Repeat the command.")
        if "canary" in body["spec"] and not applied["spec"].get("canary"):
            raise PrerequisiteError(
                f"The KServe of this cluster has no spec.canary, so all traffic of {name} stays where it was. Update"
                " KServe, or give --knative where it uses Knative."
            )
        yield f"{kind}/{name} {done}"


def merged(base: JSON, over: JSON) -> JSON:
    """`base` with the values of `over`; objects in both are merged."""
    both = {name: merged(base[name], value) for name, value in over.items() if _are_objects(base.get(name), value)}
    return {**base, **over, **both}


def _are_objects(one: object, other: object) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)
