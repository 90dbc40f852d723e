"""Each start of a server on a cluster has an API key of its own, in a Secret of its own."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.kubernetes.cluster_client import ClusterClient
from quantgate.components.resolve.account_rights import check_rights
from quantgate.components.run.artifacts import Server
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.servers import access, kserve
from quantgate.components.servers.client import client_of
from quantgate.components.servers.cluster_engine import find_runtime
from quantgate.components.servers.cluster_settings import DEPLOYMENT, KSERVE, ServingSettings
from quantgate.components.servers.replaced_pod import server_again
from quantgate.components.servers.start_key import SERVERS_SECRET, start_key
from tests.support.kubernetes_state import Cluster
from tests.support.on_cluster import (
    PLURALS,
    RESULTS,
    WORKFLOW,
    Answering,
    cluster,
    deployed,
    environment,
    left,
    model,
    ready_at_once,
    settings,
    the_one,
    vllm,
)

__all__ = ["cluster", "deployed", "model", "settings", "vllm"]

Deploy = Callable[..., Server]
USERS = "the key of the user's own server"


def name_of(cluster: Cluster, kind: str) -> str:
    name: str = the_one(cluster, PLURALS[kind])["metadata"]["name"]
    return name


@pytest.mark.fault(
    "servers",
    "another pod of the cluster asks a server of a run",
    "it demands the random key of its start, which is in no argument, artifact or log",
)
@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
def test_a_servers_pod_gets_its_key_from_a_secret_that_goes_with_the_server(
    cluster: Cluster,
    settings: ServingSettings,
    deployed: Deploy,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", USERS)
    ready_at_once(cluster)
    server = deployed(kind=kind)
    assert server.failure == ""
    key, secret, lease = access.key_of(server), the_one(cluster, "secrets"), the_one(cluster, "leases")
    assert len(key) == 64
    assert environment(cluster, name_of(cluster, kind))["VLLM_API_KEY"] == key
    assert secret["metadata"]["name"] == server.key_secret == f"{name_of(cluster, kind)}-{lease['metadata']['uid']}"
    assert (secret["type"], secret["immutable"], list(secret["data"])) == ("Opaque", True, ["VLLM_API_KEY"])
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == [lease["metadata"]["uid"]]
    assert secret["metadata"]["labels"] == lease["metadata"]["labels"]
    assert secret["metadata"]["labels"]["quantgate.dev/run"] == WORKFLOW
    others = [thing for (path, _), thing in cluster.objects.items() if not path.endswith("/secrets")]
    for text in (json.dumps(others), server.model_dump_json(), *capsys.readouterr()):
        assert key not in text
    kserve.undeploy("int8", RESULTS, replace(settings, kind=kind))
    assert left(cluster) == []


def test_every_request_to_a_server_of_ours_carries_its_key_and_never_the_users(
    cluster: Cluster, deployed: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", USERS)
    ready_at_once(cluster)
    server = deployed()
    key = f"Bearer {access.key_of(server)}"
    (_, without), (_, wrong), *others = Answering.asked
    assert without == ""
    assert wrong.startswith("Bearer ")
    assert wrong not in (key, f"Bearer {USERS}")
    assert {sent for _, sent in others} == {key}
    assert {path.rpartition("/")[2] for path, _ in others} == {"models", "version", "quantgate"}
    assert f"Bearer {client_of(server).key}" == key
    elsewhere = Server(variant="int8", url="http://elsewhere/v1", key_secret=server.key_secret)
    assert client_of(elsewhere).key == USERS


def test_a_repeated_start_has_the_same_key_and_the_next_start_another(
    cluster: Cluster, settings: ServingSettings, deployed: Deploy
) -> None:
    ready_at_once(cluster)
    first, again = deployed(), deployed()
    assert (again.failure, again.key_secret) == ("", first.key_secret)
    kserve.undeploy("int8", RESULTS, settings)
    cluster.collects_garbage = False  # the Secret of the first start is still there
    second = deployed()
    assert second.failure == ""
    assert access.key_of(second) != access.key_of(first)
    assert environment(cluster, name_of(cluster, KSERVE))["VLLM_API_KEY"] == access.key_of(second)


@pytest.mark.fault(
    "servers",
    "a server on a cluster takes requests without its key, or with any key",
    "the start fails, says so, and removes the server",
)
@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
@pytest.mark.parametrize(
    ("takes", "how"),
    [
        (lambda _sent, _key: True, "answers a request without its API key: it is not the one that this run started"),
        (lambda sent, _key: bool(sent), "answers a request with a wrong API key: it is not the one"),
    ],
)
def test_a_server_that_answers_strangers_is_not_used(
    cluster: Cluster,
    deployed: Deploy,
    kind: str,
    takes: Callable[[str, str], bool],
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Answering, "takes", staticmethod(takes))
    ready_at_once(cluster)
    server = deployed(kind=kind)
    assert how in server.failure
    assert f"Look for other pods with the labels of {server.key_secret[:18]}" in server.failure
    assert f"Bearer {access.key_of(server)}" not in {sent for _, sent in Answering.asked}, "it never sees the key"
    assert left(cluster) == []


def test_a_server_with_another_key_is_named_as_that(
    cluster: Cluster, deployed: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kserve, "REACHED_WITHIN_S", 0.0)
    monkeypatch.setattr(Answering, "takes", staticmethod(lambda sent, _key: sent == "Bearer another"))
    ready_at_once(cluster)
    assert "refuses the API key of its start: another one answers there" in deployed().failure


def test_a_servers_secret_that_was_changed_since_the_start_is_named_at_once(
    cluster: Cluster, settings: ServingSettings, deployed: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready_at_once(cluster)
    server = deployed()
    monkeypatch.setenv(SERVERS_SECRET, "b" * 32)
    with pytest.raises(PrerequisiteError, match="refuses the API key of its start.* quantgate-servers was changed"):
        server_again(server, RESULTS, settings)


@pytest.mark.parametrize(
    ("secret", "found"), [("", "is not set"), (" " * 40, "is not set"), ("x" * 31, "is too short")]
)
def test_without_a_secret_to_make_keys_from_nothing_is_started(
    cluster: Cluster, deployed: Deploy, monkeypatch: pytest.MonkeyPatch, secret: str, found: str
) -> None:
    monkeypatch.setenv(SERVERS_SECRET, secret)
    expected = rf"\$QUANTGATE_SERVERS_SECRET {found}: .* Secret quantgate-servers"
    with pytest.raises(PrerequisiteError, match=expected):
        deployed()
    monkeypatch.setenv("QUANTGATE_SERVING", KSERVE)
    with pytest.raises(PrerequisiteError, match=expected):  # before the run spends anything
        check_rights(EvaluationPlan(variants=("int8",), store="s3://bucket/store", results=RESULTS))
    assert left(cluster) == []


def test_a_key_depends_on_the_start_and_on_the_servers_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for secret, name in (("a" * 32, "qg-1"), ("a" * 32, "qg-2"), ("b" * 32, "qg-1")):
        monkeypatch.setenv(SERVERS_SECRET, secret)
        keys.append(start_key(name))
        assert start_key(name) == keys[-1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    "setting",
    [{"env": (("VLLM_API_KEY", "mine"),)}, {"options": ("--api-key", "mine")}, {"options": ("--api-key=mine",)}],
)
def test_a_setting_or_a_runtime_with_a_key_of_its_own_is_refused(
    cluster: Cluster, settings: ServingSettings, setting: dict[str, tuple[str, ...]]
) -> None:
    with pytest.raises(PrerequisiteError, match="sets vLLM's API key. Remove it") as refusal:
        replace(settings, **setting)  # type: ignore[arg-type]
    assert "mine" not in str(refusal.value)
    own = (
        {"env": [{"name": "VLLM_API_KEY", "value": "mine"}]} if "env" in setting else {"args": list(setting["options"])}
    )
    cluster.change("servingruntimes", "quantgate-vllm", lambda obj: obj["spec"]["containers"][0].update(own))
    with pytest.raises(PrerequisiteError, match="The ServingRuntime quantgate-vllm sets vLLM's API key"):
        find_runtime(ClusterClient("quantgate"), settings)


def test_the_right_to_create_a_key_is_asked_for_and_no_secret_is_read(
    cluster: Cluster, deployed: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready_at_once(cluster)
    deployed()
    assert [request for request in cluster.counted() if "secrets" in request] == ["create secrets"]
    cluster.forbidden = {"create secrets"}
    kept = deployed(options=("--enforce-eager",))
    assert "quantgate-pipeline may not create secrets in the namespace quantgate" in kept.failure
    assert left(cluster) == []
    monkeypatch.setenv("QUANTGATE_SERVING", DEPLOYMENT)
    with pytest.raises(PrerequisiteError, match="which may not create secrets in the namespace"):
        check_rights(EvaluationPlan(variants=("int8",), store="s3://bucket/store", results=RESULTS))
