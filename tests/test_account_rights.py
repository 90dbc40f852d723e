"""The first step finds out what the account of the run's steps may not do."""

import time
from pathlib import Path

import pytest
import yaml

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes import rights
from quantgate.components.kubernetes.cluster_client import POD, ClusterClient
from quantgate.components.kubernetes.rights import Right
from quantgate.components.resolve.account_rights import check_rights
from quantgate.components.resolve.step import resolve
from quantgate.components.run.plan import EvaluationPlan
from tests.support.kubernetes_state import Cluster
from tests.support.on_cluster import cluster

__all__ = ["cluster"]

PLAN = EvaluationPlan(variants=("int8",), store="s3://bucket/store", results="s3://bucket/results")
IDENTITIES = Path(__file__).parents[1] / "manifests" / "base" / "identities.yaml"


def test_the_rows_are_the_role_of_the_manifests() -> None:
    (role,) = [
        document
        for document in yaml.safe_load_all(IDENTITIES.read_text())
        if document["kind"] == "Role" and document["metadata"]["name"] == "quantgate-deploy"
    ]
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    rows = (*rights.SERVE, *rights.WITH_KSERVE, *rights.WITHOUT_KSERVE, *rights.PROGRAMS, *rights.LOAD_TEST)
    needed = {(row.kind.group, resource(row), verb) for row in rows for verb in row.verbs}
    assert needed == granted


def resource(row: Right) -> str:
    return f"{row.kind.plural}/{row.subresource}" if row.subresource else row.kind.plural


def test_an_account_with_every_right_may_run(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTGATE_SERVING", "kserve")
    began = time.monotonic()
    check_rights(PLAN)
    assert time.monotonic() - began < 5  # a second where nothing else runs
    requests = {str(request) for request in cluster.requests}
    assert requests == {"create selfsubjectaccessreviews"}


def test_missing_rights_are_named_with_the_account_that_has_them(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTGATE_SERVING", "kserve")
    monkeypatch.setenv("QUANTGATE_SERVING_NAMESPACE", "team")
    cluster.forbidden = {"create inferenceservices", "watch inferenceservices", "get pods/log", "create deployments"}
    with pytest.raises(PrerequisiteError) as refusal:
        check_rights(PLAN)
    message = str(refusal.value)
    assert "system:serviceaccount:quantgate:quantgate-pipeline, which may not" in message
    assert "create, watch inferenceservices.serving.kserve.io" in message
    assert "get pods/log" in message
    assert "in the namespace team" in message
    assert "with the service account quantgate-pipeline" in message
    assert "deployments" not in message, "KServe makes them"


@pytest.mark.parametrize(
    ("changed", "refused"), [({"suite": "code"}, True), ({"speed": "quick"}, True), ({"suite": "demo"}, False)]
)
def test_the_right_to_create_jobs_is_needed_only_for_programs_and_load_tests(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], refused: bool
) -> None:
    monkeypatch.setenv("QUANTGATE_SERVING", "deployment")
    monkeypatch.setenv("QUANTGATE_CONTAINMENT", "job")
    cluster.forbidden = {"create jobs", "create inferenceservices"}
    plan = PLAN.model_copy(update=changed)
    if refused:
        with pytest.raises(PrerequisiteError, match="may not create jobs.batch in the namespace"):
            check_rights(plan)
    else:
        check_rights(plan)


def test_the_first_step_asks_before_it_looks_at_the_model(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUANTGATE_SERVING", "kserve")
    cluster.forbidden = {"create leases"}
    with pytest.raises(PrerequisiteError, match="may not create leases"):
        resolve("file:/nowhere", PLAN, str(tmp_path / "baseline.json"), str(tmp_path / "plan.json"))
    assert list(tmp_path.glob("*.json")) == []


def test_on_one_machine_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTGATE_SERVING", raising=False)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    check_rights(PLAN)


def test_one_right_is_asked_for_its_subresource(cluster: Cluster) -> None:
    cluster.forbidden = {"get pods/log"}
    client = ClusterClient("quantgate")
    assert client.may("get", POD)
    assert not client.may("get", POD, "log")
