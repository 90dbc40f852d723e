"""Flows on a scripted server: what is sent, what is kept, and what the gate reads of it."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.exchanges import FlowExchange, read_exchanges
from quantgate.components.flow_cases.flow_file import FlowSet, read_flow_file
from quantgate.components.flow_cases.flow_sources import flow_set, pack_names
from quantgate.components.flow_cases.flow_tasks import flow_tasks
from quantgate.components.flow_cases.tool_parsers import chosen_parser, parser_of
from quantgate.components.flows.asking import ask
from quantgate.components.flows.checked import checked, records_of, task_scores
from quantgate.components.run.artifacts import Scores
from quantgate.components.run.prompt_settings import NEUTRAL_ON_LLAMA_CPP
from quantgate.components.run.results import FULL, VariantResults
from quantgate.components.servers import client
from quantgate.components.servers.client import Client, ServerFailedError
from quantgate.pipelines.cli.app import app
from tests.support.scripted_chat import Answer, scripted, tool_call

FILE = """name: ours
use_case: tutoring
system: Be brief.
sampling: {max_tokens: 16}
tools:
  - function: {name: look_up, parameters: {type: object}}
cases:
  - id: two-turns
    tools: []
    turns:
      - {user: One, checks: [forbids: bad]}
      - {user: Two, checks: [forbids: worse]}
  - id: call
    use_case: lookup
    turns:
      - {user: "Credits?", returns: {look_up: seven}}
    checks: [tool_call: {name: look_up, arguments: {code: B1}}, answer: seven]
  - id: twice
    tools: []
    repeats: 2
    turns: [{user: Again}]
    checks: [contains: ok]
"""


def ours() -> FlowSet:
    return FlowSet(names=("ours",), flows=read_flow_file(FILE, "ours.yaml").flows())


def good(body: dict[str, Any]) -> Any:
    """The right answer to each of the flows."""
    messages = body["messages"]
    if "tools" in body and messages[-1]["role"] == "user":
        return tool_call("look_up", '{"code": "B1"}')
    return {"One": "fine", "Two": "fine too", "Again": "ok"}.get(messages[-1]["content"], "It is seven.")


def asked(flows: FlowSet, answer: Answer) -> tuple[list[FlowExchange], list[dict[str, Any]]]:
    """The checked exchanges, and the requests that the server got."""
    exchanges: list[FlowExchange] = []
    with scripted(answer) as server:
        ask(Client(server.url, "tiny", concurrency=2), flows.asked, exchanges.append)
    by_id = {flow.id: flow for flow in flows.flows}
    return [checked(by_id[exchange.flow], exchange) for exchange in exchanges], server.requests


def score(flows: FlowSet, exchanges: list[FlowExchange]) -> dict[str, float]:
    return {score.task: score.score for score in task_scores(flows, records_of("v", flows, exchanges))}


def test_a_conversation_goes_on_with_the_models_own_answers_greedily_and_with_seeds() -> None:
    exchanges, requests = asked(ours(), good)
    second = next(body for body in requests if body["messages"][-1]["content"] == "Two")
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][2]["content"] == "fine"
    assert (second["temperature"], second["top_p"], second["max_tokens"]) == (0, 1, 16)
    assert "tools" not in second
    seeds = {body["seed"] for body in requests if body["messages"][-1]["content"] == "Again"}
    assert seeds == {20261127, 20261128}
    assert len(exchanges) == 4
    assert all(exchange.passed for exchange in exchanges)


def test_a_guided_flow_sends_the_schema_of_each_answer() -> None:
    case = "{id: a, turns: [{user: One}, {user: Two}], checks: [json_schema: {type: object}]}"
    text = f"name: g\nguided: both\ncases: [{case}]\n"
    _, requests = asked(FlowSet(names=(), flows=read_flow_file(text, "g").flows()), lambda _: "{}")
    formats = [body.get("response_format") for body in requests]
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert sorted(formats, key=str) == [None, None, None, schema]


def test_a_tools_result_is_sent_back_and_the_answer_to_it_is_checked() -> None:
    exchanges, requests = asked(ours(), good)
    call = next(exchange for exchange in exchanges if exchange.flow == "ours/call")
    assert call.answers[0].calls == (("look_up", '{"code": "B1"}'),)
    assert call.answers[0].text == "It is seven."
    assert call.answers[0].tokens == 6
    assert [request.sent["messages"][-1]["role"] for request in call.requests] == ["user", "tool"]
    assert call.requests[1].sent["messages"][-1] == {"role": "tool", "tool_call_id": "call-1", "content": "seven"}
    assert call.requests[0].answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look_up"
    assert sum("tools" in body for body in requests) == 2


def test_a_model_that_calls_tools_for_ever_is_asked_four_times() -> None:
    flows = FlowSet(names=(), flows=(ours().flows[1],))
    exchanges, requests = asked(flows, lambda _: tool_call("look_up", "{}"))
    assert len(requests) == 4
    assert "it called look_up({})" in exchanges[0].checks[0].reason or "code is null" in exchanges[0].checks[0].reason


def test_a_broken_tool_call_that_llama_cpp_refuses_is_an_answer_that_fails_the_checks() -> None:
    """vLLM returns it as text. The server would refuse it each time, and the variant would have no scores."""
    flows = FlowSet(names=(), flows=(ours().flows[1],))
    refusal = (500, "The model produced output that does not match the expected Hermes format")
    exchanges, requests = asked(flows, lambda _: refusal)
    assert len(requests) == 1
    assert (exchanges[0].answers[0].text, exchanges[0].answers[0].calls) == ("", ())
    assert not exchanges[0].passed


def test_a_servers_neutral_values_are_sent_with_each_request() -> None:
    with scripted(lambda _: "ok") as server:
        client = Client(server.url, "tiny")
        client.neutral = NEUTRAL_ON_LLAMA_CPP
        ask(client, (ours().flows[2],), lambda _: None)
    assert {(body["top_k"], body["repeat_penalty"]) for body in server.requests} == {(0, 1)}


def test_each_case_and_each_check_is_an_item_and_repeats_are_its_share() -> None:
    flows = ours()
    exchanges, _ = asked(flows, lambda body: "bad" if body["seed"] == 20261128 else good(body))
    rows = records_of("v", flows, exchanges)
    items = [(row.task, row.cluster, row.item_id, row.score) for row in rows]
    assert items == [
        ("flows", "", 0, 1.0),
        ("flows:tutoring", "", 0, 1.0),
        ("flows:forbids", "ours/two-turns", 0, 1.0),
        ("flows:forbids", "ours/two-turns", 1, 1.0),
        ("flows", "", 1, 1.0),
        ("flows:lookup", "", 1, 1.0),
        ("flows:tool_call", "", 1, 1.0),
        ("flows:answer", "", 1, 1.0),
        ("flows", "", 2, 0.5),
        ("flows:tutoring", "", 2, 0.5),
        ("flows:contains", "", 2, 0.5),
    ]
    last = rows[-1]
    assert (last.question, last.answer) == ("ours/twice: Again", "bad")
    assert last.outcome == "contains: [\"ok\"]: it lacks 'ok'"
    assert score(flows, exchanges)["flows"] == pytest.approx(5 / 6)
    assert flow_tasks(flows.asked) == {
        "flows": 3,
        "flows:tutoring": 2,
        "flows:lookup": 1,
        "flows:forbids": 2,
        "flows:tool_call": 1,
        "flows:answer": 1,
        "flows:contains": 1,
    }


def test_what_is_left_out_has_neither_records_nor_items() -> None:
    flows = ours()
    refused = flows.flows[1].model_copy(update={"refused": "no tools here"})
    flows = flows.model_copy(update={"flows": (flows.flows[0], refused, flows.flows[2])})
    exchanges, _ = asked(flows, good)
    assert {row.item_id for row in records_of("v", flows, exchanges) if row.task == "flows"} == {0, 2}
    assert "flows:lookup" not in score(flows, exchanges)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.01)
    return


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: 500, "HTTP 500"),
        (lambda _: ["nonsense"], "has no message"),
        (lambda _: {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": 3}}]}, "unreadable tool"),
    ],
)
def test_a_server_that_answers_nonsense_is_a_failure_and_never_a_score(answer: Answer, reason: str) -> None:
    with pytest.raises(ServerFailedError, match=reason):
        asked(ours(), answer)


def test_the_parser_of_tool_calls_follows_the_chat_template_and_an_option_comes_first() -> None:
    assert parser_of("… <tool_call>{…}</tool_call>") == "hermes"
    assert parser_of("{% for tool in tools %}[TOOL_CALLS]") == "mistral"
    assert parser_of("Environment: ipython") == "llama3_json"
    assert parser_of("plain") == ""
    assert chosen_parser("pythonic", "<tool_call>", 2) == "pythonic"
    assert chosen_parser("none", "<tool_call>", 2) == ""
    with pytest.raises(PrerequisiteError, match="2 flows have tools.*--tool-call-parser"):
        chosen_parser("", "plain", 2)


def test_the_shipped_pack_has_60_cases_without_tools_and_a_reason_for_each() -> None:
    assert pack_names() == ["canopy"]
    flows = flow_set(["canopy"]).flows
    assert len(flows) == 74
    assert sum(not flow.needs_tools for flow in flows) == 62
    assert all(flow.because for flow in flows)
    assert {flow.use_case for flow in flows} == {"summaries", "quizzes", "feedback", "lookups", "tutoring"}
    assert sum(len(flow.turns) > 1 for flow in flows) >= 10


def flows_command(folder: Path, answer: Answer, *options: str) -> Any:
    (folder / "ours.yaml").write_text(FILE)
    with scripted(answer) as server:
        arguments = ["flows", "--endpoint", server.url, "--flows", str(folder / "ours.yaml"), *options]
        return CliRunner().invoke(app, arguments)


def test_a_served_model_is_asked_alone_and_compared_with_an_earlier_result(tmp_path: Path) -> None:
    first = flows_command(tmp_path, good, "--out", str(tmp_path / "first"))
    assert first.exit_code == 0, first.output
    assert ["flows:tool_call", "1.000", "1"] in [line.split() for line in first.output.splitlines()]
    results = VariantResults(str(tmp_path / "first"))
    assert len(read_exchanges(results.transcripts.path)) == 4
    assert Scores.read(results.scores(FULL).path).by_task()["flows"] == 1.0
    broken = flows_command(
        tmp_path,
        lambda body: "WORSE!" if body["messages"][-1]["content"] == "Two" else good(body),
        *("--out", str(tmp_path / "second"), "--baseline", str(tmp_path / "first")),
    )
    assert broken.exit_code == 0, broken.output
    rows = [words for words in map(str.split, broken.output.splitlines()) if words[:1] in (["flows"], ["flows:answer"])]
    assert rows == [
        ["flows", "3", "1.000", "0.667", "1", "0", "86.5", "%"],
        ["flows:answer", "1", "1.000", "1.000", "0", "0", "95.0", "%"],
    ]
    assert "ours/two-turns: Two\n  forbids: [\"worse\"]: it contains 'worse'" in broken.output
    assert "before: fine too\n  after : WORSE!" in broken.output


def test_a_server_without_a_parser_of_tool_calls_is_asked_the_other_flows(tmp_path: Path) -> None:
    result = flows_command(
        tmp_path, lambda body: 400 if "tools" in body else good(body), "--out", str(tmp_path / "out")
    )
    assert result.exit_code == 0, result.output
    assert "1 flow is left out, because the server refuses requests with tools: HTTP 400" in result.output
    assert "--enable-auto-tool-choice and --tool-call-parser: ours/call" in result.output
    assert ["flows", "1.000", "2"] in [line.split() for line in result.output.splitlines()]


def test_a_server_that_answers_no_chats_is_a_message(tmp_path: Path) -> None:
    result = flows_command(tmp_path, lambda _: 400, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, PrerequisiteError)
    assert "answers no chats: HTTP 400" in str(result.exception)
    assert "A model needs a chat template" in str(result.exception)


def test_a_rubric_without_a_judge_is_an_early_error(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "name: r\ncases:\n  - {id: a, turns: [{user: Hi}], checks: [{rubric: It is kind.}]}\n"
    )
    result = CliRunner().invoke(app, ["flows", "--endpoint", "http://x/v1", "--flows", str(tmp_path / "r.yaml")])
    assert "1 flows have a rubric, which a judge decides (r/a), and no judge is named." in str(result.exception)
