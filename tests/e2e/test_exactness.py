"""In float32 on a real vLLM every way of scoring gives the same numbers, on real questions of five tasks.

The model is the embedded one's first layers: what is compared is how prompts are sent and answers are read, and the
slowest way computes every prompt anew.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from benchmarks.gpu import shapes
from quantgate.components.benchmarks import harness
from quantgate.components.benchmarks.embedded import Embedded
from quantgate.components.benchmarks.suites import SuiteTask
from quantgate.components.evaluate.endpoint import Endpoint
from quantgate.components.flow_cases.exchanges import FlowExchange
from quantgate.components.flow_cases.flow_file import FlowSet, read_flow_file
from quantgate.components.flows.asking import ask
from quantgate.components.flows.checked import checked, records_of, task_scores
from quantgate.components.processes import lease
from quantgate.components.run.artifacts import Server, Weights
from quantgate.components.run.load_results import LoadSettings
from quantgate.components.run.records import Record
from quantgate.components.run.results import RunResults
from quantgate.components.servers import access, local_server, local_vllm
from quantgate.components.servers.bench_serve import load_test
from quantgate.components.servers.client import client_of
from quantgate.components.servers.local_vllm import serving_python
from quantgate.components.servers.scoring_requests import OF_VLLM, Kind
from tests.support.prompted import ask_items

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not serving_python().exists(), reason="vLLM's environment is missing: `make environments`"),
]
TASKS = [  # few-shot and zero-shot, choices in the context (WinoGrande), long ones (HellaSwag): few of those
    SuiteTask("arc_challenge", "acc", shots=2, chance=0.25, tiny=3, full=3),
    SuiteTask("hellaswag", "acc_norm", shots=1, chance=0.25, tiny=3, full=3),
    SuiteTask("piqa", "acc", shots=0, chance=0.5, tiny=50, full=50),
    SuiteTask("openbookqa", "acc_norm", shots=0, chance=0.25, tiny=16, full=16),
    SuiteTask("winogrande", "acc", shots=2, chance=0.5, tiny=6, full=6),
]
CLOSE = 1e-3


TOOLS = Weights(variant="bf16", baseline_digest="", tool_call_parser="hermes").server_options


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM in float32 on the first layers of the embedded model."""
    folder = tmp_path_factory.mktemp("exactness")
    model = shapes.demo(folder, cut=True)
    with lease.hold(folder / "lease"):
        started = local_vllm.deploy("bf16", model, folder, options=("--dtype", "float32", *TOOLS))
        assert started.failure == ""
        yield started
        local_server.undeploy(started)


def endpoint_on(server: Server, way: str = "", window: int = 0) -> Endpoint:
    """lm-eval's model on the server, with its key."""
    return Endpoint(server.url, server.served_name, server.model_path, window, way=way, key=access.key_of(server))


def records_by(server: Server, way: str) -> list[Record]:
    records = []
    for task in TASKS:
        prepared = harness.prepare(task, Embedded())
        records += ask_items(server, prepared, prepared.chosen("full"), way)
    return records


def test_every_way_gives_the_loglikelihoods_of_the_echo_way(server: Server) -> None:
    by_echo = records_by(server, "echo")
    assert sum(len(record.logliks) for record in by_echo) >= 200
    for way in ("", Kind.SUFFIX, Kind.READ):  # as planned, that is in batches, and by suffixes and reads alone
        by_way = records_by(server, way)
        for record, echoed in zip(by_way, by_echo, strict=True):
            assert (record.task, record.item_id, record.prompt_hash) == (
                echoed.task,
                echoed.item_id,
                echoed.prompt_hash,
            )
            assert record.logliks == pytest.approx(echoed.logliks, abs=CLOSE), (way, record.task, record.item_id)
            assert (record.greedy, record.score) == (echoed.greedy, echoed.score), (way, record.task, record.item_id)


def test_every_way_gives_the_same_loglikelihoods_for_single_token_choices(server: Server) -> None:
    questions = [f"{'Letters follow letters. ' * 9}What comes after {letter}?\nAnswer:" for letter in "ABCDEFGH"]
    requests = [SimpleNamespace(args=(question, f" {letter}")) for question in questions for letter in "ABCD"]
    by_way = [
        endpoint_on(server, way).loglikelihood(requests) for way in (Kind.ECHO, Kind.READ, Kind.SUFFIX, Kind.BATCH)
    ]
    by_echo, *others = by_way
    for other in others:
        assert [loglik for loglik, _ in other] == pytest.approx([loglik for loglik, _ in by_echo], abs=CLOSE)
        assert [greedy for _, greedy in other] == [greedy for _, greedy in by_echo]


def test_the_server_offers_every_way(server: Server) -> None:
    endpoint = endpoint_on(server)
    assert endpoint.tested.kinds == set(OF_VLLM)
    assert all(ability.difference < CLOSE for ability in endpoint.tested.server.tried)
    assert endpoint.max_length == server.max_model_len - 1


def test_vllms_own_load_test_measures_the_server(server: Server) -> None:
    """It imports vLLM once more, which takes most of the time."""
    results = str(Path(server.log).parents[1])
    test = load_test(server, LoadSettings((1, 2), 16, 8, least_requests=2, requests_each=1), results)
    assert test.failure == ""
    assert [(level.concurrency, level.requests, level.failed) for level in test.levels] == [(1, 2, 0), (2, 2, 0)]
    assert all(level.first_token_ms <= level.first_token_p95_ms for level in test.levels)
    assert test.memory_bytes > 100_000_000 or not (server.identity and server.identity.on_cpu)
    log = RunResults(results).log("speed-bf16").read_text(encoding="utf-8")
    assert access.key_of(server) not in log


def test_a_batch_is_refused_without_the_servers_key(server: Server) -> None:
    for key, status in (("", 401), (access.key_of(server), 200)):
        answer = httpx.post(
            f"{server.url}/quantgate/score", json={"contexts": [], "cache_salt": "a"}, headers=access.headers(key)
        )
        assert answer.status_code == status


def test_every_way_gives_the_same_loglikelihood_of_a_text_in_windows(server: Server) -> None:
    text = [SimpleNamespace(args=("The quick brown fox jumps over the lazy dog. " * 40,))]
    by_echo, by_suffix, by_batch = [
        Endpoint(
            server.url, server.served_name, server.model_path, 256, way=way, key=access.key_of(server)
        ).loglikelihood_rolling(text)
        for way in (Kind.ECHO, Kind.SUFFIX, Kind.BATCH)
    ]
    assert by_suffix == pytest.approx(by_echo, abs=CLOSE)
    assert by_batch == pytest.approx(by_echo, abs=CLOSE)


FLOWS = """name: real
guided: both
sampling: {max_tokens: 60}
cases:
  - id: json
    repeats: 2
    turns: [{user: Write JSON with the key level.}]
    checks:
      - json_schema:
          {type: object, required: [level], properties: {level: {enum: [easy, hard]}}, additionalProperties: false}
  - id: tools
    tools: [{function: {name: look_up, parameters: {type: object, properties: {code: {type: string}}}}}]
    turns: [{user: Hello}, {user: Who are you}]
    checks: [length: {max_words: 200}]
"""


def test_flows_are_answered_with_tools_greedily_and_guided_answers_begin_as_json(server: Server) -> None:
    """The demo's first layers write nonsense, and the server's guided decoding still makes it begin as JSON."""
    flows = FlowSet(names=("real",), flows=read_flow_file(FLOWS, "real.yaml").flows())
    exchanges: list[FlowExchange] = []
    ask(client_of(server), flows.asked, exchanges.append)
    by_id = {flow.id: flow for flow in flows.flows}
    exchanges = [checked(by_id[exchange.flow], exchange) for exchange in exchanges]
    records = records_of("bf16", flows, exchanges)
    scores = {score.task: (score.score, score.items) for score in task_scores(flows, records)}
    assert scores["flows:application"] == (0.5, 2), "the unguided answer is no JSON"
    assert len(exchanges) == 5
    assert all(request.answer["choices"] for exchange in exchanges for request in exchange.requests)
    first, second = (exchange for exchange in exchanges if exchange.flow == "real/json.guided")
    assert first.answers == second.answers
    # white space between tokens is the schema's JSON too, and the token limit may end it there
    assert first.answers[0].text.lstrip().startswith("{"), first.answers
