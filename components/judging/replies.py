"""Ask a model each question, turn by turn; keep every reply, so that a rerun asks only what is missing."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from quantgate.components.benchmarks import thinking
from quantgate.components.errors import PrerequisiteError
from quantgate.components.judging.chat_questions import ChatQuestion
from quantgate.components.judging.contestants import Contestant
from quantgate.components.judging.judge_identity import ServedModel
from quantgate.components.judging.kept_lines import KeptLines, key_of
from quantgate.components.run.prompt_settings import NEUTRAL, NEUTRAL_ON_VLLM
from quantgate.components.servers.client import CHAT, Client, RefusedError, ServerFailedError
from quantgate.components.storage.artifact import write_text

ONE_REQUEST = (400, 413, 422)
"""HTTP statuses with which a server refuses one request, e.g. a prompt that is too long, and no others."""
MT_BENCH_TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
"""As in FastChat's llm_judge; 0 for the other categories."""

Advance = Callable[[int, int, str], None]
"""Gets how many of all are done, and of what."""


@dataclass(frozen=True)
class ReplySettings:
    """How the models are asked."""

    max_tokens: int = 1024
    seed: int = 0
    temperatures: Mapping[str, float] | None = None
    """By category; 0, the most probable token, where it has none."""

    def fields(self, category: str, is_vllm: bool) -> dict[str, Any]:
        """The fields of a request beside model and messages."""
        temperature = (self.temperatures or {}).get(category, 0.0)
        own = NEUTRAL_ON_VLLM if is_vllm else {}
        return {**NEUTRAL, **own, "max_tokens": self.max_tokens, "temperature": temperature, "seed": self.seed}


@dataclass(frozen=True)
class ChatReplies:
    """A model's replies to the turns of one question, or the reason why there are none."""

    turns: tuple[str, ...] = ()
    failure: str = ""
    cut: int = 0
    """How many of them the limit of tokens cut."""


def messages_of(question: ChatQuestion, replies: Sequence[str]) -> list[dict[str, str]]:
    """The conversation up to the turn after these replies, as messages of OpenAI's API."""
    messages = [{"role": "system", "content": question.system}] if question.system else []
    for number, turn in enumerate(question.turns[: len(replies) + 1]):
        messages.append({"role": "user", "content": turn})
        if number < len(replies):
            messages.append({"role": "assistant", "content": replies[number]})
    return messages


def replies_of(
    model: Contestant, questions: Sequence[ChatQuestion], settings: ReplySettings, kept: KeptLines, advance: Advance
) -> dict[str, ChatReplies]:
    """The model's replies to each question, by its id: kept ones, and the others from its server.

    A request that the server refuses for its content is a failure of that question. Raises PrerequisiteError when the
    server gives no answer at all; a rerun goes on from there.
    """
    if model.client is None:
        return {question.id: _saved(model, question) for question in questions}
    replies: dict[str, ChatReplies] = {}
    client = model.client

    async def ask(question: ChatQuestion, session: aiohttp.ClientSession) -> None:
        replies[question.id] = await _conversation(client, session, model.served, question, settings, kept)
        advance(len(replies), len(questions), f"replies of {model.name}")

    try:
        asyncio.run(client.run(partial(ask, question) for question in questions))
    except ServerFailedError as error:
        raise PrerequisiteError(
            f"The server of {model.name} at {client.root} failed: {error}. Its replies are kept; run the same command "
            "again to go on."
        ) from error
    return replies


def _saved(model: Contestant, question: ChatQuestion) -> ChatReplies:
    turns = model.saved.get(question.id)
    if turns is None:
        return ChatReplies(failure="the file has no reply")
    if len(turns) != len(question.turns):
        return ChatReplies(failure=f"the file has {len(turns)} replies to {len(question.turns)} turns")
    return ChatReplies(turns)


async def _conversation(
    client: Client,
    session: aiohttp.ClientSession,
    served: ServedModel,
    question: ChatQuestion,
    settings: ReplySettings,
    kept: KeptLines,
) -> ChatReplies:
    turns: list[str] = []
    cut = 0
    fields = settings.fields(question.category, served.is_vllm)
    path, read = CHAT
    for number in range(len(question.turns)):
        messages = messages_of(question, turns)
        key = key_of("reply", served.identity, messages, fields)
        line = kept.get(key)
        if line is None:
            payload = {"model": client.model, "messages": messages, **fields}

            async def once(payload: dict[str, Any] = payload) -> Any:
                return read(await client.post(session, path, payload))

            try:
                text = await client.answered(once)
            except ServerFailedError as error:
                if isinstance(error.__cause__, RefusedError) and error.__cause__.status in ONE_REQUEST:
                    return ChatReplies(failure=str(error)[:300])
                raise
            answer = thinking.split(text.text).answer
            value = {
                "model": served.model,
                "question": question.id,
                "turn": number + 1,
                "text": answer,
                "cut": text.cut,
            }
            line = kept.put(key, value)
        turns.append(str(line["text"]))
        cut += bool(line["cut"])
    return ChatReplies(tuple(turns), cut=cut)


def write_replies(file: Path, model: Contestant, replies: Mapping[str, ChatReplies]) -> None:
    """Write the replies in FastChat's form of model answers, which the commands read again."""
    rows = [
        {
            "question_id": question,
            "model_id": model.served.model,
            "digest": model.served.digest,
            "choices": [{"index": 0, "turns": list(reply.turns)}],
        }
        for question, reply in replies.items()
        if not reply.failure
    ]
    write_text(file, "".join(f"{json.dumps(row)}\n" for row in rows))
