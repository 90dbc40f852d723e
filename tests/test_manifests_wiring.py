"""The manifests' parts fit each other, and the objects of runs fit the manifests."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from quantgate.components.kubernetes.cluster_client import ClusterClient
from quantgate.components.kubernetes.labels import INSTANCE
from quantgate.components.run.artifacts import Server
from quantgate.components.run.load_results import ON_CPU
from quantgate.components.sandbox import job
from quantgate.components.servers import bench_job, objects
from quantgate.components.servers.cluster_settings import ServingSettings, from_environment
from quantgate.components.servers.vllm_pod import PORT, Served
from quantgate.pipelines import cluster
from tests.support.kustomized import (
    BUILDS,
    LISTENS,
    MANIFESTS,
    OVERLAYS,
    ROOT,
    Object,
    containers,
    kustomized,
    namespace_of,
    of_kind,
    pods,
)
from tests.support.network_policies import Peer, connects, lets, pod
from tests.support.schemas import check

SECRETS = MANIFESTS / "secrets"
UNITS: dict[str, int | Decimal] = {"": 1, "m": Decimal("0.001"), "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

RUN = {"workflows.argoproj.io/workflow": "ship-x1"}
STEP = {**RUN, **cluster.LABELS, cluster.STEP_LABEL: "evaluate-tiny"}
EXECUTE = {**STEP, cluster.STEP_LABEL: "execute"}
SANDBOX = {**job.labels("ship-x1", "int8"), INSTANCE: "qg-x1-int8-run"}
NO_CLUSTER = ClusterClient.__new__(ClusterClient)
"""For objects that are only built."""
SERVED = Served("ship-x1", "int8", "s3://bucket/int8", ())
SERVER, LOAD_TEST = SERVED.labels, bench_job.load_job(NO_CLUSTER, SERVED).labels
MLFLOW, POSTGRES = ({"app.kubernetes.io/name": name} for name in ("mlflow", "mlflow-postgres"))
INTERNET, PRIVATE, METADATA = Peer(address="93.184.216.34"), Peer(address="10.0.0.1"), Peer(address="169.254.169.254")
KUBEFLOW_S = {
    "kubeflow": {"app": "ml-pipeline-ui-artifact"},
    "openshift-ai": {"component": "data-science-pipelines"},
    "dev": {"application-crd-id": "kubeflow-pipelines"},
}
"""Labels of the pods in the runs' namespace that are Kubeflow's own, by overlay."""

OPENSHIFT_S: dict[str, Object] = {"openshift-service-ca.crt": {"data": {"service-ca.crt": ""}}}
"""ConfigMaps that OpenShift keeps in every namespace."""


def policies_of(overlay: str) -> list[Object]:
    """The overlay's network policies, with the name quantgate for the runs' namespace, as the peers here have it."""
    policies = of_kind(overlay, "NetworkPolicy").values()
    assert {policy["metadata"]["namespace"] for policy in policies} == {namespace_of(overlay)}
    return [{**policy, "metadata": {**policy["metadata"], "namespace": "quantgate"}} for policy in policies]


def references(node: object) -> Iterator[tuple[str, str, str]]:
    """Every reference to a Secret or ConfigMap that must exist below the node: kind, name, and the key (empty: all)."""
    if isinstance(node, dict):
        for kind, key_ref, all_ref, volume in (
            ("Secret", "secretKeyRef", "secretRef", "secret"),
            ("ConfigMap", "configMapKeyRef", "configMapRef", "configMap"),
        ):
            if key_ref in node:
                yield kind, node[key_ref]["name"], node[key_ref]["key"]
            for key in (all_ref, volume):
                if isinstance(node.get(key), dict) and not node[key].get("optional"):
                    yield kind, node[key].get("name") or node[key]["secretName"], ""
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Object]:
    """The Secrets created from the examples, by name."""
    folder = shutil.copytree(SECRETS, tmp_path_factory.mktemp("filled") / "secrets")
    for example in folder.glob("*.env.example"):
        example.rename(example.with_suffix(""))
    return {secret["metadata"]["name"]: secret for secret in kustomized(folder)}


@pytest.mark.parametrize("overlay", BUILDS)
def test_everything_that_a_pod_refers_to_exists(overlay: str, secrets: dict[str, Object]) -> None:
    there = {"Secret": secrets, "ConfigMap": of_kind(overlay, "ConfigMap") | OPENSHIFT_S}
    accounts = of_kind(overlay, "ServiceAccount")
    claims = of_kind(overlay, "PersistentVolumeClaim")
    for title, (_, spec) in pods(overlay).items():
        for kind, name, key in references(spec):
            assert name in there[kind], f"{title} wants the {kind} {name}"
            assert not key or key in there[kind][name]["data"], f"{title} wants {key} of {name}"
        assert spec.get("serviceAccountName", "quantgate-serving") in accounts, title
        for volume in spec.get("volumes", ()):
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in (None, *claims), title
        mounted = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", ())}
        offered = {volume["name"] for volume in spec.get("volumes", ())}
        assert mounted <= offered | {"data"}, title


def test_the_secrets_contain_the_keys_that_the_steps_use(secrets: dict[str, Object]) -> None:
    for wanted in (cluster.S3_KEYS, cluster.HUB, cluster.MLFLOW, cluster.SERVERS):
        assert set(wanted.names) <= secrets[wanted.name]["data"].keys()
    for overlay in OVERLAYS:
        settings = of_kind(overlay, "ConfigMap")
        assert {*cluster.S3_PLACE.names, *cluster.RUN_PLACES.names} == settings[cluster.S3_PLACE.name]["data"].keys()
        assert set(cluster.MLFLOW_PLACE.names) >= settings[cluster.MLFLOW_PLACE.name]["data"].keys()
        assert set(cluster.SERVING.names) >= settings[cluster.SERVING.name]["data"].keys()
        assert cluster.Cluster().cache_claim in of_kind(overlay, "PersistentVolumeClaim")


def test_the_overlay_dev_has_the_secrets_in_its_namespace(tmp_path: Path) -> None:
    copy = shutil.copytree(MANIFESTS, tmp_path / "manifests")
    for example in (copy / "secrets").glob("*.env.example"):
        example.rename(example.with_suffix(""))
    of_dev = kustomized(copy / "overlays" / "dev" / "secrets")
    assert {secret["metadata"]["name"] for secret in of_dev} >= {"quantgate-s3", "mlflow-server"}
    assert {secret["metadata"]["namespace"] for secret in of_dev} == {namespace_of("dev")}


def test_the_secrets_are_valid_and_have_kserves_s3_annotations(secrets: dict[str, Object]) -> None:
    for secret in secrets.values():
        check(secret)
        assert secret["metadata"]["namespace"] == "quantgate"
    annotations = secrets["quantgate-s3"]["metadata"]["annotations"]
    for overlay in ("kubeflow", "dev"):
        place = of_kind(overlay, "ConfigMap")["quantgate-s3"]["data"]
        scheme = "http" if annotations["serving.kserve.io/s3-usehttps"] == "0" else "https"
        assert f"{scheme}://{annotations['serving.kserve.io/s3-endpoint']}" == place["AWS_ENDPOINT_URL"]
        assert annotations["serving.kserve.io/s3-region"] == place["AWS_DEFAULT_REGION"]
    assert {"name": "quantgate-s3"} in of_kind("kubeflow", "ServiceAccount")["quantgate-serving"]["secrets"]


def test_git_ignores_the_secrets_and_keeps_only_examples_without_a_password() -> None:
    for example in SECRETS.glob("*.env.example"):
        ignored = subprocess.run(["git", "check-ignore", "-q", example.with_suffix("")], cwd=ROOT, check=False)
        assert ignored.returncode == 0, example
        for line in example.read_text(encoding="utf-8").splitlines():
            assert re.fullmatch(r"#.*|\w+=|\w+USERNAME=\w+", line), line


@pytest.mark.parametrize("overlay", BUILDS)
def test_a_service_selects_its_pods_and_their_port(overlay: str) -> None:
    for name, service in of_kind(overlay, "Service").items():
        selected = [
            spec for labels, spec in pods(overlay).values() if service["spec"]["selector"].items() <= labels.items()
        ]
        assert len(selected) == 1, name
        ports = {port["name"]: port["containerPort"] for port in selected[0]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"], name


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        pytest.param(pod(STEP), pod(SERVER), 8080, True, id="a step asks a server"),
        pytest.param(pod(SANDBOX), pod(SERVER), 8080, False, id="the sandbox asks no server"),
        pytest.param(pod({}), pod(SERVER), 8080, False, id="another pod of the namespace asks no server"),
        pytest.param(pod(STEP, "other"), pod(SERVER), 8080, False, id="a pod of another namespace asks no server"),
        pytest.param(pod(STEP), pod(SERVER), 22, False, id="a server is asked on its port only"),
        pytest.param(pod(SERVER), pod(SERVER), 8080, False, id="servers do not ask each other"),
        pytest.param(pod(SERVER), INTERNET, 443, True, id="a server fetches its weights"),
        pytest.param(pod(LOAD_TEST), pod(SERVER), 8080, True, id="a load test asks a server"),
        pytest.param(pod(LOAD_TEST, "other"), pod(SERVER), 8080, False, id="one of another namespace does not"),
        pytest.param(pod(LOAD_TEST), pod(SERVER), 22, False, id="a load test asks on the server's port only"),
        pytest.param(pod(LOAD_TEST), INTERNET, 443, True, id="a load test fetches the tokenizer"),
        pytest.param(pod(LOAD_TEST), PRIVATE, 6443, False, id="a load test does not reach the API server"),
        pytest.param(pod(LOAD_TEST), pod(MLFLOW), 5000, False, id="a load test does not write to MLflow"),
        pytest.param(pod(LOAD_TEST), pod(STEP), 8080, False, id="a load test reaches no step"),
        pytest.param(pod(SERVER), pod(MLFLOW), 5000, False, id="a server does not write to MLflow"),
        pytest.param(pod(STEP), pod(MLFLOW), 5000, True, id="a step writes to MLflow"),
        pytest.param(pod(SANDBOX), pod(MLFLOW), 5000, False, id="the sandbox does not"),
        pytest.param(pod(STEP), INTERNET, 443, True, id="a step reaches the hub"),
        pytest.param(pod(SANDBOX), INTERNET, 443, False, id="the sandbox does not reach the internet"),
        pytest.param(pod(SANDBOX), PRIVATE, 6443, False, id="the sandbox does not reach the API server"),
        pytest.param(pod(SANDBOX), pod(STEP), 8080, False, id="the sandbox reaches no step"),
        pytest.param(pod(STEP), pod(SANDBOX), 8080, False, id="nobody reaches the sandbox"),
        pytest.param(pod(EXECUTE), PRIVATE, 6443, True, id="the step that starts it reaches the API server"),
        pytest.param(pod(STEP), METADATA, 443, False, id="nobody gets the node's credentials"),
        pytest.param(pod(STEP), INTERNET, 25, False, id="a step sends no mail"),
        pytest.param(pod(MLFLOW), pod(POSTGRES), 5432, True, id="MLflow reaches its database"),
        pytest.param(pod(STEP), pod(POSTGRES), 5432, False, id="a step does not"),
        pytest.param(pod(POSTGRES), INTERNET, 443, False, id="the database reaches nothing"),
        pytest.param(pod({"app.kubernetes.io/name": "quantgate-reaper"}), PRIVATE, 6443, True, id="the reaper asks"),
        pytest.param(pod(RUN), PRIVATE, 6443, True, id="Kubeflow's own pods reach the API server"),
    ],
)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_policies_allow_exactly_these_connections(
    overlay: str, source: Peer, target: Peer, port: int, allowed: bool
) -> None:
    policies = policies_of(overlay)
    assert connects(policies, source, target, port) is allowed


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_network_policy_selects_kubeflows_own_pods(overlay: str) -> None:
    """A pod without policies accepts everything; the first policy that selects it closes all other connections."""
    policies = policies_of(overlay)
    own, other = pod(KUBEFLOW_S[overlay]), pod({"app": "mysql"}, "elsewhere")
    assert connects(policies, own, other, 3306)
    assert connects(policies, other, own, 3000)
    assert not connects(policies, pod({}), other, 3306)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_node_is_reachable_only_for_dns(overlay: str) -> None:
    policies = policies_of(overlay)
    assert not connects(policies, pod(SANDBOX), Peer(address="169.254.20.10"), 53, "UDP")
    for labels in (STEP, SERVER, LOAD_TEST, MLFLOW, {}):
        assert connects(policies, pod(labels), Peer(address="169.254.20.10"), 53, "UDP")
        assert not connects(policies, pod(labels), Peer(address="169.254.20.10"), 80)
        assert not connects(policies, pod(labels), METADATA, 53, "UDP")


def test_a_servers_own_policy_admits_only_steps() -> None:
    policies = [of_kind("kubeflow", "NetworkPolicy")["serving"]]
    assert connects(policies, pod(STEP), pod(SERVER), 8080)
    assert not lets(policies, "Ingress", pod(SERVER), pod(cluster.LABELS), 8080, "TCP")


@pytest.mark.parametrize(("policy", "target", "port"), [("serving", SERVER, 8080), ("mlflow", MLFLOW, 5000)])
def test_the_pods_closed_to_the_sandbox_also_refuse_it_themselves(
    policy: str, target: dict[str, str], port: int
) -> None:
    policies = [of_kind("kubeflow", "NetworkPolicy")[policy]]
    assert connects(policies, pod(STEP), pod(target), port)
    assert not connects(policies, pod(SANDBOX), pod(target), port)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_models_programs_have_no_access_to_dns(overlay: str) -> None:
    policies = policies_of(overlay)
    for peer in (pod({"k8s-app": "kube-dns"}, "kube-system"), pod({"app": "ml-pipeline"}, "kubeflow"), METADATA):
        for port, protocol in ((53, "UDP"), (53, "TCP"), (8887, "TCP"), (443, "TCP")):
            assert not connects(policies, pod(SANDBOX), peer, port, protocol)
    account = of_kind(overlay, "ServiceAccount")[job.ACCOUNT]
    assert account["automountServiceAccountToken"] is False
    bound = [subject for binding in of_kind(overlay, "RoleBinding").values() for subject in binding["subjects"]]
    assert job.ACCOUNT not in [subject["name"] for subject in bound]


@pytest.mark.parametrize("labels", [RUN, STEP, EXECUTE], ids=["driver", "step", "execute"])
@pytest.mark.parametrize(
    ("overlay", "pipelines"),
    [
        ("kubeflow", pod({"app": "ml-pipeline"}, "kubeflow")),
        ("openshift-ai", pod({"component": "data-science-pipelines"})),
        ("dev", pod({"application-crd-id": "kubeflow-pipelines"})),
    ],
)
def test_every_pod_of_a_run_reaches_kubeflow_pipelines_and_dns(
    overlay: str, pipelines: Peer, labels: dict[str, str]
) -> None:
    policies = policies_of(overlay)
    assert connects(policies, pod(labels), pipelines, 8887)
    assert connects(policies, pod(labels), pod({"k8s-app": "kube-dns"}, "kube-system"), 53, "UDP")


def test_only_openshifts_router_reaches_mlflow_from_outside() -> None:
    router = pod({}, "openshift-ingress")
    reached = {overlay: connects(policies_of(overlay), router, pod(MLFLOW), 5000) for overlay in OVERLAYS}
    assert reached == {"dev": False, "kubeflow": False, "openshift-ai": True}


def serving_settings(overlay: str) -> ServingSettings:
    """The settings with which the overlay's steps serve a variant."""
    data = of_kind(overlay, "ConfigMap")[cluster.SERVING.name]["data"]
    return from_environment({**data, "QUANTGATE_SERVING": "kserve"}, Path("/of no pod"))


def test_openshift_chooses_a_servers_user() -> None:
    assert serving_settings("openshift-ai").run_as_user == 0
    assert serving_settings("kubeflow").run_as_user == 1000


def quantity(text: str) -> Decimal:
    """A quantity as a number: `500m`, `2Gi`."""
    match = re.fullmatch(r"(\d+)(\w*)", text)
    assert match
    return Decimal(match[1]) * UNITS[match[2]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_cache_is_writable_for_the_group_of_the_images(overlay: str) -> None:
    job_object = of_kind(overlay, "Job")["quantgate-cache"]
    # within Argo CD's sync: after it would be never where the volume waits for its first consumer (argo-cd #12840)
    assert job_object["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "Sync"
    job = job_object["spec"]["template"]["spec"]
    # OpenShift gives every pod the group of its namespace, and refuses another
    assert job["securityContext"].get("fsGroup") == (None if overlay == "openshift-ai" else 0)
    (container,) = job["containers"]
    (mount,) = container["volumeMounts"]
    assert container["command"] == ["test", "-w", mount["mountPath"]]
    assert job["volumes"][0]["persistentVolumeClaim"]["claimName"] == cluster.Cluster().cache_claim
    for name in ("quantgate", "quantize"):
        assert "USER 10001:0\n" in (MANIFESTS / "images" / f"{name}.Containerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("overlay", BUILDS)
def test_the_quota_has_room_for_mlflow_and_one_variant(overlay: str) -> None:
    hard = of_kind(overlay, "ResourceQuota")["quantgate"]["spec"]["hard"]
    step, server, quantize = cluster.STEPS["evaluate-full"], serving_settings(overlay), cluster.STEPS["quantize"]
    text = (MANIFESTS / "overlays" / overlay.removesuffix(LISTENS) / "kustomization.yaml").read_text(encoding="utf-8")
    memory = re.search(r"compile .*--quantize-memory (\w+)", text)
    needed = [
        ("cpu", (step.cpu, server.cpu, bench_job.CPUS)),
        ("memory", (step.memory, server.memory, bench_job.MEMORY)),
        ("cpu", (quantize.cpu,)),
        ("memory", (memory[1] if memory else quantize.memory,)),
    ]
    for resource, of_a_run in needed:
        requests = [
            quantity(container["resources"]["requests"][resource])
            for name, (container, _) in containers(overlay).items()
            if not name.startswith("ServingRuntime/")
        ]
        assert sum(requests) + sum(map(quantity, of_a_run)) <= quantity(hard[f"requests.{resource}"])
    assert server.gpus <= int(hard["requests.nvidia.com/gpu"])
    claims = of_kind(overlay, "PersistentVolumeClaim").values()
    templates = of_kind(overlay, "StatefulSet")["mlflow-postgres"]["spec"]["volumeClaimTemplates"]
    stored = [quantity(claim["spec"]["resources"]["requests"]["storage"]) for claim in (*claims, *templates)]
    assert sum(stored) <= quantity(hard["requests.storage"])


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_variants_server_fits_the_runtime_and_the_schemas(overlay: str) -> None:
    settings = serving_settings(overlay)
    served = Served("ship-x1", "int8", "s3://bucket/int8", ("--max-model-len", "2048"))
    runtime = objects.runtime_of(of_kind(overlay, "ServingRuntime")[settings.runtime], settings)
    for _, body in objects.manifests(served, runtime, settings):
        check(body)
        if body["kind"] == "InferenceService":
            predictor = body["spec"]["predictor"]
            assert predictor["serviceAccountName"] in of_kind(overlay, "ServiceAccount")
            # KServe puts both lists into one pod
            taken = {
                volume["name"] for volume in of_kind(overlay, "ServingRuntime")[settings.runtime]["spec"]["volumes"]
            }
            assert not taken & {volume["name"] for volume in predictor["volumes"]}
    assert runtime.port == PORT


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_load_test_fits_the_manifests(overlay: str) -> None:
    settings = serving_settings(overlay)
    server = Server(variant="int8", url="http://server/v1", served_name="quantgate-int8", key_secret="key")
    spec = bench_job.pod_spec(SERVED, server, ON_CPU["quick"], settings, "vllm:1")
    check(bench_job.load_job(NO_CLUSTER, SERVED).body(spec, 60))
    assert spec["serviceAccountName"] in of_kind(overlay, "ServiceAccount")
    assert spec["securityContext"].get("runAsUser") == (None if overlay == "openshift-ai" else 1000)


def test_a_variants_server_without_kserve_is_valid() -> None:
    settings = ServingSettings(kind="deployment")
    served = Served("ship-x1", "int8", "s3://bucket/int8", ())
    for _, body in objects.manifests(served, objects.own_runtime(settings), settings):
        check(body)


def test_argo_cd_uses_an_overlay_at_a_fixed_version() -> None:
    # Argo CD's schema is in no Python package: these are the fields that decide what it does.
    application = yaml.safe_load((MANIFESTS / "gitops" / "application.yaml").read_text(encoding="utf-8"))
    spec = application["spec"]
    assert (ROOT / spec["source"]["path"] / "kustomization.yaml").exists()
    assert re.fullmatch(r"v\d+\.\d+\.\d+", spec["source"]["targetRevision"])
    assert spec["destination"]["namespace"] == "quantgate"
    assert not re.search("(?i)password|token|secret(?!s are)", str(application))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_mlflows_database_stores_every_character(overlay: str) -> None:
    """Under the locale C initdb chooses SQL_ASCII, which refuses a run whose name has another character."""
    pod_spec = of_kind(overlay, "StatefulSet")["mlflow-postgres"]["spec"]["template"]["spec"]
    variables = {variable["name"]: variable.get("value") for variable in pod_spec["containers"][0]["env"]}
    assert "--encoding=UTF8" in variables["POSTGRES_INITDB_ARGS"].split()
