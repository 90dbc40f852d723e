"""Whether the run's account may do what the code requests: by access reviews, which change nothing."""

from collections.abc import Iterator

from components.kubernetes.rights import Right, rights
from pipelines.doctor.finding import FAULT, GOOD, NOTE, Examined, Finding
from pipelines.doctor.object_stores import artifacts

AUTHORIZATION = "authorization.k8s.io"


def account_rights(examined: Examined) -> Iterator[Finding]:
    """The rights that the run's account lacks, in one line."""
    questions, account = examined.questions, f"{examined.account} in {examined.namespace}"
    existing = questions.named("serviceaccounts", examined.account, examined.namespace)
    apply = "Apply manifests/, or name the right account with --service-account."
    if existing.is_missing:
        yield Finding(FAULT, "account", f"there is no service account {account}", apply)
        return
    needed = list(rights(kserve=examined.uses_kserve, artifacts_secret=artifacts(examined).secret))
    is_self = own_name(examined) == examined.user
    may = {right: may_use(examined, right, is_self=is_self) for right in needed}
    if None in may.values():
        text = f"not checked: you may not ask what {account} may do"
        yield Finding(NOTE, "account", text, "Ask as an administrator of the namespace, or in a pod of that account.")
    elif missing := [str(right) for right, allowed in may.items() if not allowed]:
        yield Finding(FAULT, "account", f"{account} may not: {', '.join(missing)}", apply)
    else:
        yield Finding(GOOD, "account", f"{account} has the {len(needed)} rights that a run needs")


def may_use(examined: Examined, right: Right, *, is_self: bool) -> bool | None:
    """Whether the run's account has the right; None if this is another account that may not ask.

    Every account may ask about itself. About another one the right to create LocalSubjectAccessReviews is needed.
    """
    questions, attributes = examined.questions, right.attributes(examined.namespace)
    if is_self:
        status = questions.review(AUTHORIZATION, "SelfSubjectAccessReview", {"resourceAttributes": attributes})
    else:
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{examined.namespace}", "system:authenticated"]
        spec = {"user": examined.user, "groups": groups, "resourceAttributes": attributes}
        status = questions.review(AUTHORIZATION, "LocalSubjectAccessReview", spec, examined.namespace)
    return None if status is None else bool(status.get("allowed"))


def own_name(examined: Examined) -> str:
    """The name under which the API server knows this process."""
    status = examined.questions.review("authentication.k8s.io", "SelfSubjectReview", {}) or {}
    return str(status.get("userInfo", {}).get("username", ""))
