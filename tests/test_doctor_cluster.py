"""`quantgate doctor --cluster` finds each fault planted in the stand-ins, says the remedy, and writes nothing."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from quantgate.pipelines.cluster import Cluster as PipelineCluster
from quantgate.pipelines.doctor.installed import TRIED
from tests.support.command import Done, quantgate
from tests.support.doctor_cluster import GPU_NODE, Facts, deployment, registry, serve_cluster, service
from tests.support.kfp_server import State, kubeflow_pipelines
from tests.support.kubernetes_server import USER
from tests.support.kubernetes_state import JSON, Cluster
from tests.support.kustomized import ROOT, grants, table_after
from tests.support.mlflow_server import Proxy
from tests.support.on_cluster import RUNTIME
from tests.support.on_kubeflow import compiled

pytestmark = pytest.mark.slow  # each test asks servers that stand in for a cluster

RUNTIMES = "apis/serving.kserve.io/v1alpha1/servingruntimes"
PYTHONPATH = "setting PYTHONPATH in container is not allowed for security reasons"


def config_map(name: str, **data: str) -> JSON:
    """A ConfigMap of the run's namespace."""
    return {"metadata": {"name": name}, "data": data}


@dataclass
class Clinic:
    """A healthy cluster with Kubeflow Pipelines and a registry; a test plants its fault before `examined`."""

    cluster: Cluster
    facts: Facts
    kubeflow: State
    registry: str
    pipeline: Path
    config_maps: dict[str, JSON] = field(default_factory=dict)
    runtime: JSON = field(default_factory=dict)

    def examined(self, *more: str, **environment: str) -> Done:
        """What the command leaves."""
        for body in self.config_maps.values():
            self.cluster.create("api/v1/configmaps", body)
        if self.runtime:
            self.cluster.create(RUNTIMES, self.runtime)
        place = ("--host", self.kubeflow.host, "--namespace", "quantgate", "--pipeline", str(self.pipeline))
        done = quantgate("doctor", "--cluster", *place, *more, **environment)
        assert self.facts.writes == []
        return done

    def line(self, subject: str, *more: str, **environment: str) -> str:
        """The line about the planted fault; it stops a run, and is the only one that does."""
        done = self.examined(*more, **environment)
        faults = [line for line in done.stdout.splitlines() if line.startswith("✘")]
        assert len(faults) == 1, done.stdout + done.stderr
        assert (done.returncode, faults[0].split()[1]) == (1, subject)
        assert done.stdout.endswith("1 would stop a run.\n")
        return faults[0]


@pytest.fixture(scope="module")
def image_registry() -> Iterator[str]:
    """A registry for all tests: the pipelines name it."""
    with registry() as address:
        yield address


@pytest.fixture(scope="module")
def pipelines(image_registry: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compiled pipelines: the usual one, one with images that are missing or private, one without KServe and GPU."""
    folder, here = tmp_path_factory.mktemp("compiled"), f"{image_registry}/quantgate"
    settings = {
        "usual": PipelineCluster(f"{here}/quantgate:1", f"{here}/quantize:1", pull_secret="regcred"),
        "missing": PipelineCluster(f"{image_registry}/missing/quantgate:1", f"{image_registry}/private/quantize:1"),
        "plain": PipelineCluster(f"{here}/quantgate:1", f"{here}/quantize:1", gpus=0, serving="deployment"),
    }
    return {name: compiled(folder / f"{name}.yaml", cluster) for name, cluster in settings.items()}


@pytest.fixture
def clinic(
    pipelines: dict[str, Path], image_registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Clinic]:
    for name in (
        "KUBERNETES_SERVICE_HOST",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_TOKEN",
        "KF_PIPELINES_ENDPOINT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))
    cluster, facts = Cluster(), Facts()
    runtime = json.loads(json.dumps(RUNTIME))
    runtime["spec"]["containers"][0]["image"] = f"{image_registry}/quantgate/vllm:1"
    config_maps = {
        "kfp-launcher": config_map("kfp-launcher", defaultPipelineRoot="minio://mlpipeline/v2/artifacts"),
        "quantgate-s3": config_map("quantgate-s3", AWS_ENDPOINT_URL="http://seaweedfs.kubeflow.svc:9000"),
        "quantgate-serving": config_map("quantgate-serving", QUANTGATE_SERVING_GPUS="1"),
    }
    with kubeflow_pipelines() as kubeflow, serve_cluster(cluster, facts, tmp_path / "kubeconfig"):
        kubeflow.namespaces = ("quantgate",)
        yield Clinic(cluster, facts, kubeflow, image_registry, pipelines["usual"], config_maps, runtime)


def test_a_healthy_cluster_has_no_fault_and_every_check_says_what_it_saw(clinic: Clinic) -> None:
    done = clinic.examined()
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "✔ Kubernetes   1.35.4 at http://127.0.0.1:",
        "✔ Pipelines    2.17.0 at http://127.0.0.1:",
        "✔ Argo         4.0.8",
        "! KServe       installed, version unknown (tried: main, autumn 2026)",
        "✔ artifacts    seaweedfs.kubeflow:9000 (kfp's default: kfp-launcher has no providers): the Service exists",
        "✔ store        http://seaweedfs.kubeflow.svc:9000 (AWS_ENDPOINT_URL of the ConfigMap quantgate-s3)",
        f"✔ account      quantgate-pipeline in quantgate has the {len(clinic.facts.reviewed)} rights that a run needs",
        "✔ pods         the steps' pods find secret quantgate-s3, secret quantgate-servers, persistentvolumeclaim ",
        "✔ admission    the cluster and its webhooks accept: ",
        f"✔ image        {clinic.registry}/quantgate/vllm:1: its registry gives it to everybody",
        "✔ GPU          a server: 1 nvidia.com/gpu: 1 of 1 nodes",
        "✔ quota        none",
        "! MLflow       not checked: no address → Give --tracking-uri",
        "Nothing here would stop a run.",
    ):
        assert line in done.stdout, line


@pytest.mark.parametrize(
    ("group", "subject", "text"),
    [
        ("/apis/argoproj.io", "Argo", "no Argo Workflows"),
        ("/apis/serving.kserve.io", "KServe", "or serve without it: quantgate compile --serving deployment"),
    ],
)
def test_a_missing_controller_is_found(clinic: Clinic, group: str, subject: str, text: str) -> None:
    del clinic.facts.answers[group]
    assert text in clinic.line(subject)


def test_other_versions_are_shown_beside_those_that_were_tried(clinic: Clinic) -> None:
    clinic.facts.answers["/version"] = {"gitVersion": "v1.31.0"}
    clinic.facts.controllers["kserve-controller-manager"] = deployment("docker.io/kserve/kserve-controller:v0.16.0")
    clinic.kubeflow.version = "2.5.0"
    shown = clinic.examined().stdout
    assert "1.31.0 at" in shown
    assert "(tried: 1.35.4)" in shown
    assert f"✔ Pipelines    2.5.0 at {clinic.kubeflow.host} (tried: 2.17.0)" in shown
    assert "✔ KServe       0.16.0 (tried: main, autumn 2026)" in shown


def test_a_kubeflow_that_is_too_old_or_does_not_answer_is_found(clinic: Clinic) -> None:
    clinic.kubeflow.version = "1.8.22"
    assert "1.8.22 at" in clinic.line("Pipelines")
    clinic.config_maps, clinic.runtime = {}, {}
    clinic.kubeflow.login_page = True
    assert "perhaps with a login page" in clinic.line("Pipelines")


def test_an_object_store_whose_name_is_gone_is_found_with_the_one_that_exists(clinic: Clinic) -> None:
    clinic.config_maps["quantgate-s3"]["data"]["AWS_ENDPOINT_URL"] = "http://minio-service.kubeflow.svc:9000"
    fault = clinic.line("store")
    assert "no Service minio-service in the namespace kubeflow; with that port there is seaweedfs →" in fault
    assert "the overlay's settings.yaml" in fault


def test_an_object_store_with_another_port_is_found(clinic: Clinic) -> None:
    clinic.config_maps["quantgate-s3"]["data"]["AWS_ENDPOINT_URL"] = "http://seaweedfs.kubeflow:8333"
    assert "the Service has the port 9000, not 8333" in clinic.line("store")


def test_the_launchers_providers_name_the_store_and_its_secret(clinic: Clinic) -> None:
    secret = {"fromEnv": False, "secretRef": {"secretName": "ds-pipeline-s3-dspa"}}
    default = {"endpoint": "minio-dspa.quantgate.svc:9000", "credentials": secret}
    clinic.config_maps["kfp-launcher"]["data"] = {
        "defaultPipelineRoot": "s3://bucket/runs",
        "providers": json.dumps({"s3": {"default": default}}),
    }
    assert "no Service minio-dspa in the namespace quantgate" in clinic.line("artifacts")
    clinic.config_maps, clinic.runtime = {}, {}
    clinic.facts.answers["/api/v1/namespaces/quantgate/services/minio-dspa"] = service(9000)
    clinic.facts.lacking = ("get secrets",)
    assert "may not: get secrets ds-pipeline-s3-dspa" in clinic.line("account")


def test_kubeflow_in_another_namespace_without_providers_is_found(clinic: Clinic) -> None:
    for path in [path for path in clinic.facts.answers if "/kubeflow/" in path]:
        del clinic.facts.answers[path]
    clinic.config_maps["quantgate-s3"]["data"].clear()  # AWS
    fault = clinic.line("artifacts")
    assert "seaweedfs.kubeflow:9000 (kfp's default: kfp-launcher has no providers): no Service seaweedfs" in fault
    assert "`providers`" in fault


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("secrets/quantgate-s3", "there is no secret quantgate-s3 in quantgate → Create it from manifests/secrets"),
        ("secrets/quantgate-servers", "there is no secret quantgate-servers in quantgate → Create it from"),
        ("persistentvolumeclaims/quantgate-cache", "there is no persistentvolumeclaim quantgate-cache in quantgate"),
    ],
)
def test_a_secret_or_a_volume_that_the_pods_need_and_that_is_missing_is_found(
    clinic: Clinic, path: str, text: str
) -> None:
    del clinic.facts.answers[f"/api/v1/namespaces/quantgate/{path}"]
    assert text in clinic.line("pods")


def test_a_webhook_that_forbids_what_a_server_needs_is_found(clinic: Clinic) -> None:
    def webhook(body: JSON) -> str:
        model: dict[str, Any] = body.get("spec", {}).get("predictor", {}).get("model", {})
        return PYTHONPATH if "DENIED" in [entry["name"] for entry in model.get("env", ())] else ""

    clinic.facts.denies = webhook
    clinic.config_maps["quantgate-serving"]["data"]["QUANTGATE_SERVING_ENV"] = "DENIED=/x"
    fault = clinic.line("admission")
    assert "inferenceservices.serving.kserve.io like ours is refused: admission webhook" in fault
    assert PYTHONPATH in fault
    assert "ConfigMap quantgate-serving" in fault


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("ENV", "PYTHONPATH=/opt", "QUANTGATE_SERVING_ENV sets PYTHONPATH, which KServe's webhook refuses."),
        ("GPUS", "one", "QUANTGATE_SERVING_GPUS is 'one': give a whole number"),
    ],
)
def test_a_setting_that_no_server_can_have_is_found_and_the_other_checks_go_on(
    clinic: Clinic, setting: str, value: str, text: str
) -> None:
    clinic.config_maps["quantgate-serving"]["data"][f"QUANTGATE_SERVING_{setting}"] = value
    fault = clinic.line("serving")
    assert text in fault
    assert fault.endswith(" → Correct the ConfigMap quantgate-serving and apply it.")


def test_a_webhook_that_does_not_answer_is_found(clinic: Clinic) -> None:
    clinic.facts.denies = lambda body: "failed calling webhook" if body["kind"] == "InferenceService" else ""
    assert "See why that webhook's pods do not answer" in clinic.line("admission")


def test_a_missing_serving_runtime_is_found(clinic: Clinic) -> None:
    clinic.runtime = {}
    assert "There is no ServingRuntime quantgate-vllm in the namespace quantgate." in clinic.line("serving")


def test_the_rights_that_the_account_lacks_are_named(clinic: Clinic) -> None:
    clinic.facts.lacking = ("create leases", "create secrets", "get pods/log")
    fault = clinic.line("account")
    assert "may not: create leases.coordination.k8s.io, create secrets, get pods/log →" in fault
    assert "Apply manifests/" in fault


def test_a_missing_account_is_found(clinic: Clinic) -> None:
    del clinic.facts.answers["/api/v1/namespaces/quantgate/serviceaccounts/quantgate-pipeline"]
    assert "there is no service account quantgate-pipeline in quantgate" in clinic.line("account")


def test_in_a_pod_of_the_runs_account_the_account_asks_about_itself(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it may read neither nodes nor quotas, Services of other namespaces nor reviews of other accounts."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "in-a-pod")
    clinic.facts.user = USER
    clinic.facts.lacking = ("create jobs",)
    clinic.facts.unreadable = (
        *("/api/v1/nodes", "/api/v1/namespaces/quantgate/resourcequotas", "/api/v1/namespaces/kubeflow/"),
        *("/apis/apps/v1/deployments", "/apis/authorization.k8s.io/v1/namespaces"),
        *(f"/api/v1/namespaces/quantgate/{kind}" for kind in ("serviceaccounts", "secrets", "persistentvolumeclaims")),
    )
    clinic.config_maps["quantgate-s3"]["data"]["AWS_ENDPOINT_URL"] = "http://localhost:9000"
    done = clinic.examined()
    assert "may not: create jobs.batch" in done.stdout
    assert (
        "✘ artifacts    seaweedfs.kubeflow:9000 (kfp's default: kfp-launcher has no providers): the name does not"
        in (done.stdout)
    )
    assert "! GPU          not checked: you may not list nodes" in done.stdout
    assert "! quota        not checked" in done.stdout
    assert "! Argo         installed, version unknown (tried: 4.0.8)" in done.stdout
    assert done.returncode == 1


def test_who_may_not_ask_about_the_account_is_told_so(clinic: Clinic) -> None:
    clinic.facts.unreadable = ("/apis/authorization.k8s.io/v1/namespaces",)
    done = clinic.examined()
    assert "! account      not checked: you may not ask what quantgate-pipeline in quantgate may do" in done.stdout
    assert done.returncode == 0


def test_an_image_that_is_missing_is_found_and_a_private_one_is_not_judged(
    clinic: Clinic, pipelines: dict[str, Path]
) -> None:
    clinic.pipeline = pipelines["missing"]
    assert f"{clinic.registry}/missing/quantgate:1: its registry does not have it" in clinic.line("image")
    clinic.config_maps, clinic.runtime = {}, {}
    private = f"{clinic.registry}/private/quantize:1"
    assert f"! image        {private}: not checked, its registry wants a login" in clinic.examined().stdout


def test_an_image_on_a_node_needs_no_registry(clinic: Clinic, pipelines: dict[str, Path]) -> None:
    clinic.pipeline = pipelines["missing"]
    names = [f"{clinic.registry}/missing/quantgate:1"]
    clinic.facts.answers["/api/v1/nodes"]["items"] = [
        {**GPU_NODE, "status": {**GPU_NODE["status"], "images": [{"names": names}]}}
    ]
    done = clinic.examined()
    assert f"✔ image        {names[0]}: on a node already" in done.stdout
    assert done.returncode == 0


def test_a_missing_pull_secret_is_found(clinic: Clinic) -> None:
    del clinic.facts.answers["/api/v1/namespaces/quantgate/secrets/regcred"]
    assert "there is no pull Secret regcred in quantgate" in clinic.line("image")


def test_a_gpu_of_another_name_is_found(clinic: Clinic) -> None:
    clinic.config_maps["quantgate-serving"]["data"]["QUANTGATE_SERVING_GPU_RESOURCE"] = "amd.com/gpu"
    fault = clinic.line("GPU")
    assert "a server: no node offers 1 amd.com/gpu; offered: nvidia.com/gpu →" in fault


def test_a_gpu_on_a_node_without_the_label_is_found(clinic: Clinic) -> None:
    clinic.config_maps["quantgate-serving"]["data"]["QUANTGATE_SERVING_NODE_SELECTOR"] = "gpu=a100"
    assert "no node offers 1 nvidia.com/gpu on a node with gpu=a100" in clinic.line("GPU")


def test_without_gpus_and_kserve_neither_is_needed(clinic: Clinic, pipelines: dict[str, Path]) -> None:
    clinic.pipeline, clinic.runtime = pipelines["plain"], {}
    del clinic.facts.answers["/apis/serving.kserve.io"]
    clinic.facts.answers["/api/v1/nodes"] = {"items": []}
    clinic.facts.lacking = ("create inferenceservices", "get servingruntimes")
    image = f"{clinic.registry}/quantgate/vllm:1"
    weights_image = f"{clinic.registry}/quantgate/fetches-weights:1"
    data = {"QUANTGATE_SERVING_GPUS": "0", "QUANTGATE_SERVING_IMAGE": image}
    data["QUANTGATE_SERVING_WEIGHTS_IMAGE"] = weights_image
    clinic.config_maps["quantgate-serving"]["data"] = data
    done = clinic.examined()
    assert done.returncode == 0, done.stdout
    assert "✔ GPU          none is requested" in done.stdout
    assert "accept: " in done.stdout
    assert "deployments.apps" in done.stdout
    assert f"✔ image        {weights_image}: its registry gives it" in done.stdout
    assert "KServe" not in done.stdout


def test_the_images_of_a_gguf_files_server_are_found_where_one_is_set(clinic: Clinic) -> None:
    data = clinic.config_maps["quantgate-serving"]["data"]
    data["QUANTGATE_SERVING_LLAMA_IMAGE"] = f"{clinic.registry}/missing/llama:1"
    data["QUANTGATE_SERVING_WEIGHTS_IMAGE"] = f"{clinic.registry}/quantgate/fetches-weights:1"
    printed = clinic.examined().stdout
    assert f"✔ image        {clinic.registry}/quantgate/fetches-weights:1: its registry gives it" in printed
    assert f"✘ image        {clinic.registry}/missing/llama:1: its registry does not have it" in printed


def test_the_versions_that_were_tried_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    table = "\n".join(map(" | ".join, table_after("## What was tried", page)))
    for name, version in TRIED.items():
        assert re.search(rf"{name}.* \| {re.escape(version)}", table), name


def test_a_quota_that_is_too_small_is_found_and_a_used_one_only_delays(clinic: Clinic) -> None:
    quota: JSON = {"metadata": {"name": "quantgate"}, "spec": {"hard": {"limits.memory": "32Gi", "pods": "9"}}}
    clinic.facts.answers["/api/v1/namespaces/quantgate/resourcequotas"] = {"items": [quota]}
    fault = clinic.line("quota")
    assert "quantgate: limits.memory is 32Gi, and exec-quantize needs 64Gi →" in fault
    clinic.config_maps, clinic.runtime = {}, {}
    quota["spec"]["hard"]["limits.memory"] = "100Gi"
    quota["status"] = {"used": {"limits.memory": "90Gi"}}
    shown = clinic.examined().stdout
    assert "! quota        quantgate: limits.memory is 100Gi, and exec-quantize needs 64Gi; 90Gi is in use" in shown


def test_an_mlflow_service_that_does_not_exist_is_found(clinic: Clinic) -> None:
    fault = clinic.line("MLflow", "--tracking-uri", "http://mlflow.team-a:5000")
    assert "no Service mlflow in the namespace team-a → Apply manifests/" in fault


def test_an_mlflow_inside_the_cluster_is_not_asked_from_outside_without_a_forward(clinic: Clinic) -> None:
    clinic.config_maps["quantgate-mlflow"] = config_map(
        "quantgate-mlflow", QUANTGATE_TRACKING_URI="http://mlflow.quantgate:5000"
    )
    done = clinic.examined()
    assert "! MLflow       http://mlflow.quantgate:5000: not checked" in done.stdout
    assert done.returncode == 0


@pytest.mark.slow
def test_mlflows_answer_and_its_account_are_checked(clinic: Clinic, mlflow_server: str) -> None:
    """MLflow takes seconds to start."""
    accounts = {"MLFLOW_TRACKING_USERNAME": "quantgate", "MLFLOW_TRACKING_PASSWORD": "correct-horse"}
    done = clinic.examined("--tracking-uri", mlflow_server)
    assert f"✔ MLflow       {mlflow_server} answers without a login" in done.stdout
    clinic.config_maps, clinic.runtime = {}, {}
    with Proxy(mlflow_server, before=lambda _number, _headers: 401) as closed:
        assert "wants a login; the account is not checked" in clinic.examined("--tracking-uri", closed.address).stdout
        fault = clinic.line("MLflow", "--tracking-uri", closed.address, **accounts)
    assert "refuses quantgate → Use the password of the Secret quantgate-mlflow" in fault


@pytest.mark.slow
def test_an_mlflow_that_does_not_answer_is_found(clinic: Clinic) -> None:
    """MLflow's client takes seconds to import, and to give up."""
    assert "MLflow cannot be reached at http://127.0.0.1:9" in clinic.line(
        "MLflow", "--tracking-uri", "http://127.0.0.1:9"
    )


def test_one_of_endpoint_and_cluster_must_be_given() -> None:
    for arguments in ((), ("--cluster", "--endpoint", "http://127.0.0.1:9/v1")):
        done = quantgate("doctor", *arguments)
        assert (done.returncode, "Give --endpoint URL" in done.stderr) == (2, True)


def test_a_missing_pipeline_and_a_cluster_that_does_not_answer_are_one_message(
    clinic: Clinic, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    clinic.pipeline = tmp_path / "none.yaml"
    done = clinic.examined()
    assert (done.returncode, done.stdout) == (2, "")
    assert "write it with quantgate compile" in done.stderr
    config = json.loads(Path(os.environ["KUBECONFIG"]).read_text(encoding="utf-8"))
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    Path(os.environ["KUBECONFIG"]).write_text(json.dumps(config), encoding="utf-8")
    clinic.pipeline, clinic.config_maps, clinic.runtime = pipelines["usual"], {}, {}
    done = clinic.examined()
    assert (done.returncode, done.stdout) == (2, "")
    assert "The Kubernetes API at http://127.0.0.1:9 does not answer" in done.stderr


@pytest.mark.parametrize("serving", ["usual", "plain"])
def test_exactly_the_rights_that_the_roles_grant_are_reviewed(
    clinic: Clinic, pipelines: dict[str, Path], serving: str
) -> None:
    """Those of the other way of serving excepted."""
    clinic.pipeline = pipelines[serving]
    clinic.examined()
    kinds = {"usual": "deployments", "plain": "inferenceservices servingruntimes"}
    granted = {
        (group, resource, name, verb)
        for account, group, resource, name, verbs in grants("kubeflow")
        if account == "quantgate-pipeline" and resource not in kinds[serving].split()
        for verb in verbs.split(", ")
    }
    assert set(clinic.facts.reviewed) == granted
    assert len(clinic.facts.reviewed) == len(granted)
