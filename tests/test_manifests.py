"""The manifests: every overlay builds, every object is valid, and no account has more rights than documented."""

import importlib.metadata
import importlib.util
import re
import tomllib
from typing import Any

import jsonschema
import pytest

import environments
from quantgate.components.environments.serving_environment import serving_lock
from quantgate.components.environments.virtual_environment import pins_in
from quantgate.pipelines import cluster
from tests.support.kustomized import (
    BUILDS,
    LISTENS,
    MANIFESTS,
    OVERLAYS,
    ROOT,
    Object,
    built,
    containers,
    grants,
    namespace_of,
    of_kind,
    pods,
    table_after,
    variables,
)
from tests.support.schemas import VERSIONS, check

TEXT = {"type": "string", "minLength": 1}
RIGHTS = ROOT / "docs" / "rights.md"


def closed(**properties: Any) -> dict[str, Any]:
    """A schema of an object with exactly these fields."""
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": sorted(properties)}


# No Python package has these: the few fields that are used, after the projects' own CRDs.
OTHERS = {
    ("kubeflow.org/v1", "Profile"): closed(owner=closed(kind={"enum": ["User"]}, name=TEXT)),
    ("route.openshift.io/v1", "Route"): closed(
        host=TEXT,
        to=closed(kind={"enum": ["Service"]}, name=TEXT),
        port=closed(targetPort=TEXT),
        tls=closed(termination={"enum": ["edge"]}, insecureEdgeTerminationPolicy={"enum": ["Redirect", "None"]}),
    ),
}


def title(obj: Object) -> str:
    return f"{obj['kind']}/{obj['metadata']['name']}"


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", BUILDS)
def test_every_object_is_valid(overlay: str, version: str) -> None:
    for obj in built(overlay):
        try:
            if spec := OTHERS.get((obj["apiVersion"], obj["kind"])):
                jsonschema.validate(obj["spec"], spec)
            else:
                check(obj, version)
        except jsonschema.ValidationError as error:
            pytest.fail(f"{title(obj)}: {error.json_path}: {error.message}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec["containers"][0].update(command="python"),
        lambda spec: spec["containers"][0].update(securityContext={"readOnlyRootFileSystem": True}),
        lambda spec: spec.pop("containers"),
        lambda spec: spec.update(supportedModelFormat=[]),
    ],
    ids=["a text for a list", "a field of Kubernetes' misspelt", "a field missing", "a field of KServe's misspelt"],
)
def test_an_invalid_serving_runtime_is_refused(spoil: Any) -> None:
    runtime = of_kind("kubeflow", "ServingRuntime")["quantgate-vllm"]
    spec = {**runtime["spec"], "containers": [dict(container) for container in runtime["spec"]["containers"]]}
    spoil(spec)
    with pytest.raises(jsonschema.ValidationError):
        check({**runtime, "spec": spec})


@pytest.mark.parametrize("overlay", BUILDS)
def test_an_overlay_has_each_object_once_and_in_the_namespace_of_the_runs(overlay: str) -> None:
    names = [title(obj) for obj in built(overlay)]
    assert len(names) == len(set(names))
    everywhere = {"Namespace", "Profile"}
    for obj in built(overlay):
        expected = None if obj["kind"] in everywhere else namespace_of(overlay)
        assert obj["metadata"].get("namespace") == expected, title(obj)


def part_of(obj: Object, overlay: str) -> str:
    """The object's part-of label: Kubeflow recognizes a profile's namespace by this label.

    Its NetworkPolicies let nobody else reach ml-pipeline, the metadata and the object store, and its profile controller
    leaves a label alone that is there (kubeflow/manifests, common/networkpolicies).
    """
    return "kubeflow-profile" if (obj["kind"], overlay) == ("Namespace", "kubeflow") else "quantgate"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_reaper_cannot_mistake_an_object_of_the_manifests_for_a_runs(overlay: str) -> None:
    for obj in built(overlay):
        labels = obj["metadata"].get("labels", {})
        assert labels["app.kubernetes.io/part-of"] == part_of(obj, overlay), title(obj)
        assert "app.kubernetes.io/managed-by" not in labels, title(obj)
    for name, (labels, _) in pods(overlay).items():
        assert "app.kubernetes.io/managed-by" not in labels, name


@pytest.mark.parametrize("overlay", BUILDS)
def test_every_image_has_a_version_or_a_digest(overlay: str) -> None:
    for name, (container, _) in containers(overlay).items():
        image = container["image"]
        registry, _, rest = image.partition("/")
        assert "." in registry, f"{name}: {image} names no registry"
        assert re.search(r"(:v?\d[\w.-]*|@sha256:[0-9a-f]{64})$", rest), f"{name}: {image}"


def test_the_images_have_the_versions_in_the_locks() -> None:
    project = pins_in(environments.PROJECT_LOCK)
    tags = {
        container["image"].partition("/")[2].rpartition(":")[::2] for container, _ in containers("kubeflow").values()
    }
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version
    (plugin,) = importlib.metadata.distributions(path=[str(ROOT / "components" / "servers" / "vllm_plugin")])
    vllm = f"{pins_in(serving_lock('cuda'))['vllm']}-{plugin.version}"
    assert {
        ("quantgate/quantgate", version[1]),
        ("quantgate/quantgate-mlflow", project["mlflow"]),
        ("quantgate/quantgate-vllm", vllm),
    } < tags
    runtime = of_kind("dev", "ServingRuntime")["quantgate-vllm"]["spec"]["containers"][0]
    assert runtime["image"] == f"registry.example.com/quantgate/quantgate-vllm-cpu:{vllm}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kserve_and_plain_deployments_get_one_image_of_vllm(overlay: str) -> None:
    (container,) = of_kind(overlay, "ServingRuntime")["quantgate-vllm"]["spec"]["containers"]
    assert of_kind(overlay, "ConfigMap")["quantgate-serving"]["data"]["QUANTGATE_SERVING_IMAGE"] == container["image"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_servers_of_gguf_files_get_the_image_of_llama_cpp(overlay: str) -> None:
    """kustomize changes an image's name in a ConfigMap only where images/image-fields.yaml says so."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    serving = of_kind(overlay, "ConfigMap")["quantgate-serving"]["data"]
    assert serving["QUANTGATE_SERVING_LLAMA_IMAGE"] == f"registry.example.com/quantgate/quantgate-llama:{version}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_manifest_names_what_kubeflow_and_kserve_no_longer_take(overlay: str) -> None:
    for obj in built(overlay):
        for gone in ("minio-service", "PYTHONPATH"):
            assert gone not in str(obj), title(obj)


def test_kubeflows_object_store_is_called_seaweedfs() -> None:
    for overlay in ("dev", "kubeflow"):
        endpoint = of_kind(overlay, "ConfigMap")["quantgate-s3"]["data"]["AWS_ENDPOINT_URL"]
        assert endpoint == "http://seaweedfs.kubeflow.svc:9000"


def test_on_kubeflow_a_profiles_own_key_may_use_every_place() -> None:
    """The policy in manifests/kustomize/base/installs/multi-user/pipelines-profile-controller/sync.py of 2.17.0."""
    own, shared = "s3://mlpipeline/private/quantgate/", "s3://mlpipeline/shared/"
    values = {
        **of_kind("kubeflow", "ConfigMap")["quantgate-s3"]["data"],
        **variables("kubeflow", "Deployment/mlflow/mlflow"),
    }
    used = {value.removeprefix(own) for value in values.values() if value.startswith("s3://")}
    assert used == {"store", "results", "mlflow"}
    training = (MANIFESTS / "examples" / "training.py").read_text(encoding="utf-8")
    assert re.findall(r'"(s3://.*?)"', training) == [f"{shared}models"]


@pytest.mark.parametrize("overlay", BUILDS)
def test_every_container_is_restricted(overlay: str) -> None:
    for name, (container, pod) in containers(overlay).items():
        own, shared = container["securityContext"], pod.get("securityContext", {})
        assert own["allowPrivilegeEscalation"] is False, name
        assert own["readOnlyRootFilesystem"] is True, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert {**shared, **own}["runAsNonRoot"] is True, name
        assert {**shared, **own}["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert all("hostPath" not in volume for volume in pod.get("volumes", ())), name


@pytest.mark.parametrize("overlay", BUILDS)
def test_every_container_declares_its_resources_and_every_server_has_probes(overlay: str) -> None:
    for name, (container, _) in containers(overlay).items():
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys(), name
        assert "memory" in resources["limits"], name
        if "ports" in container:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_right_applies_to_all_resources_or_the_whole_cluster(overlay: str) -> None:
    assert not of_kind(overlay, "ClusterRole", "ClusterRoleBinding")
    for binding in of_kind(overlay, "RoleBinding").values():
        assert binding["roleRef"]["kind"] == "Role", title(binding)
    for role in of_kind(overlay, "Role").values():
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], title(role)
            if "secrets" in rule["resources"]:
                assert rule.get("resourceNames") or rule["verbs"] == ["create"], title(role)


def test_the_rights_page_lists_exactly_the_granted_rights() -> None:
    rights = RIGHTS.read_text(encoding="utf-8")
    documented = table_after("## Who may do what", rights)
    granted = {
        (account, group or "core", resource, names or "all", verbs)
        for overlay in OVERLAYS
        for account, group, resource, names, verbs in grants(overlay)
    }
    assert len(documented) == len(set(documented))
    assert set(documented) == granted


def test_the_rights_page_lists_every_account_and_which_have_a_token() -> None:
    documented = table_after("\nThe accounts:", RIGHTS.read_text(encoding="utf-8"))
    accounts = {name: account for overlay in OVERLAYS for name, account in of_kind(overlay, "ServiceAccount").items()}
    asks = {
        spec["serviceAccountName"]
        for overlay in OVERLAYS
        for _, spec in pods(overlay).values()
        if spec.get("automountServiceAccountToken")
    }
    has = {
        name: account.get("automountServiceAccountToken", True) or name in asks for name, account in accounts.items()
    }
    assert {account: token.startswith("yes") for account, _, token in documented} == has


def test_the_rights_page_lists_the_users_of_each_secret() -> None:
    documented = {
        secret: set(re.split(r", (?!what)", goes))
        for secret, goes in table_after("## Who is given which secret", RIGHTS.read_text("utf-8"))
    }
    every = {
        "every step": set(cluster.STEPS),
        "a variant's server and load test (what fetches the model's files)": {"quantgate-serving"},
    }
    named = {secret: set().union(*(every.get(user, {user}) for user in goes)) for secret, goes in documented.items()}
    used: dict[str, set[str]] = {cluster.MLFLOW_FILES: set()}
    for name, step in cluster.STEPS.items():
        for keys in step.secrets:
            used.setdefault(keys.name, set()).add(name)
        if cluster.MLFLOW in step.secrets:
            used[cluster.MLFLOW_FILES].add(name)
    by_reference = r"'secretName': '([\w-]+)'|'secret(?:Key)?Ref': {(?:'key': '\w+', )?'name': '([\w-]+)'"
    for title_, (_, spec) in pods(f"kubeflow{LISTENS}").items():
        for volume, variables_ in re.findall(by_reference, str(spec)):
            used.setdefault(volume or variables_, set()).add(title_.partition("/")[2])
    for account in of_kind("kubeflow", "ServiceAccount").values():
        for secret in account.get("secrets", ()):
            used[secret["name"]].add(account["metadata"]["name"])
    assert named == used


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_in_git(overlay: str) -> None:
    assert not of_kind(overlay, "Secret")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_refuses_privileged_pods_and_warns_about_unrestricted_ones(overlay: str) -> None:
    if overlay == "dev":  # the namespace is Kubeflow Pipelines', whose installation has the same labels
        assert not of_kind(overlay, "Namespace")
        return
    labels = of_kind(overlay, "Namespace")["quantgate"]["metadata"]["labels"]
    levels = {mode: labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")}
    assert levels == {"enforce": "baseline", "audit": "restricted", "warn": "restricted"}


def test_on_openshift_there_is_no_fixed_user_and_only_a_route_leads_in() -> None:
    text = str(built(f"openshift-ai{LISTENS}"))
    for field in ("runAsUser", "runAsGroup", "fsGroup", "'Ingress', 'metadata'", "NodePort", "LoadBalancer'"):
        assert field not in text
    (route,) = of_kind("openshift-ai", "Route").values()
    assert route["spec"]["host"] in variables("openshift-ai", "Deployment/mlflow/mlflow")["MLFLOW_SERVER_ALLOWED_HOSTS"]


def test_nothing_requests_gpus_on_a_cluster_without_gpus() -> None:
    assert "nvidia.com/gpu" not in str(containers("dev"))
    assert of_kind("dev", "ResourceQuota")["quantgate"]["spec"]["hard"]["requests.nvidia.com/gpu"] == "0"


def test_the_reaper_runs_alone_and_ends() -> None:
    spec = of_kind("kubeflow", "CronJob")["quantgate-reaper"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert 0 < spec["startingDeadlineSeconds"] < 300, "a start that was missed is the next one's"
    assert 0 < spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 300
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    python, option, module, *_ = container["command"]
    assert (python, option) == ("python", "-m")
    assert importlib.util.find_spec(module)
