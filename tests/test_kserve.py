"""Serving on a cluster, with a stand-in for the API: what is created, when it is ready, what is reused and left."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import kserve
from quantgate.components.servers.cluster_settings import DEPLOYMENT, KSERVE, ServingSettings, Toleration
from tests.support.kubernetes_state import JSON, Cluster, Request, StatusError
from tests.support.on_cluster import (
    PLURALS,
    RESULTS,
    WEIGHTS,
    WORKFLOW,
    Answering,
    cluster,
    deployed,
    left,
    mark_ready,
    model,
    ready_at_once,
    settings,
    the_one,
    vllm,
)

__all__ = ["cluster", "deployed", "model", "settings", "vllm"]

Deploy = Callable[..., Server]
DEPLOYMENTS, LEASES, SERVICES = "apis/apps/v1/deployments", "apis/coordination.k8s.io/v1/leases", "api/v1/services"


def test_a_variant_is_served_through_kserve_until_it_is_undeployed(
    cluster: Cluster, settings: ServingSettings, deployed: Deploy
) -> None:
    ready_at_once(cluster)
    server = deployed(options=("--enforce-eager",))
    assert server.failure == ""
    lease, inference_service = the_one(cluster, "leases"), the_one(cluster, "inferenceservices")
    name = inference_service["metadata"]["name"]
    assert server.url.endswith(f"/{name}-predictor.quantgate/8080/v1")
    assert (server.served_name, server.max_model_len, server.engine) == ("quantgate-int8", 1024, "vllm 0.32.0")
    assert inference_service["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    predictor = inference_service["spec"]["predictor"]
    model = predictor["model"]
    assert (model["storageUri"], model["runtime"]) == (WEIGHTS.uri, "quantgate-vllm")
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert predictor["nodeSelector"] == {"gpu": "H100"}
    assert predictor["serviceAccountName"] == "quantgate-serving"
    assert " ".join(model["args"]).startswith(
        "--served-model-name quantgate-int8 --max-model-len 1024 --generation-config vllm "
        "--tensor-parallel-size 2 --enforce-eager"
    )
    assert lease["metadata"]["ownerReferences"][0]["name"] == WORKFLOW
    assert lease["spec"]["leaseDurationSeconds"] == settings.lease_s
    assert inference_service["metadata"]["ownerReferences"][0]["uid"] == lease["metadata"]["uid"]
    labels = {"quantgate.dev/run": WORKFLOW, "quantgate.dev/variant": "int8"}
    assert inference_service["metadata"]["labels"].items() >= labels.items()
    kserve.undeploy("int8", RESULTS, settings)
    assert left(cluster) == []


def test_a_cluster_without_kserve_gets_a_deployment_and_a_service(
    cluster: Cluster, settings: ServingSettings, deployed: Deploy
) -> None:
    ready_at_once(cluster)
    cluster.absent |= {"inferenceservices", "servingruntimes"}
    server = deployed(kind=DEPLOYMENT)
    assert server.failure == ""
    deployment, service = the_one(cluster, "deployments"), the_one(cluster, "services")
    assert server.url.endswith(f"/{service['metadata']['name']}.quantgate/8080/v1")
    pod = deployment["spec"]["template"]
    assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["initContainers"][0]["command"][-3:] == [WEIGHTS.uri, "/mnt/models/model", WEIGHTS.digest]
    assert pod["spec"]["containers"][0]["args"][:2] == ["--model", "/mnt/models/model"]
    mounted = {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounted <= {mount["name"] for mount in pod["spec"]["volumes"]}
    kserve.undeploy("int8", RESULTS, replace(settings, kind=DEPLOYMENT))
    assert left(cluster) == []


@pytest.mark.parametrize("plural", ["inferenceservices", "servingruntimes"])
def test_kserves_webhook_denies_pythonpath(cluster: Cluster, plural: str) -> None:
    container = {"env": [{"name": "PYTHONPATH", "value": "/opt"}]}
    spec = {"predictor": {"model": container}} if plural == "inferenceservices" else {"containers": [container]}
    with pytest.raises(StatusError, match=r"denied the request: setting PYTHONPATH in container is not allowed"):
        cluster.create(f"apis/serving.kserve.io/v1beta1/{plural}", {"metadata": {"name": "x"}, "spec": spec})


def container_of(cluster: Cluster, kind: str) -> JSON:
    """The part of vLLM's container that the run sets."""
    spec = the_one(cluster, PLURALS[kind])["spec"]
    container: JSON = spec["predictor"]["model"] if kind == KSERVE else spec["template"]["spec"]["containers"][0]
    return container


def test_both_ways_of_serving_give_vllm_the_same_options_and_environment(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    containers = {}
    for kind in (KSERVE, DEPLOYMENT):
        server = deployed(kind=kind, gpus=0, image="vllm/vllm-openai-cpu@sha256:abc")
        assert server.failure == ""
        containers[kind] = container_of(cluster, kind)
        assert server.identity
        for options in (containers[kind]["args"], server.identity.options):
            assert "--generation-config vllm" in " ".join(options), "the model's own sampling is not applied"
    by_kserve, by_deployment = containers[KSERVE], containers[DEPLOYMENT]
    assert by_kserve["image"] == by_deployment["image"]
    assert by_kserve["env"][:-1] == by_deployment["env"][:-1]
    assert by_kserve["env"][-1] != by_deployment["env"][-1], "each start has a key of its own"
    assert by_deployment["args"][-len(by_kserve["args"]) :] == by_kserve["args"]


@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
@pytest.mark.parametrize(("gpus", "on_cpu"), [(0, True), (1, False)])
def test_only_a_server_without_gpus_gets_vllms_settings_for_a_cpu(
    cluster: Cluster, deployed: Deploy, kind: str, gpus: int, on_cpu: bool
) -> None:
    ready_at_once(cluster)
    identity = deployed(kind=kind, gpus=gpus, env=(("VLLM_LOGGING_LEVEL", "DEBUG"),)).identity
    assert identity is not None
    container = container_of(cluster, kind)
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert ("--enforce-eager" in container["args"]) is on_cpu
    assert ("--enforce-eager" in identity.options) is on_cpu
    assert variables.get("VLLM_CPU_KVCACHE_SPACE") == (
        "16" if on_cpu else None
    )  # 16 windows of 1,024 tokens, 1 MiB each
    assert "PYTHONPATH" not in variables
    assert variables["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_without_a_configured_image_a_deployment_uses_vllms_own(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    for gpus, image in ((1, "docker.io/vllm/vllm-openai:v0.32.0"), (0, "docker.io/vllm/vllm-openai-cpu:v0.32.0")):
        deployed(kind=DEPLOYMENT, gpus=gpus)
        assert container_of(cluster, DEPLOYMENT)["image"] == image


@pytest.mark.parametrize(
    ("dtype", "gpus", "options", "identified"),
    [
        pytest.param("float32", 0, (), True, id="the server chose float32"),
        pytest.param("bfloat16", 0, (), False, id="the node multiplies bfloat16"),
        pytest.param("", 0, (), False, id="vLLM's own image says nothing"),
        pytest.param("float32", 0, ("--dtype", "float32"), True, id="float32 was asked for"),
        pytest.param("float32", 1, (), False, id="a GPU's server computes in the model's own type"),
    ],
)
def test_the_data_type_that_the_server_chose_is_in_its_identity(
    deployed: Deploy,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    gpus: int,
    options: tuple[str, ...],
    identified: bool,
) -> None:
    monkeypatch.setattr(Answering, "dtype", dtype)
    ready_at_once(cluster)
    server = deployed(kind=DEPLOYMENT, gpus=gpus, options=options)
    assert server.identity is not None
    assert server.identity.options.count("--dtype") == identified
    assert server.engine == ("vllm 0.32.0 in float32" if identified else "vllm 0.32.0")


def test_the_identity_contains_everything_that_can_change_an_answer(
    cluster: Cluster, settings: ServingSettings, deployed: Deploy, model: Path
) -> None:
    ready_at_once(cluster)
    identity = deployed().identity
    assert identity == kserve.identity_here(WEIGHTS, settings, 1024)
    assert identity.weights == WEIGHTS.digest
    assert identity.image == "vllm/vllm-openai@sha256:abc"
    assert ("VLLM_ATTENTION_BACKEND", "FLASH_ATTN") in identity.environment
    changes = (
        {"gpus": 1},
        {"gpu_resource": "amd.com/gpu"},
        {"tensor_parallel": 1},
        {"image": "vllm/vllm-openai@sha256:def"},
        {"node_selector": ()},
        {"options": ("--dtype", "float32")},
        {"env": (("VLLM_ATTENTION_BACKEND", "TRITON_ATTN"),)},
        {"kind": DEPLOYMENT},
    )
    identities = {kserve.identity_here(WEIGHTS, replace(settings, **change), 1024) for change in changes}
    assert len(identities | {identity}) == len(changes) + 1


@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
def test_keys_and_values_in_fp8_are_an_option_of_the_pod_and_of_its_identity(
    cluster: Cluster, settings: ServingSettings, model: Path, kind: str
) -> None:
    ready_at_once(cluster)
    settings = replace(settings, kind=kind)
    cached = WEIGHTS.model_copy(update={"kv_cache_dtype": "fp8"})
    server = kserve.deploy(cached, model, RESULTS, settings, 1024)
    assert server.failure == ""
    arguments = container_of(cluster, kind)["args"]
    assert arguments[arguments.index("--kv-cache-dtype") + 1] == "fp8"
    assert server.identity == kserve.identity_here(cached, settings, 1024)
    assert server.identity
    assert server.identity.describe() != kserve.identity_here(WEIGHTS, settings, 1024).describe()


@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
def test_a_server_becomes_ready_in_several_steps(cluster: Cluster, deployed: Deploy, kind: str) -> None:
    plural = PLURALS[kind]
    steps: list[threading.Thread] = []

    def controller(number: int, request: Request) -> None:
        if request.verb == "watch" and not steps:
            steps.append(threading.Thread(target=go_on))
            steps[0].start()

    def go_on() -> None:
        name = the_one(cluster, plural)["metadata"]["name"]
        unsure = [{"type": "Ready", "status": "Unknown"}, {"type": "Available", "status": "False"}]
        for status in (
            {"observedGeneration": 1, "conditions": []},
            {"observedGeneration": 1, "conditions": unsure},
        ):
            cluster.change(plural, name, lambda obj, status=status: obj.update(status=status))  # type: ignore[misc]
        mark_ready(cluster, plural, name)

    cluster.faults = controller
    assert deployed(kind=kind).failure == ""
    steps[0].join()
    assert cluster.counted()[f"watch {plural}"] == 1


def test_the_status_of_an_earlier_version_of_a_deployment_is_ignored(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    before = cluster.on

    def on(what: str, plural: str, obj: JSON) -> None:
        before(what, plural, obj)
        if what == "created" and plural == "deployments":
            cluster.change(plural, obj["metadata"]["name"], lambda obj: obj["spec"].update(changed=True))

    cluster.on = on
    assert "It was not ready after 0.4 s" in deployed(kind=DEPLOYMENT, ready_within_s=0.4).failure


def test_the_generation_in_kserves_status_is_its_deployments_and_is_ignored(cluster: Cluster, deployed: Deploy) -> None:
    def on(what: str, plural: str, obj: JSON) -> None:
        if what == "created" and plural == "inferenceservices":
            name, condition = obj["metadata"]["name"], {"type": "Ready", "status": "True"}
            cluster.change(plural, name, lambda obj: obj["spec"].update(defaulted=True))  # generation 2
            status = {"observedGeneration": 1, "conditions": [condition]}
            cluster.change(plural, name, lambda obj: obj.update(status=status))

    cluster.on = on
    assert deployed(ready_within_s=5).failure == ""


def test_a_watch_that_is_too_old_restarts_from_a_new_list(cluster: Cluster, deployed: Deploy) -> None:
    def controller(number: int, request: Request) -> None:
        watches = cluster.counted()["watch inferenceservices"]
        if request.verb == "watch" and watches == 1:
            cluster.forget_versions()
        if request.verb == "watch" and watches == 2:
            mark_ready(
                cluster, "inferenceservices", request.name or the_one(cluster, "inferenceservices")["metadata"]["name"]
            )

    cluster.faults = controller
    assert deployed().failure == ""
    assert cluster.counted()["list inferenceservices"] == 2


def test_a_headless_service_is_reached_at_the_containers_port(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    name = deployed().url.split("/")[3].split(".")[0]
    ports = [{"port": 80, "targetPort": 8081}]
    cluster.create(SERVICES, {"metadata": {"name": name}, "spec": {"clusterIP": "10.0.0.7", "ports": ports}})
    assert deployed().url.endswith("/80/v1")
    cluster.change("services", name, lambda obj: obj["spec"].update(clusterIP="None"))
    assert deployed().url.endswith("/8081/v1")


def test_a_ready_server_that_this_pod_cannot_reach_is_reported_and_deleted(
    cluster: Cluster, deployed: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kserve, "REACHED_WITHIN_S", 0.0)
    ready_at_once(cluster)
    failure = deployed(address="http://127.0.0.1:1/{service}").failure
    assert "Check that the network policies let this pod reach the server" in failure
    assert left(cluster) == []


def test_weights_that_a_cluster_cannot_read_are_refused(
    cluster: Cluster, settings: ServingSettings, model: Path
) -> None:
    with pytest.raises(PrerequisiteError, match="A cluster cannot read weights at /here"):
        kserve.deploy(WEIGHTS.model_copy(update={"uri": "/here"}), model, RESULTS, settings, 1024)


@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
def test_a_repeated_start_takes_over_the_first_ones_objects(cluster: Cluster, deployed: Deploy, kind: str) -> None:
    ready_at_once(cluster)
    first = deployed(kind=kind)
    before = the_one(cluster, PLURALS[kind])["metadata"]["uid"]
    renewed = the_one(cluster, "leases")["spec"]["renewTime"]
    assert deployed(kind=kind).url == first.url
    assert the_one(cluster, PLURALS[kind])["metadata"]["uid"] == before
    assert the_one(cluster, "leases")["spec"]["renewTime"] > renewed


def test_a_start_with_other_settings_replaces_the_first_ones_objects(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    deployed()
    before = the_one(cluster, "inferenceservices")["metadata"]["uid"]
    assert deployed(options=("--enforce-eager",)).failure == ""
    replaced = the_one(cluster, "inferenceservices")
    assert replaced["metadata"]["uid"] != before
    assert "--enforce-eager" in replaced["spec"]["predictor"]["model"]["args"]


def test_a_server_that_is_still_being_deleted_is_waited_for(
    cluster: Cluster, settings: ServingSettings, deployed: Deploy
) -> None:
    ready_at_once(cluster)
    deployed()
    metadata = the_one(cluster, "inferenceservices")["metadata"]
    finalizers = {"finalizers": ["inferenceservice.finalizers"]}
    cluster.change("inferenceservices", metadata["name"], lambda obj: obj["metadata"].update(finalizers))
    kserve.undeploy("int8", RESULTS, settings)
    assert "deletionTimestamp" in the_one(cluster, "inferenceservices")["metadata"]

    def controller(number: int, request: Request) -> None:
        if str(request) == "get inferenceservices" and cluster.counted()[str(request)] == 2:
            cluster.change("inferenceservices", metadata["name"], lambda obj: obj["metadata"].update(finalizers=[]))

    cluster.faults = controller
    assert deployed().failure == ""
    assert cluster.counted()["create inferenceservices"] > 2
    assert the_one(cluster, "inferenceservices")["metadata"]["uid"] != metadata["uid"]


def test_a_server_that_awaits_garbage_collection_is_not_taken_over(
    cluster: Cluster, settings: ServingSettings, deployed: Deploy
) -> None:
    ready_at_once(cluster)
    deployed()
    before = the_one(cluster, "inferenceservices")["metadata"]["uid"]
    cluster.collects_garbage = False
    kserve.undeploy("int8", RESULTS, settings)

    def controller(number: int, request: Request) -> None:
        if cluster.counted()["get inferenceservices"] == 2:
            cluster.collect()

    cluster.faults = controller
    assert deployed().failure == ""
    assert the_one(cluster, "inferenceservices")["metadata"]["uid"] != before


def test_a_server_that_does_not_end_is_reported_at_the_deadline(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    deployed()
    name = the_one(cluster, "leases")["metadata"]["name"]
    cluster.change("leases", name, lambda obj: obj["metadata"].update(finalizers=["stuck"]))
    cluster.delete(LEASES, name, {})
    assert "of an earlier start is still being deleted after 0 s" in deployed(ready_within_s=0).failure


def test_an_unrelated_object_with_the_same_name_is_left_alone(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    name = deployed(kind=DEPLOYMENT).url.split("/")[3].split(".")[0]
    cluster.delete(LEASES, name, {})
    cluster.create(DEPLOYMENTS, {"metadata": {"name": name}, "spec": {}})
    assert f"deployments.apps {name} in the namespace quantgate is not quantgate's" in deployed(kind=DEPLOYMENT).failure
    assert left(cluster) == []
    assert the_one(cluster, "deployments")["metadata"]["name"] == name


@pytest.mark.parametrize(
    ("plural", "path", "expected"),
    [
        ("inferenceservices", "apis/serving.kserve.io/v1beta1/inferenceservices", "was deleted while it started"),
        (
            "leases",
            LEASES,
            "was removed while it was in use: its lease was not renewed in time, or somebody deleted it",
        ),
    ],
)
def test_a_server_that_is_deleted_while_it_starts_is_reported(
    cluster: Cluster, deployed: Deploy, plural: str, path: str, expected: str
) -> None:
    def controller(number: int, request: Request) -> None:
        if request.verb == "watch":
            cluster.delete(path, the_one(cluster, plural)["metadata"]["name"], {})

    cluster.faults = controller
    assert expected in deployed().failure
    assert left(cluster) == []


@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
def test_a_servers_pod_gets_the_configured_priority_class(cluster: Cluster, deployed: Deploy, kind: str) -> None:
    def pod_of(served_object: JSON) -> JSON:
        pod: JSON = served_object["spec"]["predictor"] if kind == KSERVE else served_object["spec"]["template"]["spec"]
        return pod

    ready_at_once(cluster)
    deployed(kind=kind)
    assert "priorityClassName" not in pod_of(the_one(cluster, PLURALS[kind]))
    deployed(kind=kind, priority_class="quantgate-runs")
    assert pod_of(the_one(cluster, PLURALS[kind]))["priorityClassName"] == "quantgate-runs"


def test_a_server_requests_its_own_gpus_instead_of_the_runtimes(cluster: Cluster, deployed: Deploy) -> None:
    devices = {"cpu": "4", "nvidia.com/gpu": "1", "rdma/hca": "1"}

    def limits_of(**changed: object) -> JSON:
        deployed(**changed)
        resources = the_one(cluster, "inferenceservices")["spec"]["predictor"]["model"]["resources"]
        return {name: value for name, value in resources["limits"].items() if name != "memory"}

    ready_at_once(cluster)
    assert limits_of(gpus=0) == {}
    resources = {"resources": {"limits": devices}}
    cluster.change("servingruntimes", "quantgate-vllm", lambda obj: obj["spec"]["containers"][0].update(resources))
    assert limits_of(gpus=2) == {"nvidia.com/gpu": "2"}
    assert limits_of(gpus=0) == {"nvidia.com/gpu": "0"}
    assert limits_of(gpu_resource="amd.com/gpu") == {"nvidia.com/gpu": "0", "amd.com/gpu": "2"}


def test_without_gpus_only_the_taints_of_other_nodes_are_tolerated(cluster: Cluster, deployed: Deploy) -> None:
    def tolerated(gpus: int) -> list[str]:
        both = (Toleration("nvidia.com/gpu", "", "NoSchedule"), Toleration("team", "a", "NoExecute"))
        deployed(gpus=gpus, tolerations=both)
        return [
            toleration["key"]
            for toleration in the_one(cluster, "inferenceservices")["spec"]["predictor"]["tolerations"]
        ]

    ready_at_once(cluster)
    assert tolerated(gpus=1) == ["nvidia.com/gpu", "team"]
    assert tolerated(gpus=0) == ["team"]


def test_a_deployment_can_fetch_its_weights_from_aws_s3(cluster: Cluster, deployed: Deploy) -> None:
    ready_at_once(cluster)
    deployed(kind=DEPLOYMENT)
    place, keys = the_one(cluster, "deployments")["spec"]["template"]["spec"]["initContainers"][0]["envFrom"]
    assert place == {"configMapRef": {"name": "quantgate-s3", "optional": True}}
    assert keys == {"secretRef": {"name": "quantgate-s3"}}


def test_undeploying_twice_or_without_a_start_does_nothing(
    cluster: Cluster, settings: ServingSettings, deployed: Deploy
) -> None:
    ready_at_once(cluster)
    kserve.undeploy("int8", RESULTS, settings)
    deployed()
    kserve.undeploy("int4-g64", RESULTS, settings)
    assert len(cluster.all("inferenceservices")) == 1
    kserve.undeploy("int8", RESULTS, settings)
    kserve.undeploy("int8", RESULTS, settings)
    assert left(cluster) == []
