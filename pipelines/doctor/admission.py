"""Whether the cluster would accept the objects that serve a variant: rehearsed, so that nothing is created."""

from collections.abc import Iterator
from http import HTTPStatus

from quantgate.components.kubernetes.cluster_client import JSON, SECRET, ObjectKind
from quantgate.components.servers import objects
from quantgate.components.servers.vllm_pod import Runtime, Served
from quantgate.pipelines.doctor.finding import FAULT, GOOD, NOTE, Examined, Finding

WINDOW = 1024
NO_REHEARSAL = "does not support dry run"
UNREACHABLE = "failed calling webhook"


def rehearsed(examined: Examined, runtime: Runtime) -> Iterator[Finding]:
    """What the API server and its webhooks say to each object that `deploy` would create."""
    settings = examined.settings
    options = objects.answering(settings, WINDOW)
    served = Served("doctor", "int8", "s3://bucket/weights/int8", options, key_secret="doctor-int8")
    owned = [(SECRET, objects.key_secret(served, key="")), *objects.manifests(served, runtime, settings)]
    findings = [rehearsal(examined, kind, body) for kind, body in owned]
    if all(finding.mark == GOOD for finding in findings):
        names = ", ".join(str(kind) for kind, _ in owned)
        yield Finding(GOOD, "admission", f"the cluster and its webhooks accept: {names}")
    else:
        yield from (finding for finding in findings if finding.mark != GOOD)


def rehearsal(examined: Examined, kind: ObjectKind, body: JSON) -> Finding:
    """The answer to the creation of one object."""
    base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    answer = examined.questions.rehearse(f"{base}/namespaces/{examined.namespace}/{kind.plural}", body)
    if answer.is_ok or answer.status == HTTPStatus.CONFLICT:
        return Finding(GOOD, "admission", f"{kind}: accepted")
    if answer.is_forbidden:
        return Finding(NOTE, "admission", f"{kind}: not checked, you may not create them: {answer.message}")
    if NO_REHEARSAL in answer.message:
        return Finding(NOTE, "admission", f"{kind}: not checked: {answer.message}")
    if UNREACHABLE in answer.message:
        remedy = "See why that webhook's pods do not answer; a run waits for it only for a while."
        return Finding(FAULT, "admission", f"{kind}: {answer.message}", remedy)
    remedy = "Remove what it names from the ConfigMap quantgate-serving or the ServingRuntime"
    remedy += "; or serve without KServe: quantgate compile --serving deployment." if examined.uses_kserve else "."
    return Finding(FAULT, "admission", f"a {kind} like ours is refused: {answer.message}", remedy)
