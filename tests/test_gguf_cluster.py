"""GGUF files on a cluster: a plain Deployment with llama.cpp, here a real one in a stand-in of a pod."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.tested_model import TestedModel
from quantgate.components.models import own_checkpoint
from quantgate.components.models.digest import fetch_model
from quantgate.components.models.gguf_file import GgufFile, fetched, path_of
from quantgate.components.models.recipe_file import all_variants
from quantgate.components.models.sources import resolve
from quantgate.components.models.variants import Variant
from quantgate.components.quantize.quantization import given_weights
from quantgate.components.resolve.account_rights import check_rights
from quantgate.components.resolve.cluster_places import check_in_pod, check_locations
from quantgate.components.run.artifacts import Weights
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.servers import kserve, lifecycle, llama_pod
from quantgate.components.servers.client import client_of
from quantgate.components.servers.cluster_settings import DEPLOYMENT, KSERVE, ServingSettings
from quantgate.components.servers.replaced_pod import server_again
from quantgate.components.servers.scoring_requests import Kind, Question
from quantgate.components.storage.location import open_store
from tests.support.gguf_model import write_gguf
from tests.support.kubernetes_state import JSON, Cluster
from tests.support.llama_pod_run import LlamaPods
from tests.support.on_cluster import RESULTS, cluster, environment, left, model, settings, vllm
from tests.support.schemas import check
from tests.support.seaweed import S3Server

__all__ = ["cluster", "model", "settings", "vllm"]

IMAGE = "registry.example.com/quantgate/quantgate-llama:0.1.0"
GIVEN = Weights(
    variant="q4", baseline_digest="b", digest="d" * 64, uri="s3://bucket/store/q4", algorithm="gguf", size_bytes=2**30
)
ON_GPUS = ServingSettings(kind=KSERVE, gpus=2, node_selector=(("gpu", "H100"),), llama_image=IMAGE, ready_within_s=60)


@pytest.fixture
def pods(cluster: Cluster, tmp_path: Path) -> Iterator[LlamaPods]:
    """A cluster that runs llama.cpp's pods."""
    (tmp_path / "mnt").mkdir()
    pods = LlamaPods(cluster, tmp_path / "mnt")
    cluster.on = pods.on
    yield pods
    pods.stop()


@pytest.fixture
def variant(tiny_model: Path, s3_location: str, s3_server: S3Server, tmp_path: Path) -> Weights:
    """The tiny model in 32 bits, uploaded as a file and taken into the run's store in S3 as `resolve` does."""
    upload(s3_server, f"{s3_location}/given/tiny.gguf", write_gguf(tiny_model, tmp_path / "tiny.gguf", "F32"))
    store, cache = open_store(f"{s3_location}/store"), tmp_path / "cache"
    base = resolve(f"file:{tiny_model}", store, cache)
    source = f"{s3_location}/given/tiny.gguf"
    checkpoint = own_checkpoint.stored(source, fetch_model(base.uri, base.digest, cache), store, cache)
    return given_weights(checkpoint, Variant("q4", scheme="", algorithm="", checkpoint=source), base)


def upload(server: S3Server, uri: str, file: Path) -> None:
    server.client().upload_file(str(file), server.bucket, uri.removeprefix(f"s3://{server.bucket}/"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KSERVE, DEPLOYMENT])
def test_llama_cpp_serves_it_from_a_plain_deployment_on_cpus(
    pods: LlamaPods, variant: Weights, cluster: Cluster, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file comes from S3, and its copy in the run's store goes to the pod, which compares it with its digest."""
    for name, value in (("", kind), ("_ADDRESS", pods.address), ("_LLAMA_IMAGE", IMAGE), ("_LLAMA_CPU", "2")):
        monkeypatch.setenv(f"QUANTGATE_SERVING{name}", value)
    monkeypatch.setenv("QUANTGATE_SERVING_NODE_SELECTOR", "gpu=H100")
    folder = fetch_model(variant.uri, variant.digest, tmp_path / "step", weights=lifecycle.reads_weights())
    assert not (folder / "model.gguf").exists(), "the step needs the tokenizer alone"
    expected = lifecycle.identity_here(variant, folder, 512)
    server = lifecycle.deploy(variant, folder, RESULTS, 512)
    assert (server.failure, server.slots, server.engine_name) == ("", 1, "llama.cpp")
    assert server.engine.startswith("llama.cpp b"), "as the pod's own server says it"
    assert server.identity == expected
    assert expected.options[-6:] == ("--window", "512", "--slots", "1", "--threads", "2")
    assert (expected.image, expected.place, expected.node_selector, expected.on_cpu) == (IMAGE, "CPU", (), True)
    assert server.log.endswith("-c llama")
    model, answers = TestedModel(client_of(server)), []
    assert model.kinds == {Kind.FORCED}
    model.run(model.scoring_jobs([Question((1, 2, 3, 4), 3)], lambda _question, answer: answers.append(answer)))
    assert answers[0].loglik < 0
    assert cluster.all("inferenceservices") == []
    lifecycle.undeploy("q4", RESULTS)
    assert left(cluster) == []
    pods.processes[0].terminate()
    assert pods.processes[0].wait(20) == 0, "it ends by itself when its pod is removed"


@pytest.mark.slow
def test_a_replaced_pod_is_the_same_server_again(pods: LlamaPods, variant: Weights, tmp_path: Path) -> None:
    settings, results = replace(ON_GPUS, address=pods.address), str(tmp_path / "results")
    RunResults(results).weights("q4").write(variant)
    server = kserve.deploy(variant, tmp_path, results, settings, 512)
    assert server.failure == ""
    pods.replace()
    again = server_again(server, results, settings)
    assert (again.replaced, again.identity, again.engine) == (1, server.identity, server.engine)


def deployment_of(cluster: Cluster, **changed: object) -> JSON:
    """The Deployment that a start creates, which nothing makes ready."""
    settings = replace(ON_GPUS, ready_within_s=1, **changed)  # type: ignore[arg-type]
    kept: list[JSON] = []

    def on(what: str, plural: str, obj: JSON) -> None:
        if (what, plural) == ("created", "deployments"):
            kept.append(obj | {"environment": environment(cluster, obj["metadata"]["name"])})

    cluster.on = on
    kserve.deploy(GIVEN, Path("/nowhere"), RESULTS, settings, 1024)
    return kept[0]


def test_its_pod_needs_no_gpu_and_gets_its_key_by_reference(cluster: Cluster) -> None:
    deployment = deployment_of(cluster, llama_memory="40Gi", llama_node_selector=(("disk", "ssd"),))
    variables = deployment.pop("environment")
    spec = deployment["spec"]["template"]["spec"]
    (container,), (fetcher,) = spec["containers"], spec["initContainers"]
    assert (container["name"], container["image"], spec["nodeSelector"]) == ("llama", IMAGE, {"disk": "ssd"})
    assert container["resources"] == {"requests": {"cpu": "4", "memory": "40Gi"}, "limits": {"memory": "40Gi"}}
    assert "tolerations" not in spec
    assert [entry["name"] for entry in container["env"]] == ["LLAMA_API_KEY"]
    assert "secretKeyRef" in container["env"][0]["valueFrom"]
    assert len(variables["LLAMA_API_KEY"]) == 64
    assert fetcher["command"][-3:] == [GIVEN.uri, "/mnt/models/model", GIVEN.digest]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert deployment["metadata"]["labels"]["quantgate.dev/variant"] == "q4"
    assert deployment["metadata"]["ownerReferences"][0]["kind"] == "Lease"
    check({key: deployment[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "q4"}})


def test_its_device_is_not_that_of_the_baseline(cluster: Cluster) -> None:
    """So that a load test compares no speed of the two."""
    baseline = GIVEN.model_copy(update={"variant": "bf16", "algorithm": ""})
    settings = replace(ON_GPUS, kind=DEPLOYMENT)
    devices = [kserve.identity_here(weights, settings, 64).device for weights in (baseline, GIVEN)]
    assert devices == ["GPU (gpu=H100)", "CPU"]


def test_on_a_cluster_without_gpus_it_gets_the_nodes_of_the_others(cluster: Cluster) -> None:
    spec = deployment_of(cluster, gpus=0)["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"gpu": "H100"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"llama_image": ""}, r"needs the image of llama\.cpp's server, and QUANTGATE_SERVING_LLAMA_IMAGE is not set"),
        ({"memory": "512Mi"}, r"has 1\.0 GiB, and its server gets 512Mi of memory\. Raise QUANTGATE_SERVING_LLAMA_M"),
        ({"llama_memory": "much"}, "'much' is not an amount as Kubernetes writes it"),
    ],
)
def test_what_the_clusters_settings_lack_is_said_before_anything_is_created(
    cluster: Cluster, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(PrerequisiteError, match=message):
        kserve.deploy(GIVEN, Path("/nowhere"), RESULTS, replace(ON_GPUS, **changed), 1024)  # type: ignore[arg-type]
    assert left(cluster) == []


@pytest.mark.parametrize(("cpu", "threads"), [("4", "4"), ("500m", "1"), ("2500m", "2")])
def test_it_computes_with_as_many_threads_as_the_pod_requests_cpus(cpu: str, threads: str) -> None:
    assert llama_pod.answering(ServingSettings(cpu=cpu), 64)[-2:] == ("--threads", threads)


ENDED = {"terminated": {"reason": "Error", "exitCode": 1}}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            {"name": "llama", "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
            | {"lastState": ENDED},
            "llama.cpp ended (exit status 1, 1 restarts).",
        ),
        (
            {"name": "llama", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}},
            "it needs more main memory than its memory limit. Raise QUANTGATE_SERVING_LLAMA_MEMORY.",
        ),
        ({"name": "llama", "ready": False, "state": {"running": {}}}, "llama.cpp is still starting."),
        ({}, "change QUANTGATE_SERVING_LLAMA_CPU, _LLAMA_MEMORY or _LLAMA_NODE_SELECTOR"),
    ],
)
def test_why_it_is_not_ready_is_said_of_llama_cpp(cluster: Cluster, status: JSON, message: str) -> None:
    pod_status: JSON = {"phase": "Pending", "containerStatuses": [status]}
    if not status:
        text = "0/3 nodes are available: 3 Insufficient memory."
        pod_status = {"conditions": [{"type": "PodScheduled", "status": "False", "message": text}]}

    def on(what: str, plural: str, obj: JSON) -> None:
        if (what, plural) == ("created", "deployments"):
            name = obj["metadata"]["name"]
            metadata = {"name": f"{name}-1", "labels": {"app.kubernetes.io/instance": name}}
            cluster.create("api/v1/pods", {"metadata": metadata, "status": pod_status})

    cluster.on = on
    server = kserve.deploy(GIVEN, Path("/nowhere"), RESULTS, replace(ON_GPUS, ready_within_s=1), 1024)
    assert message in server.failure
    assert "vLLM" not in server.failure
    assert left(cluster) == []


def plan(source: str) -> EvaluationPlan:
    return EvaluationPlan(variants=(), variant=(f"q4={source}",), suite="quick", store="s3://b/s", results="s3://b/r")


def test_the_first_step_refuses_it_without_an_image_or_from_a_disk() -> None:
    in_s3, in_a_pod = plan("s3://bucket/folder/mine.gguf"), {"QUANTGATE_RUN": "run", "QUANTGATE_SERVING": "kserve"}
    check_locations("hf:org/name", in_s3)
    with pytest.raises(PrerequisiteError, match="QUANTGATE_SERVING_LLAMA_IMAGE is not set"):
        check_in_pod("hf:org/name", in_s3, in_a_pod)
    check_in_pod("hf:org/name", in_s3, in_a_pod | {"QUANTGATE_SERVING_LLAMA_IMAGE": IMAGE})
    check_in_pod("hf:org/name", plan("s3://bucket/folder"), in_a_pod)
    with pytest.raises(PrerequisiteError, match="Write it as s3://BUCKET/FOLDER/MODEL"):
        path_of("s3:///mine.gguf")
    with pytest.raises(PrerequisiteError, match=r"machine's disk\. Give s3://BUCKET/FOLDER/MODEL\.gguf"):
        check_locations("hf:org/name", plan("file:mine.gguf"))


def test_its_deployment_needs_rights_that_kserves_servers_do_not(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTGATE_SERVING", "kserve")
    cluster.forbidden = {"create deployments"}
    check_rights(plan("s3://bucket/folder"))
    with pytest.raises(PrerequisiteError, match=r"may not create deployments\.apps"):
        check_rights(plan("s3://bucket/mine.gguf"))


@pytest.mark.slow
def test_a_file_in_s3_is_downloaded_once_and_must_be_one(
    tiny_model: Path, s3_location: str, s3_server: S3Server, tmp_path: Path
) -> None:
    file = write_gguf(tiny_model, tmp_path / "mine.gguf", "Q8_0")
    (tmp_path / "page.gguf").write_text("<html>")
    upload(s3_server, f"{s3_location}/folder/mine.gguf", file)
    upload(s3_server, f"{s3_location}/folder/page.gguf", tmp_path / "page.gguf")
    source = f"{s3_location}/folder/mine.gguf"
    assert all_variants(plan(source)) == ("bf16", "q4")
    copy = fetched(source, tmp_path / "cache")
    assert (copy.name, GgufFile(copy).scheme, copy.read_bytes()) == ("mine.gguf", "Q8_0", file.read_bytes())
    before = copy.stat().st_mtime_ns
    assert fetched(source, tmp_path / "cache").stat().st_mtime_ns == before
    with pytest.raises(PrerequisiteError, match="is not a GGUF file: it does not begin with GGUF"):
        fetched(f"{s3_location}/folder/page.gguf", tmp_path / "cache")
    with pytest.raises(PrerequisiteError, match=r"There is no object s3://\S+/none\.gguf at http"):
        fetched(f"{s3_location}/folder/none.gguf", tmp_path / "cache")
