"""A client for a completions server: sends calls in a given order, many at a time, and retries each within limits."""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator
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
"""The most stop sequences that OpenAI's API, and so vLLM, accepts. HumanEval has five."""
RETRIED = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses of failures that may be temporary."""

OnScored = Callable[[Ask, Scored], None]
Job = Callable[[aiohttp.ClientSession], Awaitable[None]]
"""One HTTP call with its retries."""
T = TypeVar("T")


class ServerFailedError(Exception):
    """The server gave no usable answer in any attempt; the message is that of the last attempt."""


class RefusedError(Exception):
    """The server answered with an HTTP error."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"HTTP {status}: {body[:500]}")
        self.status = status


@dataclass(frozen=True)
class Text:
    """A generated text."""

    text: str
    cut: bool
    """Whether the limit of tokens ended it."""


class Client:
    """One served model on a server with OpenAI's completions API.

    `url` is the API's base with or without `/v1` or `/v1/completions`. If the server needs an API key, set
    $VLLM_API_KEY, the variable from which vLLM reads it too.
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
        """The JSON response to one GET; raises as `post` does."""
        async with session.get(self.root + path) as response:
            return await self.read(response)

    async def post(self, session: aiohttp.ClientSession, path: str, payload: dict[str, Any]) -> Any:
        """The JSON response to one POST; raises RefusedError for an HTTP error, BadAnswerError if it is not JSON."""
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
        """The scores of one call's asks, with retries.

        A retry has a fresh salt, so that nothing comes from the prefix cache: a cached token has no score.
        """
        way = WAYS[asks[0].kind]
        salts = chain([salt], (fresh_salt() for _ in count()))

        async def once() -> list[Scored]:
            return score(way, asks, await self.post(session, way.path, way.payload(self.model, asks, next(salts))))

        return await with_retries(once)

    def scoring_jobs(self, asks: Iterable[Ask], on_scored: OnScored) -> Iterator[Job]:
        """A job for each HTTP call of the asks, in their order; `on_scored` is called with each answer as it arrives.

        The asks may be made as they are needed. All asks of one call of this function share the prefix cache.
        """
        salt = fresh_salt()

        async def send(call: list[Ask], session: aiohttp.ClientSession) -> None:
            for ask, scored in zip(call, await self.score_call(session, call, salt), strict=True):
                on_scored(ask, scored)

        return (partial(send, call) for call in calls(asks))

    def generating_jobs(
        self, payloads: Iterable[dict[str, Any]], on_text: Callable[[int, Text], None]
    ) -> Iterator[Job]:
        """A job that completes the prompt of each payload; `on_text` gets a payload's number and text as it arrives."""

        async def complete(session: aiohttp.ClientSession, payload: dict[str, Any]) -> Text:
            stops = list(payload.get("stop") or ())
            sent = payload | {"stop": stops[:STOPS_SENT]}
            return cut_at(text_of(await self.post(session, "/v1/completions", sent)), stops[STOPS_SENT:])

        async def send(number: int, payload: dict[str, Any], session: aiohttp.ClientSession) -> None:
            on_text(number, await with_retries(partial(complete, session, payload)))

        return (partial(send, number, payload) for number, payload in enumerate(payloads))

    async def run(self, jobs: Iterable[Job]) -> None:
        """Start the jobs in their order, `concurrency` at a time; the next job is made when one can start.

        The first error ends all jobs and is raised: ServerFailedError when a call fails in every attempt. The callbacks
        have got all earlier answers by then.
        """
        waiting = iter(jobs)

        async def worker(session: aiohttp.ClientSession) -> None:
            for job in waiting:
                await job(session)

        try:
            async with self.session() as session, asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(worker(session))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None


def fresh_salt() -> str:
    """A new salt, for which the server's prefix cache is empty."""
    return secrets.token_hex(8)


def text_of(answer: Any) -> Text:
    """The text of a completion; raises BadAnswerError where there is none."""
    try:
        (choice,) = answer["choices"]
        if isinstance(choice["text"], str):
            valid = choice["text"].encode(errors="replace").decode()  # a cut may leave half a surrogate pair
            return Text(valid, choice.get("finish_reason") == "length")
    except (KeyError, TypeError, ValueError):
        pass
    raise BadAnswerError(f"The server's answer has no text: {str(answer)[:300]}")


def cut_at(text: Text, stops: list[str]) -> Text:
    """The text up to the first of these stop sequences, which were not sent to the server."""
    ends = [end for stop in stops if (end := text.text.find(stop)) >= 0]
    return Text(text.text[: min(ends)], cut=False) if ends else text


def is_temporary(error: BaseException) -> bool:
    """Whether a retry may succeed."""
    if isinstance(error, RefusedError):
        return error.status in RETRIED
    return isinstance(error, (aiohttp.ClientError, TimeoutError, BadAnswerError))


async def with_retries(once: Callable[[], Awaitable[T]]) -> T:
    """The call's result, retried with growing waits; raises ServerFailedError when every attempt fails."""
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_temporary),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT_S),
        reraise=True,
    )
    try:
        return await retrying(once)
    except (RefusedError, aiohttp.ClientError, TimeoutError, BadAnswerError) as error:
        raise ServerFailedError(str(error) or type(error).__name__) from error
