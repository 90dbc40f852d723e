"""The steps on a cluster: they serve through KServe, renew the lease, report a missing server, and leave nothing."""

import shutil
from pathlib import Path

import pytest

from components.deploy import step as deploy_step
from components.evaluate import step as evaluate_step
from components.models import sources
from components.run.artifacts import Scores, Server, Weights
from components.run.plan import EvaluationPlan
from components.servers import lifecycle
from components.servers.followed_server import with_tokenizer
from components.storage.cache import cache_dir
from components.storage.location import fetch, open_store
from tests.support.kubernetes_state import JSON, Cluster
from tests.support.on_cluster import cluster, left, ready_at_once, vllm
from tests.support.seaweed import S3Server

__all__ = ["cluster", "vllm"]

pytestmark = pytest.mark.slow


@pytest.fixture
def plan(s3_location: str) -> EvaluationPlan:
    return EvaluationPlan(
        variants=("bf16", "int8"), suite="quick", store=f"{s3_location}/store", results=f"{s3_location}/results"
    )


@pytest.fixture
def weights(plan: EvaluationPlan, tiny_model: Path) -> Weights:
    """Weights in a bucket, as `quantize` writes them."""
    model = sources.resolve(f"file:{tiny_model}", open_store(plan.store), cache_dir())
    int8_weights = Weights(variant="int8", baseline_digest=model.digest, digest=model.digest, uri=model.uri)
    open_store(plan.results).put_text(int8_weights.model_dump_json(), "variants/int8/weights.json")
    return int8_weights


@pytest.fixture
def deployed(
    cluster: Cluster, vllm: str, plan: EvaluationPlan, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder with the plan and the server.json of the step that served the weights."""
    monkeypatch.setenv("QUANTGATE_SERVING", "kserve")
    monkeypatch.setenv("QUANTGATE_SERVING_ADDRESS", vllm)
    ready_at_once(cluster)
    weights.write(tmp_path / "weights.json")
    plan.write(tmp_path / "plan.json")
    deploy_step.deploy(str(tmp_path / "weights.json"), str(tmp_path / "plan.json"), str(tmp_path / "server.json"))
    return tmp_path


def test_a_step_serves_and_a_later_one_stops_it_twice(deployed: Path, cluster: Cluster, plan: EvaluationPlan) -> None:
    server = Server.read(deployed / "server.json")
    assert (server.failure, server.pid, server.served_name) == ("", 0, "quantgate-int8")
    assert [name.partition("/")[0] for name in left(cluster)] == ["inferenceservices", "leases", "secrets"]
    assert open_store(plan.results).get_text("variants/int8/server.json")
    for _ in range(2):
        deploy_step.undeploy("int8", plan.results)
        assert left(cluster) == []


def test_the_tokenizer_is_fetched_if_the_serving_step_ran_on_another_machine(
    deployed: Path, plan: EvaluationPlan
) -> None:
    server = Server.read(deployed / "server.json")
    shutil.rmtree(server.model_path)
    again = with_tokenizer(server, plan.results)
    assert (Path(again.model_path) / "tokenizer_config.json").is_file()


def test_no_step_fetches_the_weights_if_a_cluster_serves(
    deployed: Path, plan: EvaluationPlan, weights: Weights, tmp_path: Path
) -> None:
    server = Server.read(deployed / "server.json")
    shutil.rmtree(server.model_path)
    again = with_tokenizer(server, plan.results)
    assert again.model_path == server.model_path  # as `deploy` had fetched it
    fetched = {file.name for file in Path(again.model_path).iterdir()}
    assert fetched >= {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert not any(name.endswith(".safetensors") for name in fetched)
    whole = fetch(weights.uri, tmp_path / "cache")
    assert {file.name for file in whole.iterdir()} - fetched == {file.name for file in whole.glob("*.safetensors")}


def overwritten(s3_server: S3Server, weights: Weights) -> None:
    """Write other bytes of the same size over the stored weights."""
    key = weights.uri.removeprefix(f"s3://{s3_server.bucket}/") + "/model.safetensors"
    client = s3_server.client()
    size = client.head_object(Bucket=s3_server.bucket, Key=key)["ContentLength"]
    client.put_object(Bucket=s3_server.bucket, Key=key, Body=bytes(size))


@pytest.mark.fault(
    "weights",
    "weights in S3 change before or while KServe fetches them by itself",
    "no server is kept: the stored bytes are compared before the start, and their state after it",
)
@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("before", "model.safetensors has changed since it was stored"),
        ("while", "was written to while KServe fetched it, so the server may have other weights; it is stopped."),
    ],
)
def test_kserve_keeps_no_server_of_weights_that_have_changed(
    cluster: Cluster,
    deployed: Path,
    weights: Weights,
    plan: EvaluationPlan,
    s3_server: S3Server,
    when: str,
    reason: str,
) -> None:
    deploy_step.undeploy("int8", plan.results)
    if when == "before":
        overwritten(s3_server, weights)
    else:
        ready = cluster.on

        def on(what: str, plural: str, obj: JSON) -> None:
            if what == "created" and plural == "inferenceservices":
                overwritten(s3_server, weights)
            ready(what, plural, obj)

        cluster.on = on
    deploy_step.deploy(*(str(deployed / f"{name}.json") for name in ("weights", "plan", "server")))
    assert reason in Server.read(deployed / "server.json").failure
    assert left(cluster) == []


def test_a_removed_server_gives_a_reason_and_no_score(deployed: Path, plan: EvaluationPlan) -> None:
    lifecycle.undeploy("int8", plan.results)  # as the reaper would
    files = [str(deployed / name) for name in ("server.json", "plan.json", "scores.json", "records.parquet")]
    evaluate_step.evaluate_tiny(*files)
    scores = Scores.read(deployed / "scores.json")
    assert scores.tasks == ()
    assert "quantgate" in scores.failure
    assert "removed" in scores.failure


def test_a_start_that_was_killed_before_it_was_recorded_is_still_stopped(
    deployed: Path, cluster: Cluster, plan: EvaluationPlan
) -> None:
    store = open_store(plan.results)
    store.put_text("", "variants/int8/server.json")  # nothing that could be read
    deploy_step.undeploy("int8", plan.results)
    assert left(cluster) == []
