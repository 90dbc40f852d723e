"""Whether the Secrets and volume claims exist without which a step's pod never starts."""

from collections.abc import Iterator

from quantgate.pipelines.doctor.finding import FAULT, GOOD, NOTE, Examined, Finding

REMEDIES = {
    "secrets": "Create it from manifests/secrets, before the rest of the manifests.",
    "persistentvolumeclaims": "Apply manifests/, or compile with --cache-claim and the name of another one.",
}


def mounted(examined: Examined) -> Iterator[Finding]:
    """One finding for each object that is missing, and one for the others; values of Secrets are not requested."""
    answers = {
        f"{kind[:-1]} {name}": (kind, examined.questions.metadata(kind, name, examined.namespace))
        for kind, name in examined.needs.mounts
    }
    for shown, (kind, answer) in answers.items():
        if answer.is_missing:
            yield Finding(FAULT, "pods", f"there is no {shown} in {examined.namespace}", REMEDIES[kind])
    if existing := [shown for shown, (_, answer) in answers.items() if answer.is_ok]:
        yield Finding(GOOD, "pods", f"the steps' pods find {', '.join(existing)}")
    if unread := [shown for shown, (_, answer) in answers.items() if not answer.is_ok and not answer.is_missing]:
        yield Finding(NOTE, "pods", f"not checked, you may not read: {', '.join(unread)}")
