"""Check what the account of a run's steps may do, and that servers can get keys, before the run spends anything."""

from quantgate.components.benchmarks.selection import suite_of
from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.gguf_file import is_gguf
from quantgate.components.run.load_results import OFF
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.sandbox.containment import Containment, chosen_containment
from quantgate.components.servers.cluster_settings import KSERVE, LOCAL, from_environment
from quantgate.components.servers.start_key import servers_secret

ACCOUNT = "quantgate-pipeline"
"""The account of manifests/base/identities.yaml."""


def check_rights(plan: EvaluationPlan) -> None:
    """Raise PrerequisiteError when the later steps' account lacks a right; only on a cluster, where all have one.

    Also when they have no secret to make the servers' API keys from.
    """
    settings = from_environment()
    if settings.kind == LOCAL:
        return
    servers_secret()
    # the client takes a second to import, and only a cluster needs it
    from quantgate.components.kubernetes.cluster_client import ClusterClient
    from quantgate.components.kubernetes.rights import LOAD_TEST, PROGRAMS, missing_rights, serving_rights

    client = ClusterClient(settings.namespace)
    needed = serving_rights(with_kserve=settings.kind == KSERVE)
    if any(is_gguf(entry) for entry in plan.variant):  # a plain Deployment, whichever way the others are served
        needed += serving_rights(with_kserve=False)
    if suite_of(plan).programs and chosen_containment() is Containment.JOB:
        needed += PROGRAMS
    if plan.speed != OFF:
        needed += LOAD_TEST
    if missing := missing_rights(client, needed):
        raise PrerequisiteError(
            f"The steps of this run have the account {client.own_account()}, which may not"
            f" {'; '.join(map(str, missing))} in the namespace {settings.namespace}. Start the run again with the"
            f" service account {ACCOUNT}: in the form of Kubeflow's page under `Service Account`; `quantgate submit`"
            f" gives it by itself. docs/cluster.md says how an administrator makes it the default."
        )
