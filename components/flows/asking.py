"""Ask a server flows over /v1/chat/completions, several at a time; every request and answer is kept."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import aiohttp

from quantgate.components.benchmarks.thinking import THINK, split
from quantgate.components.flow_cases.chat_messages import guided_by, opening, sampling_of, tools_of
from quantgate.components.flow_cases.exchanges import FlowExchange, Request, TurnAnswer
from quantgate.components.flow_cases.flow_file import Flow, FlowTurn
from quantgate.components.servers.client import Client, Job, RefusedError, chat_text_of
from quantgate.components.servers.scoring_ways import BadAnswerError

PATH = "/v1/chat/completions"
MOST_ROUNDS = 4
"""Requests of one turn: the model may call tools in so many rounds before it must answer."""
UNREADABLE = "The model produced output that does not match the expected"
"""llama.cpp's error for an answer with a broken tool call, which vLLM returns as text."""
NO_ANSWER = {"choices": [{"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]}
NO_RESULT = '{"error": "This tool has no result here."}'

OnExchange = Callable[[FlowExchange], None]


def ask(client: Client, flows: Sequence[Flow], on_exchange: OnExchange) -> None:
    """Ask all flows, each as often as it says; `on_exchange` gets each conversation when it has ended.

    Raises ServerFailedError when a request fails in every attempt.
    """
    asyncio.run(client.run(jobs(client, flows, on_exchange)))


def jobs(client: Client, flows: Sequence[Flow], on_exchange: OnExchange) -> Iterator[Job]:
    """A job for each conversation."""

    async def converse(flow: Flow, repeat: int, session: aiohttp.ClientSession) -> None:
        on_exchange(await FlowConversation(client, session, flow, repeat).held())

    for flow in flows:
        for repeat in range(flow.repeats):
            yield partial(converse, flow, repeat)


class FlowConversation:
    """One flow, asked once."""

    def __init__(self, client: Client, session: aiohttp.ClientSession, flow: Flow, repeat: int) -> None:
        self.client, self.session, self.flow, self.repeat = client, session, flow, repeat
        self.messages = opening(flow)
        self.requests: list[Request] = []
        self.prompt_characters = 0

    async def held(self) -> FlowExchange:
        """The whole conversation, turn by turn."""
        answers: dict[int, TurnAnswer] = {}
        for number, turn in enumerate(self.flow.turns):
            self.messages.append({"role": "user", "content": turn.user})
            self.prompt_characters += len(turn.user)
            if turn.assistant is not None:
                self.messages.append({"role": "assistant", "content": turn.assistant})
            else:
                answers[number] = await self.answer(turn, guided_by(self.flow, number))
        return FlowExchange(flow=self.flow.id, repeat=self.repeat, requests=tuple(self.requests), answers=answers)

    async def answer(self, turn: FlowTurn, guided: dict[str, Any]) -> TurnAnswer:
        """The answer to a turn. A tool that has a result is answered with it, and the model is asked again."""
        calls: list[tuple[str, str]] = []
        tokens: int | None = 0
        for rounds in range(1, MOST_ROUNDS + 1):
            body = await self.request(guided)
            text = chat_text_of(body)
            message = body["choices"][0]["message"]
            made = [call_of(call) for call in message.get("tool_calls") or ()]
            calls += [(name, arguments) for _, name, arguments in made]
            tokens = None if tokens is None or text.tokens is None else tokens + text.tokens
            self.messages.append(sent_again(message, split(text.text, THINK).answer))
            for call_id, name, _ in made:
                result = turn.returns.get(name, NO_RESULT)
                self.messages.append({"role": "tool", "tool_call_id": call_id, "content": result})
            if rounds == MOST_ROUNDS or not made or not all(name in turn.returns for _, name, _ in made):
                break
        return TurnAnswer(
            text=split(text.text, THINK).answer,
            calls=tuple(calls),
            cut=text.cut,
            tokens=tokens,
            prompt_characters=self.prompt_characters,
        )

    async def request(self, guided: dict[str, Any]) -> dict[str, Any]:
        """The server's answer to the messages so far; `guided` are further fields of the request."""
        tools = tools_of(self.flow)
        sent: dict[str, Any] = {"model": self.client.model, "messages": list(self.messages), **self.client.neutral}
        sent |= (
            guided | sampling_of(self.flow, self.repeat) | ({"tools": tools, "tool_choice": "auto"} if tools else {})
        )

        async def once() -> dict[str, Any]:
            try:
                body = await self.client.post(self.session, PATH, sent)
            except RefusedError as error:
                if UNREADABLE not in str(error):
                    raise
                body = NO_ANSWER  # the model's, not the server's fault; asked again it would be the same
            chat_text_of(body)  # raises BadAnswerError, which is retried
            [call_of(call) for call in body["choices"][0]["message"].get("tool_calls") or ()]
            return dict(body)

        body = await self.client.answered(once)
        self.requests.append(Request(sent=sent, answer=body))
        return body


def call_of(call: Any) -> tuple[str, str, str]:
    """The id, the name and the arguments of a tool call; raises BadAnswerError for what is none."""
    try:
        function = call["function"]
        name, arguments = function["name"], function["arguments"]
        if isinstance(name, str) and isinstance(arguments, str):
            return str(call.get("id") or name), name, arguments
    except (AttributeError, KeyError, TypeError):
        pass
    raise BadAnswerError(f"The server's answer has an unreadable tool call: {str(call)[:300]}")


def sent_again(message: dict[str, Any], text: str) -> dict[str, Any]:
    """The model's message as the next request has it: without thinking, and without the server's own fields."""
    tool_calls = message.get("tool_calls")
    return {"role": "assistant", "content": text} | ({"tool_calls": tool_calls} if tool_calls else {})
