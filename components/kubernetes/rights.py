"""The rights that the account of a run's pods needs, as data: for questions before a run.

The roles `quantgate-run` and `quantgate-deploy` in manifests/base/identities.yaml grant exactly these and say why each
is needed; a test compares the two.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from components.kubernetes.cluster_client import JSON

KSERVE_GROUP = "serving.kserve.io"
LAUNCHER_SETTINGS, ARTIFACTS_SECRET = "kfp-launcher", "mlpipeline-minio-artifact"
"""The ConfigMap with the artifacts' location, and the Secret with its key unless the ConfigMap names another one."""


@dataclass(frozen=True)
class Right:
    """One verb on one kind of object in the run's namespace."""

    group: str
    """The API group; empty for the core group."""
    resource: str
    """The plural, with the subresource: `pods/log`."""
    verb: str
    name: str = ""
    """The only object of that kind; empty for all."""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {kind}{f' {self.name}' if self.name else ''}"

    def attributes(self, namespace: str) -> JSON:
        """The right as the `resourceAttributes` of an access review."""
        resource, _, subresource = self.resource.partition("/")
        attributes = {"namespace": namespace, "verb": self.verb, "group": self.group, "resource": resource}
        optional = {"subresource": subresource, "name": self.name}
        return attributes | {key: value for key, value in optional.items() if value}


GRANTS = (
    ("argoproj.io", "workflowtaskresults", "create patch", ""),
    ("argoproj.io", "workflowtasksets", "list watch", ""),
    ("argoproj.io", "workflowtasksets/status", "patch", ""),
    ("", "configmaps", "get", LAUNCHER_SETTINGS),
    ("", "secrets", "get", ARTIFACTS_SECRET),
    ("coordination.k8s.io", "leases", "create get list patch delete", ""),
    (KSERVE_GROUP, "inferenceservices", "create get list watch", ""),
    ("apps", "deployments", "create get list watch", ""),
    ("batch", "jobs", "create get", ""),
    ("", "services", "create get", ""),
    ("", "configmaps", "create get", ""),
    (KSERVE_GROUP, "servingruntimes", "get", ""),
    ("", "pods", "get list", ""),
    ("", "pods/log", "get", ""),
    ("", "events", "list", ""),
)
"""API group, resource, verbs, and the only object's name."""


def rights(*, kserve: bool = True, artifacts_secret: str = ARTIFACTS_SECRET) -> Iterator[Right]:
    """The rights of a run, with KServe or without, whose artifacts' key is in that Secret."""
    for group, resource, verbs, name in GRANTS:
        if kserve or group != KSERVE_GROUP:
            for verb in verbs.split():
                yield Right(group, resource, verb, artifacts_secret if resource == "secrets" else name)
