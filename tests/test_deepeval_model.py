"""DeepEval's metrics and benchmarks on a served model; the server is scripted, DeepEval is real.

DeepEval is in no lock, so `make test` skips these. In an environment of its own they run: docs/judging.md says how.
"""

import json
import socket
from typing import Any

import pytest

deepeval = pytest.importorskip("deepeval", reason="DeepEval has an environment of its own, see docs/judging.md")

from deepeval.benchmarks.ifeval.ifeval import IFEval  # noqa: E402
from deepeval.dataset import Golden  # noqa: E402
from deepeval.metrics import GEval  # noqa: E402
from deepeval.test_case import LLMTestCase, SingleTurnParams  # noqa: E402

from quantgate.components.errors import PrerequisiteError  # noqa: E402
from quantgate.components.judging.deepeval_model import EndpointModel  # noqa: E402
from quantgate.components.servers import client  # noqa: E402
from quantgate.components.servers.client import ServerFailedError  # noqa: E402
from tests.support.scripted_chat import Answer, ScriptedChat, scripted  # noqa: E402


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever connects elsewhere, as telemetry would, fails the test."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", checked)
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.05)


def judge_by_schema(body: dict[str, Any]) -> Any:
    """Steps where a schema asks for them, else a score of 8 of 10."""
    fields = body["response_format"]["json_schema"]["schema"]["properties"]
    return json.dumps(
        {name: ["Read it."] if name == "steps" else 8 if name == "score" else "Polite." for name in fields}
    )


def geval(server: ScriptedChat) -> Any:
    metric = GEval(
        name="polite",
        criteria="Is the answer polite?",
        evaluation_params=[SingleTurnParams.INPUT, SingleTurnParams.ACTUAL_OUTPUT],
        model=EndpointModel(server.url),
        async_mode=False,
    )
    metric.measure(LLMTestCase(input="Hello?", actual_output="Good day to you."))
    return metric


def test_a_metric_is_judged_by_the_endpoint() -> None:
    with scripted(judge_by_schema) as server:
        metric = geval(server)
    assert (metric.score, metric.evaluation_model) == (0.8, "tiny")
    assert {body["temperature"] for body in server.requests} == {0}
    assert "Good day to you." in json.dumps(server.requests[-1]["messages"])


@pytest.mark.parametrize("answer", [lambda _: "nonsense", lambda _: 500], ids=["nonsense", "a broken server"])
def test_a_judge_that_gives_no_verdict_is_an_error_and_no_score(answer: Answer) -> None:
    with scripted(answer) as server, pytest.raises(ServerFailedError):
        geval(server)


def test_a_benchmark_asks_the_endpoint() -> None:
    """IFEval's own verification, on one of its rows."""
    prompt = "Answer in lowercase letters."
    rule = {"instruction_ids": ["change_case:english_lowercase"], "kwargs_list": [{}]}
    with scripted(lambda body: json.dumps({"answer": "all is small"}) if "response_format" in body else "X") as server:
        text, passed, _ = IFEval().predict(EndpointModel(server.url), Golden(input=prompt, additional_metadata=rule))
    assert (text, passed) == ("all is small", True)


def test_a_server_without_json_schemas_is_asked_without_them() -> None:
    """DeepEval asks again without a schema after a TypeError, and reads the text."""
    answer: Answer = lambda body: (400, "no response_format") if "response_format" in body else "ALL"  # noqa: E731
    rule = {"instruction_ids": ["change_case:english_capital"], "kwargs_list": [{}]}
    with scripted(answer) as server:
        text, passed, _ = IFEval().predict(EndpointModel(server.url), Golden(input="Shout", additional_metadata=rule))
    assert (text, passed) == ("ALL", True)


def test_samples_have_seeds_of_their_own() -> None:
    with scripted(lambda body: f"seed {body['seed']}") as server:
        assert EndpointModel(server.url).generate_samples("Write.", 3, 0.8) == ["seed 0", "seed 1", "seed 2"]
    assert {body["temperature"] for body in server.requests} == {0.8}


def test_the_judged_model_is_not_its_own_judge_and_an_absent_server_is_a_message() -> None:
    with (
        scripted(lambda _: "ok") as server,
        pytest.raises(PrerequisiteError, match="also serves|is the same model as"),
    ):
        EndpointModel(server.url, judged=[server.url])
    with pytest.raises(PrerequisiteError, match="No OpenAI-compatible server answers"):
        EndpointModel("http://127.0.0.1:9/v1")
