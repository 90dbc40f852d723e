"""The messages and tools of a flow, as /v1/chat/completions takes them."""

from typing import Any

from components.flow_cases.flow_file import Flow


def opening(flow: Flow) -> list[dict[str, Any]]:
    """The messages before the first turn."""
    return [{"role": "system", "content": flow.system}] if flow.system else []


def messages_of(flow: Flow) -> list[dict[str, Any]]:
    """All messages of the conversation, with empty answers where the model is asked."""
    messages = opening(flow)
    for turn in flow.turns:
        messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant or ""}]
    return messages[:-1]


def tools_of(flow: Flow) -> list[dict[str, Any]]:
    """The tools; empty without any."""
    return [tool.model_dump(mode="json") for tool in flow.tools]


def sampling_of(flow: Flow, repeat: int) -> dict[str, Any]:
    """The fields of a request that say how the answer is generated; each repeat has a seed of its own."""
    sampling = flow.sampling
    fields: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed + repeat,
    }
    return fields | ({"stop": list(sampling.stop)} if sampling.stop else {})


def guided_by(flow: Flow, turn: int) -> dict[str, Any]:
    """The field with which the server makes the answer to a turn fit the turn's JSON Schema; empty without one."""
    schemas = [check.json_schema for check in flow.turns[turn].checks if check.json_schema]
    if not (flow.guided and schemas):
        return {}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schemas[0]}}}
