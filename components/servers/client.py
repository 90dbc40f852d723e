"""Talk to a completions server: many calls at a time in a given order, each tried again within limits."""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from typing import Any, TypeVar

import aiohttp
import tenacity

from components.servers.scoring_requests import Ask, Scored
from components.servers.scoring_ways import WAYS, BadAnswerError, calls, score

CONCURRENT_CALLS = 16
ATTEMPTS = 6
TIMEOUT_S = 300
LONGEST_WAIT_S = 20
STOPS_SENT = 4
"""Stop sequences that OpenAI's API allows; vLLM keeps to it. HumanEval has five."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that another try may change."""

OnScored = Callable[[Ask, Scored], None]
T = TypeVar("T")


class ServerFailedError(Exception):
    """The server did not answer, or not usably, however often it was asked; the message says what it said last."""


class RefusedError(Exception):
    """The server answered with an HTTP error."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(f"HTTP {status}: {what[:500]}")
        self.status = status


@dataclass(frozen=True)
class Text:
    """A generated text."""

    text: str
    cut: bool
    """Whether the limit of tokens ended it."""


class Client:
    """One server that speaks OpenAI's completions, for one served model.

    `url` is the API's base with or without `/v1` or `/v1/completions`. A key for a server that wants one comes from
    $VLLM_API_KEY, by which the server itself may have been given it.
    """

    def __init__(self, url: str, model: str, concurrency: int = CONCURRENT_CALLS, timeout_s: float = TIMEOUT_S) -> None:
        self.root = url.rstrip("/").removesuffix("/completions").rstrip("/").removesuffix("/v1")
        self.model = model
        self.concurrency = concurrency
        self.timeout_s = timeout_s

    def session(self) -> aiohttp.ClientSession:
        """A session for the calls of one event loop."""
        key = os.environ.get("VLLM_API_KEY", "")
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.concurrency),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def get(self, session: aiohttp.ClientSession, path: str) -> Any:
        """One GET, its JSON."""
        async with session.get(self.root + path) as response:
            return await self.read(response)

    async def post(self, session: aiohttp.ClientSession, path: str, payload: dict[str, Any]) -> Any:
        """One POST, its JSON; raises RefusedError for an HTTP error and BadAnswerError for what is not JSON."""
        async with session.post(self.root + path, json=payload) as response:
            return await self.read(response)

    @staticmethod
    async def read(response: aiohttp.ClientResponse) -> Any:
        """The body as JSON."""
        if response.status != 200:
            raise RefusedError(response.status, await response.text(errors="replace"))
        try:
            return await response.json(content_type=None)
        except ValueError as error:
            raise BadAnswerError(f"The server's answer is not JSON: {error}") from error

    async def score_call(self, session: aiohttp.ClientSession, asks: list[Ask], salt: str) -> list[Scored]:
        """The asks of one call, tried again while that can help.

        Another try takes nothing from the prefix cache, as a suffix whose wanted rows came from there has no answer.
        """
        way = WAYS[asks[0].kind]
        salts = chain([salt], (fresh_salt() for _ in count()))

        async def once() -> list[Scored]:
            return score(way, asks, await self.post(session, way.path, way.payload(self.model, asks, next(salts))))

        return await patiently(once)

    async def score_all(self, asks: list[Ask], on_scored: OnScored) -> None:
        """Send the asks in their order; `on_scored` is called with each answer as it arrives.

        Raises ServerFailedError when a call fails for good; the answers that had arrived have been handed on by then.
        """
        salt = fresh_salt()
        async with self.session() as session:

            async def one(call: list[Ask]) -> None:
                for ask, scored in zip(call, await self.score_call(session, call, salt), strict=True):
                    on_scored(ask, scored)

            await self.side_by_side(one, calls(asks))

    async def generate_all(self, payloads: list[dict[str, Any]], on_text: Callable[[int, Text], None]) -> None:
        """Complete one prompt a payload; `on_text` is called with its number and text as it arrives."""
        async with self.session() as session:

            async def complete(payload: dict[str, Any]) -> Text:
                stops = list(payload.get("stop") or ())
                sent = payload | {"stop": stops[:STOPS_SENT]}
                return ended(text_of(await self.post(session, "/v1/completions", sent)), stops[STOPS_SENT:])

            async def one(numbered: tuple[int, dict[str, Any]]) -> None:
                number, payload = numbered
                on_text(number, await patiently(partial(complete, payload)))

            await self.side_by_side(one, enumerate(payloads))

    async def side_by_side(self, one: Callable[[T], Awaitable[None]], tasks: Iterable[T]) -> None:
        """Work through the tasks in their order, `concurrency` at a time; the first failure ends all."""
        waiting = iter(tasks)

        async def worker() -> None:
            for task in waiting:
                await one(task)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(worker())
        except* ServerFailedError as errors:
            raise ServerFailedError(str(errors.exceptions[0])) from errors.exceptions[0]


def fresh_salt() -> str:
    """A part of the server's prefix cache that holds nothing yet."""
    return secrets.token_hex(8)


def text_of(answer: Any) -> Text:
    """The text of a completion; raises BadAnswerError where there is none."""
    try:
        (choice,) = answer["choices"]
        if isinstance(choice["text"], str):
            whole = choice["text"].encode(errors="replace").decode()  # a cut may leave half a surrogate pair
            return Text(whole, choice.get("finish_reason") == "length")
    except (KeyError, TypeError, ValueError):
        pass
    raise BadAnswerError(f"The server's answer has no text: {str(answer)[:300]}")


def ended(text: Text, stops: list[str]) -> Text:
    """The text up to the first of the stop sequences that the server was not told."""
    places = [place for stop in stops if (place := text.text.find(stop)) >= 0]
    return Text(text.text[: min(places)], cut=False) if places else text


def may_pass(error: BaseException) -> bool:
    """Whether another try can help."""
    if isinstance(error, RefusedError):
        return error.status in PASSING
    return isinstance(error, (aiohttp.ClientError, TimeoutError, BadAnswerError))


async def patiently(once: Callable[[], Awaitable[T]]) -> T:
    """The call's result, tried again with growing waits; raises ServerFailedError when it never came."""
    tried = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(may_pass),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT_S),
        reraise=True,
    )
    try:
        return await tried(once)
    except (RefusedError, aiohttp.ClientError, TimeoutError, BadAnswerError) as error:
        raise ServerFailedError(str(error) or type(error).__name__) from error
