"""A pod that Kubernetes replaces costs time, not the variant; another server in its place costs the variant."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from components.errors import PrerequisiteError
from components.evaluate.evaluation import Earlier, Evaluation
from components.evaluate.ledger import shared
from components.models.digest import digest_of
from components.run.artifacts import Scores, Server
from components.run.progress import Step
from components.run.results import RunResults
from components.servers import kserve, lifecycle
from components.servers.cluster_settings import DEPLOYMENT, KSERVE, ServingSettings
from components.servers.followed_server import FollowedServer
from components.storage.location import open_store
from tests.support.kubernetes_state import Cluster
from tests.support.on_cluster import WEIGHTS, cluster
from tests.support.seaweed import S3Server
from tests.support.serving_pod import ServingPods
from tests.test_evaluate import questions

__all__ = ["cluster"]

pytestmark = pytest.mark.slow


@pytest.fixture(params=[KSERVE, DEPLOYMENT])
def pods(cluster: Cluster, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServingPods]:
    """A cluster that runs the fake vLLM in a pod, for both ways of serving."""
    pods = ServingPods(cluster, request.param)
    cluster.on = pods.on
    for name, value in {"": request.param, "_ADDRESS": pods.address, "_NAMESPACE": "quantgate"}.items():
        monkeypatch.setenv(f"QUANTGATE_SERVING{name}", value)
    monkeypatch.setenv("QUANTGATE_SERVING_READY_WITHIN_S", "30")
    monkeypatch.setattr("components.servers.client.LONGEST_WAIT_S", 0.05)
    yield pods
    pods.stop()


def served(pods: ServingPods, model: Path, results: str) -> tuple[Server, ServingSettings]:
    settings = ServingSettings(kind=pods.kind, address=pods.address, ready_within_s=30)
    RunResults(results).weights("int8").write(WEIGHTS)
    server = kserve.deploy(WEIGHTS, model, results, settings, 1024)
    assert server.failure == ""
    assert server.pod is not None
    return server, settings


def scored(server: Server, model: Path, folder: Path, ledger: bool = True) -> Scores:
    """The full stage's scores, as the step computes them."""
    followed = FollowedServer(server, str(folder / "results"))
    followed.check()
    book = shared(folder / "ledger.sqlite", "book", open_store(str(folder / "store"))) if ledger else nullcontext()
    with book as answers:
        stage = Evaluation(
            followed.server, questions(model, folder), "full", Step(None, "full", "int8"), followed.check
        )
        try:
            return followed.with_replacements(stage.run(folder / "full.parquet", Earlier(answers)))
        except PrerequisiteError as error:
            return Scores(variant="int8", suite="demo", stage="full", failure=str(error))


@pytest.mark.parametrize("ledger", [True, False])
def test_an_evaluation_goes_on_when_kubernetes_has_replaced_the_pod(
    pods: ServingPods, tiny_model: Path, tmp_path: Path, ledger: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    results = str(tmp_path / "results")
    server, _ = served(pods, tiny_model, results)
    pods.replace_when_it_ends()
    scores = scored(server, tiny_model, tmp_path, ledger)
    assert (scores.failure, scores.replaced, scores.tasks[0].items) == ("", 1, 10)
    assert (scores.requests, scores.reused) == (20, 0)
    known = RunResults(results).server("int8").read(Server)
    assert known is not None
    assert known.replaced == 1
    assert known.pod != server.pod
    assert "Kubernetes replaced the pod of" in capsys.readouterr().out
    again = scored(server, tiny_model, tmp_path, ledger)  # the next step reads the first server's artifact
    assert (again.tasks, again.replaced) == (scores.tasks, 1)


@pytest.mark.fault(
    "servers", "a pod of a server on a cluster is replaced by one that demands no key", "its answers are not taken"
)
def test_a_new_pod_that_demands_no_key_is_another_server(pods: ServingPods, tiny_model: Path, tmp_path: Path) -> None:
    server, _ = served(pods, tiny_model, str(tmp_path / "results"))
    pods.again = "open"
    pods.replace_when_it_ends()
    scores = scored(server, tiny_model, tmp_path)
    assert "the new one is another server: The server at " in scores.failure
    assert "answers a request without its API key" in scores.failure
    assert (scores.tasks, scores.records) == ((), "")


def test_a_new_pod_with_another_image_is_another_server(pods: ServingPods, tiny_model: Path, tmp_path: Path) -> None:
    server, _ = served(pods, tiny_model, str(tmp_path / "results"))
    pods.replace_when_it_ends(image="docker.io/vllm/vllm-openai@sha256:moved")
    scores = scored(server, tiny_model, tmp_path)
    assert "the new one is another server: its image is docker.io/vllm/vllm-openai@sha256:moved" in scores.failure
    assert (scores.tasks, scores.records) == ((), "")


@pytest.mark.parametrize(
    ("restarts", "reason"),
    [
        (False, "vLLM ended (exit status 1, 0 restarts)."),
        (True, "vLLM ended and was started again in the same pod (1 restarts)."),
    ],
)
def test_a_server_that_ends_by_itself_is_the_variants_failure(
    pods: ServingPods, tiny_model: Path, tmp_path: Path, restarts: bool, reason: str
) -> None:
    server, _ = served(pods, tiny_model, str(tmp_path / "results"))
    pods.crash_when_it_ends(restarts=restarts)
    scores = scored(server, tiny_model, tmp_path)
    assert reason in scores.failure
    assert scores.replaced == 0


def test_other_weights_in_the_place_of_the_servers_are_another_server(
    pods: ServingPods, tiny_model: Path, tmp_path: Path
) -> None:
    results = str(tmp_path / "results")
    server, _ = served(pods, tiny_model, results)
    RunResults(results).weights("int8").write(
        WEIGHTS.model_copy(update={"uri": "s3://bucket/other", "digest": "e" * 64})
    )
    pods.replace_when_it_ends()
    failure = scored(server, tiny_model, tmp_path).failure
    assert f"its weights is '{'e' * 64}', before '{WEIGHTS.digest}'" in failure
    assert "it does not serve the weights at s3://bucket/other" in failure


@pytest.mark.fault(
    "weights",
    "weights in S3 change, and Kubernetes replaces the pod of a server that fetched them",
    "with KServe another server, which gets no score; a Deployment's init container compares the bytes",
)
def test_a_new_pod_of_weights_that_have_changed_is_another_server(
    pods: ServingPods, tiny_model: Path, tmp_path: Path, s3_location: str, s3_server: S3Server
) -> None:
    results, store = str(tmp_path / "results"), open_store(f"{s3_location}/store")
    digest = digest_of(tiny_model)
    uri = store.put_folder(tiny_model, f"models/{digest}", digest)
    weights = WEIGHTS.model_copy(update={"uri": uri, "digest": digest})
    RunResults(results).weights("int8").write(weights)
    server = lifecycle.deploy(weights, tiny_model, results, 1024)
    assert server.failure == ""
    key = uri.removeprefix(f"s3://{s3_server.bucket}/") + "/generation_config.json"
    s3_server.client().put_object(Bucket=s3_server.bucket, Key=key, Body=b'{"temperature": 9}')
    pods.replace_when_it_ends()
    failure = scored(server, tiny_model, tmp_path).failure
    assert (f"the weights at {uri} were written to since the first start" in failure) is (pods.kind == KSERVE)
