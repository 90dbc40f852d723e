"""The flows of a server that no run started: what it can answer is tried first, because its settings are unknown."""

import asyncio
from collections.abc import Sequence
from typing import Any

from quantgate.components.errors import PrerequisiteError
from quantgate.components.flow_cases.chat_messages import tools_of
from quantgate.components.flow_cases.exchanges import FlowExchange
from quantgate.components.flow_cases.flow_file import Flow, FlowSet
from quantgate.components.flows.asking import PATH, ask
from quantgate.components.flows.rubrics import checked_all
from quantgate.components.judging.judge_endpoint import Judge
from quantgate.components.run.progress import Step
from quantgate.components.servers.abilities import model_card
from quantgate.components.servers.client import FAILURES, Client, RefusedError, ServerFailedError

MODEL = "model"
"""The variant's name in the results."""


def asked_alone(
    client: Client, flows: FlowSet, step: Step, judge: Judge | None = None
) -> tuple[FlowSet, list[FlowExchange]]:
    """The flows with the reasons why some cannot be asked of this server, and the checked answers to the others.

    `judge` decides the rubrics; without one no flow may have a rubric. Raises PrerequisiteError when the server answers
    no chats, or fails.
    """
    asyncio.run(_check_chats(client))
    with_tools = next((flow for flow in flows.flows if flow.tools), None)
    reason = asyncio.run(_refusal_of_tools(client, with_tools)) if with_tools else ""
    known = flows.model_copy(
        update={
            "flows": tuple(
                flow.model_copy(update={"refused": reason if flow.needs_tools else ""}) for flow in flows.flows
            )
        }
    )
    if not known.asked:
        raise PrerequisiteError(f"None of the {len(flows.flows)} flows can be asked of {client.root}: {reason}.")
    by_id = {flow.id: flow for flow in known.asked}
    total = sum(flow.repeats for flow in known.asked)
    exchanges: list[FlowExchange] = []

    def on_exchange(exchange: FlowExchange) -> None:
        exchanges.append(exchange)
        step.advance(len(exchanges), total, exchange.flow)

    try:
        ask(client, known.asked, on_exchange)
    except ServerFailedError as error:
        raise PrerequisiteError(f"{client.root} stopped answering: {error}") from error
    return known, checked_all(by_id, exchanges, client.model, judge, step.advance)


async def _check_chats(client: Client) -> None:
    """Find the served model; raise PrerequisiteError when it answers no chats."""
    async with client.session() as session:
        await model_card(client, session)
        try:
            await client.post(session, PATH, _probe(client, ()))
        except FAILURES as error:
            raise PrerequisiteError(
                f"{client.root} answers no chats: {error}. A model needs a chat template for them: choose an instruct"
                " model, or start vLLM with --chat-template."
            ) from error


async def _refusal_of_tools(client: Client, flow: Flow) -> str:
    """Why the server refuses a request with tools; "" when it takes it."""
    async with client.session() as session:
        try:
            await client.post(session, PATH, _probe(client, tools_of(flow)))
        except RefusedError as error:
            return (
                f"the server refuses requests with tools: {error}. vLLM needs --enable-auto-tool-choice and"
                " --tool-call-parser"
            )
        except FAILURES as error:
            raise PrerequisiteError(f"{client.root} failed on a request with tools: {error}") from error
    return ""


def _probe(client: Client, tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    probe: dict[str, Any] = {"model": client.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    return probe | ({"tools": list(tools), "tool_choice": "auto"} if tools else {})
