"""Whether the run's account may do what a run's pods request: by access reviews, which change nothing."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from quantgate.components.kubernetes.cluster_client import JSON, ClusterClient
from quantgate.components.kubernetes.rights import AT_ONCE, PROGRAMS, serving_rights
from quantgate.pipelines.doctor.finding import FAULT, GOOD, NOTE, PATIENCE_S, Examined, Finding
from quantgate.pipelines.doctor.object_stores import LAUNCHER_SETTINGS, artifacts

AUTHORIZATION = "authorization.k8s.io"
ARGO = "argoproj.io"
EXECUTOR = (
    (ARGO, "workflowtaskresults", "", ("create", "patch")),
    (ARGO, "workflowtasksets", "", ("list", "watch")),
    (ARGO, "workflowtasksets", "status", ("patch",)),
)
"""What Argo's executor needs in each pod: the role `quantgate-run`, with kfp's launcher's rights on two objects."""


def needed_rights(examined: Examined) -> list[JSON]:
    """The rights of the roles `quantgate-run` and `quantgate-deploy`, as `resourceAttributes` of access reviews."""
    rows = (*serving_rights(with_kserve=examined.uses_kserve), *PROGRAMS)
    ours = ((row.kind.group, row.kind.plural, row.subresource, row.verbs) for row in rows)
    needed = [
        {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
        for group, resource, subresource, verbs in dict.fromkeys([*EXECUTOR, *ours])
        for verb in verbs
    ]
    for resource, name in (("configmaps", LAUNCHER_SETTINGS), ("secrets", artifacts(examined).secret)):
        needed.append({"verb": "get", "group": "", "resource": resource, "name": name})
    return [{"namespace": examined.namespace, **right} for right in needed]


def account_rights(examined: Examined) -> Iterator[Finding]:
    """The rights that the run's account lacks, in one line."""
    account = f"{examined.account} in {examined.namespace}"
    existing = examined.questions.named("serviceaccounts", examined.account, examined.namespace)
    apply = "Apply manifests/, or name the right account with --service-account."
    if existing.is_missing:
        yield Finding(FAULT, "account", f"there is no service account {account}", apply)
        return
    needed = needed_rights(examined)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        allowed = list(pool.map(review(examined), needed))
    if None in allowed:
        text = f"not checked: you may not ask what {account} may do"
        yield Finding(NOTE, "account", text, "Ask as an administrator of the namespace, or in a pod of that account.")
    elif missing := [shown(right) for right, may in zip(needed, allowed, strict=True) if not may]:
        yield Finding(FAULT, "account", f"{account} may not: {', '.join(missing)}", apply)
    else:
        yield Finding(GOOD, "account", f"{account} has the {len(needed)} rights that a run needs")


def review(examined: Examined) -> Callable[[JSON], bool | None]:
    """A function that says whether the run's account has a right; None if this is another account that may not ask.

    Every account may ask about itself. About another one the right to create LocalSubjectAccessReviews is needed.
    """
    kind, namespace, about = "SelfSubjectAccessReview", "", {}
    if ClusterClient(examined.namespace, PATIENCE_S).own_account() != examined.user:
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{examined.namespace}", "system:authenticated"]
        about = {"user": examined.user, "groups": groups}
        kind, namespace = "LocalSubjectAccessReview", examined.namespace

    def may(right: JSON) -> bool | None:
        spec = {**about, "resourceAttributes": right}
        status = examined.questions.review(AUTHORIZATION, kind, spec, namespace)
        return None if status is None else bool(status.get("allowed"))

    return may


def shown(right: JSON) -> str:
    """The right as RBAC and kubectl name it."""
    kind = f"{right['resource']}.{right['group']}" if right["group"] else right["resource"]
    part = f"/{right['subresource']}" if right.get("subresource") else ""
    return " ".join(filter(None, (right["verb"], f"{kind}{part}", right.get("name"))))
