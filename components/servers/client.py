"""A client for a completions server: sends calls in a given order, many at a time, and retries each within limits."""

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from typing import Any, TypeVar

import aiohttp
import tenacity

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.artifacts import Server
from quantgate.components.run.prompt_settings import NEUTRAL_ON_LLAMA_CPP
from quantgate.components.run.server_identity import LLAMA_CPP
from quantgate.components.servers import access
from quantgate.components.servers.scoring_requests import Ask, Scored
from quantgate.components.servers.scoring_ways import (
    WHOLE_VOCABULARY,
    BadAnswerError,
    PartOfCharacterError,
    Way,
    batches,
    calls,
    score,
)

CONCURRENT_CALLS = 64
"""On an H100, 200 generated answers took 16 s with 64 calls at a time and 32 s with 16, see docs/results.md."""
CONCURRENT_CALLS_ON_CPU = 16
ATTEMPTS = 6
TIMEOUT_S = 300
SLOWEST_TOKEN_S = 0.2
"""Seconds that a call may take for each token that it may generate, beyond TIMEOUT_S."""
LONGEST_WAIT_S = 20
STOPS_SENT = 4
"""The most stop sequences that OpenAI's API, and so vLLM, accepts. HumanEval has five."""
RETRIED = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses of failures that may be temporary."""

OnScored = Callable[[list[tuple[Ask, Scored]]], None]
"""Takes the answers of one call."""
Job = Callable[[aiohttp.ClientSession], Awaitable[None]]
"""One HTTP call with its retries."""
T = TypeVar("T")


class ServerFailedError(Exception):
    """The server gave no usable answer in any attempt; the message is that of the last attempt."""


class NotOursError(ServerFailedError):
    """The process at the server's address is not the one that we started."""


class RefusedError(Exception):
    """The server answered with an HTTP error."""

    def __init__(self, status: int, body: str) -> None:
        hint = access.key_hint(status)
        super().__init__(f"{hint} (HTTP {status}: {body[:500]})" if hint else f"HTTP {status}: {body[:500]}")
        self.status = status


@dataclass(frozen=True)
class Text:
    """A generated text."""

    text: str
    cut: bool
    """Whether the limit of tokens ended it."""
    tokens: int | None = None
    """Number of generated tokens, as the server counted them; None when it does not say."""
    thinking: str = ""
    """The thinking text, where the server itself splits it from the text (vLLM's --reasoning-parser)."""
    thinking_tokens: int | None = None
    """Number of its tokens, as the server counted them; None when it does not say."""
    prompt: tuple[int, ...] | None = None
    """The token ids that the server read; None unless the request had `return_token_ids` and the server knows it."""


FAILURES = RefusedError, aiohttp.ClientError, TimeoutError, BadAnswerError
"""What an attempt of a call may raise."""


class Client:
    """One served model on a server with OpenAI's completions API.

    `url` is the API's base with or without `/v1` or `/v1/completions`. The requests carry the user's API key, or that
    of a server of ours, see `access.py`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        concurrency: int = CONCURRENT_CALLS,
        timeout_s: float = TIMEOUT_S,
        when_lost: Callable[[str], None] | None = None,
    ) -> None:
        """`when_lost` gets the reason when a call failed in all attempts: it returns when the server is back."""
        self.root = url.rstrip("/").removesuffix("/completions").rstrip("/").removesuffix("/v1")
        self.model = model
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.when_lost = when_lost
        self.key = access.user_key()
        self.neutral: dict[str, int] = {}
        """Further fields of each chat, with which the server applies no settings of its own or of the model."""
        self.check_ours: Callable[[], None] = lambda: None
        """Called before each request; raises NotOursError when the server is no longer the one we started."""
        self.waiting = threading.Lock()
        self.waits = 0
        """How often a call has waited for a lost server."""
        self.gone: ServerFailedError | None = None
        """Why the server did not come back in the last wait."""

    def session(self) -> aiohttp.ClientSession:
        """A session for the calls of one event loop."""
        return aiohttp.ClientSession(
            connector=CheckedConnector(self.check_ours, limit=self.concurrency),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s),
            headers=access.headers(self.key),
        )

    async def get(self, session: aiohttp.ClientSession, path: str) -> Any:
        """The JSON response to one GET; raises as `post` does."""
        async with session.get(self.root + path) as response:
            return await self.read(response)

    async def post(self, session: aiohttp.ClientSession, path: str, payload: dict[str, Any]) -> Any:
        """The JSON response to one POST; raises RefusedError for an HTTP error, BadAnswerError if it is not JSON."""
        most_tokens = payload.get("max_tokens") or payload.get("max_completion_tokens") or 0
        timeout = aiohttp.ClientTimeout(total=self.timeout_s + SLOWEST_TOKEN_S * most_tokens)
        async with session.post(self.root + path, json=payload, timeout=timeout) as response:
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

    async def score_call(self, session: aiohttp.ClientSession, way: Way, asks: list[Ask], salt: str) -> list[Scored]:
        """The scores of one call's asks, with retries.

        A retry has a fresh salt, so that nothing comes from the prefix cache: a cached token has no score.
        """
        salts = chain([salt], (fresh_salt() for _ in count()))

        async def by(used: Way) -> list[Scored]:
            return score(used, asks, await self.post(session, used.path, used.payload(self.model, asks, next(salts))))

        async def once() -> list[Scored]:
            try:
                return await by(way)
            except PartOfCharacterError:
                return await by(WHOLE_VOCABULARY)

        return await self.answered(once)

    async def answered(self, once: Callable[[], Awaitable[T]]) -> T:
        """The call's result, with retries, and again after each return of a lost server; raises ServerFailedError."""
        while True:
            waits = self.waits
            try:
                return await with_retries(once)
            except ServerFailedError as error:
                if self.when_lost is None:
                    raise
                await asyncio.to_thread(self.wait_for_return, self.when_lost, str(error), waits)

    def wait_for_return(self, when_lost: Callable[[str], None], reason: str, waits: int) -> None:
        """Wait until the server is back; of the calls that lost it at the same time, only the first one waits."""
        with self.waiting:
            if self.waits == waits:
                self.gone = None
                try:
                    when_lost(reason)
                except PrerequisiteError as error:
                    self.gone = ServerFailedError(str(error))
                self.waits += 1
            if self.gone:
                raise self.gone

    def scoring_jobs(self, asks: Iterable[Ask], on_scored: OnScored, *, batched: bool = False) -> Iterator[Job]:
        """A job for each HTTP call of the asks, in their order; `on_scored` is called with each answer as it arrives.

        The asks may be made as they are needed. All asks of one call of this function share the prefix cache.
        """
        salt = fresh_salt()

        async def send(way: Way, call: list[Ask], session: aiohttp.ClientSession) -> None:
            on_scored(list(zip(call, await self.score_call(session, way, call, salt), strict=True)))

        return (partial(send, way, call) for way, call in (batches if batched else calls)(asks))

    def generating_jobs(
        self, payloads: Iterable[dict[str, Any]], on_text: Callable[[int, Text], None]
    ) -> Iterator[Job]:
        """A job that completes the prompt of each payload, or answers its messages.

        `on_text` gets a payload's number and text as it arrives.
        """

        async def complete(session: aiohttp.ClientSession, payload: dict[str, Any]) -> Text:
            stops = list(payload.get("stop") or ())
            sent = payload | {"stop": stops[:STOPS_SENT]}
            path, read = CHAT if "messages" in payload else COMPLETION
            return cut_at(read(await self.post(session, path, sent)), stops[STOPS_SENT:])

        async def send(number: int, payload: dict[str, Any], session: aiohttp.ClientSession) -> None:
            on_text(number, await self.answered(partial(complete, session, payload)))

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


class CheckedConnector(aiohttp.TCPConnector):
    """Calls `check` with a connection open and before a request is sent over it; what it raises closes the connection.

    So what is checked is who listens while the connection exists, and not who listened before it was made.
    """

    def __init__(self, check: Callable[[], None], limit: int) -> None:
        super().__init__(limit=limit)
        self.check = check

    async def connect(self, *arguments: Any, **settings: Any) -> aiohttp.connector.Connection:
        """A connection to a server that passes the check."""
        connection = await super().connect(*arguments, **settings)
        try:
            self.check()
        except ServerFailedError:
            connection.close()
            raise
        return connection


def client_of(server: Server, when_lost: Callable[[str], None] | None = None) -> Client:
    """The client for a server of this run: a CPU gets fewer calls at a time, so that none waits until its timeout.

    A server with slots gets one call more than it has slots, which waits while the others are computed.
    """
    on_cpu = server.identity is not None and server.identity.on_cpu
    concurrency = server.slots + 1 if server.slots else CONCURRENT_CALLS_ON_CPU if on_cpu else CONCURRENT_CALLS
    client = Client(server.url, server.served_name, concurrency, when_lost=when_lost)
    client.key = access.key_of(server)
    client.neutral = NEUTRAL_ON_LLAMA_CPP if server.engine_name == LLAMA_CPP else {}
    if server.pid:
        client.check_ours = OurProcess(server).check
    return client


class OurProcess:
    """The process that serves a variant on this machine: it listens at the server's address as long as it runs."""

    def __init__(self, server: Server) -> None:
        self.server, self.listener = server, access.listener(server.pid, access.port_of(server))

    def check(self) -> None:
        """Raise NotOursError unless the process still listens: another one could have taken the port."""
        if self.listener is None or not self.listener.listens():
            raise NotOursError(
                f"The server of {self.server.variant} has ended, and another process may answer at {self.server.url}."
            )


def fresh_salt() -> str:
    """A new salt, for which the server's prefix cache is empty."""
    return secrets.token_hex(8)


def text_of(answer: Any) -> Text:
    """The text of a completion; raises BadAnswerError where there is none."""
    try:
        (choice,) = answer["choices"]
        if isinstance(choice["text"], str):
            return Text(valid(choice["text"]), is_cut(choice), **counts(answer, choice))
    except (KeyError, TypeError, ValueError):
        pass
    raise BadAnswerError(f"The server's answer has no text: {str(answer)[:300]}")


def chat_text_of(answer: Any) -> Text:
    """The text of a chat completion, and its thinking where the server splits it; raises BadAnswerError without any.

    The content is null where a server with a reasoning parser cut the thinking. vLLM names the thinking `reasoning`,
    older versions and other servers `reasoning_content`.
    """
    try:
        (choice,) = answer["choices"]
        message = choice["message"]
        thinking = message.get("reasoning") or message.get("reasoning_content") or ""
        content = message["content"] or ""
        return Text(valid(content), is_cut(choice), **counts(answer, choice), thinking=valid(thinking))
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise BadAnswerError(f"The server's answer has no message: {str(answer)[:300]}")


def valid(text: str) -> str:
    """The text as valid Unicode: a cut may leave half a surrogate pair."""
    return text.encode(errors="replace").decode()


def is_cut(choice: dict[str, Any]) -> bool:
    """Whether the limit of tokens ended this choice."""
    return bool(choice.get("finish_reason") == "length")


def counts(answer: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    """The fields of Text that count tokens, or hold them; None what the server does not say."""
    usage = answer.get("usage") or {}
    generated, prompt = choice.get("token_ids"), choice.get("prompt_token_ids") or answer.get("prompt_token_ids")
    return {
        "tokens": len(generated) if generated is not None else usage.get("completion_tokens"),
        "thinking_tokens": (usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
        "prompt": tuple(prompt) if prompt is not None else None,
    }


COMPLETION = "/v1/completions", text_of
CHAT = "/v1/chat/completions", chat_text_of


def cut_at(text: Text, stops: list[str]) -> Text:
    """The text up to the first of these stop sequences, which were not sent to the server."""
    ends = [end for stop in stops if (end := text.text.find(stop)) >= 0]
    return replace(text, text=text.text[: min(ends)], cut=False) if ends else text


def is_temporary(error: BaseException) -> bool:
    """Whether a retry may succeed."""
    if isinstance(error, RefusedError):
        return error.status in RETRIED
    return isinstance(error, (aiohttp.ClientError, TimeoutError, BadAnswerError))


async def with_retries(once: Callable[[], Awaitable[T]]) -> T:
    """The call's result, retried with growing waits; raises ServerFailedError when every attempt fails."""
    try:
        return await once()
    except FAILURES as error:
        failures = [error]

    async def after_the_first() -> T:
        if failures:
            raise failures.pop()
        return await once()

    # only after a failure: tenacity inspects its callbacks at each use, which costs more than a request
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_temporary),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT_S),
        reraise=True,
    )
    try:
        return await retrying(after_the_first)
    except FAILURES as error:
        raise ServerFailedError(str(error) or type(error).__name__) from error
