"""What a run's account must be allowed to do in its namespace, and which of it the cluster allows.

The rows are the role `quantgate-deploy` of manifests/base/identities.yaml; a test compares the two.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from quantgate.components.kubernetes.cluster_client import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    INFERENCE_SERVICE,
    JOB,
    LEASE,
    POD,
    SECRET,
    SERVICE,
    SERVING_RUNTIME,
    ClusterClient,
    ObjectKind,
)

AT_ONCE = 8
"""Questions to the API server at the same time: all are answered within a second."""


@dataclass(frozen=True)
class Right:
    """Verbs that an account may use on one kind of object."""

    kind: ObjectKind
    verbs: tuple[str, ...]
    subresource: str = ""

    def __str__(self) -> str:
        part = f"/{self.subresource}" if self.subresource else ""
        return f"{', '.join(self.verbs)} {self.kind}{part}"

    def split(self) -> "Iterator[Right]":
        """One right for each verb."""
        for verb in self.verbs:
            yield Right(self.kind, (verb,), self.subresource)


SERVE = (
    Right(LEASE, ("create", "get", "list", "patch", "delete")),
    Right(SECRET, ("create",)),
    Right(SERVICE, ("create", "get")),
    Right(CONFIG_MAP, ("create", "get")),
    Right(POD, ("get", "list")),
    Right(POD, ("get",), "log"),
    Right(EVENT, ("list",)),
)
"""For a server however it is served: its lease, its API key, its address, and why it is not ready."""
WITH_KSERVE = (Right(INFERENCE_SERVICE, ("create", "get", "list", "watch")), Right(SERVING_RUNTIME, ("get",)))
WITHOUT_KSERVE = (Right(DEPLOYMENT, ("create", "get", "list", "watch")),)
LOAD_TEST = (Right(JOB, ("create", "get")), Right(POD, ("get", "list")), Right(POD, ("get",), "log"))
"""For the Job that load-tests a server, besides those for the server."""
PROGRAMS = (*LOAD_TEST, Right(CONFIG_MAP, ("create", "get")))
"""For the Job that runs a model's programs."""


def serving_rights(*, with_kserve: bool) -> tuple[Right, ...]:
    """The rights to start, watch and remove a server, with KServe or as a plain Deployment."""
    return (*SERVE, *(WITH_KSERVE if with_kserve else WITHOUT_KSERVE))


def missing_rights(client: ClusterClient, rights: Iterable[Right]) -> list[Right]:
    """The rights that this account lacks, one for each kind of object with the verbs that it may not use."""
    questions = list(dict.fromkeys(verb for right in rights for verb in right.split()))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(lambda right: client.may(right.verbs[0], right.kind, right.subresource), questions)
        refused = [right for right, allowed in zip(questions, answers, strict=True) if not allowed]
    verbs: dict[tuple[ObjectKind, str], list[str]] = {}
    for right in refused:
        verbs.setdefault((right.kind, right.subresource), []).append(right.verbs[0])
    return [Right(kind, tuple(names), part) for (kind, part), names in verbs.items()]
