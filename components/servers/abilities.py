"""Ask a server what it can do, by having it do it: each way scores the same tokens, and the answers are compared."""

import asyncio
import random
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from components.errors import PrerequisiteError
from components.servers.client import Client, RefusedError, ServerFailedError, fresh_salt, patiently
from components.servers.scoring_requests import Ask, Kind, Scored
from components.servers.scoring_ways import WAYS, BadAnswerError, is_marked

CONTEXT_TOKENS = 132
CONTINUATION_TOKENS = 6
"""Together they end within one block of the prefix cache, of 16 tokens or any more, so that none holds a scored one."""
TOKEN_IDS = range(10, 200)
"""Ids that every vocabulary of a language model has."""
AGREEMENT = 0.5
"""Natural log units a token. Kernels in 16 bits differ by a tenth; the score of another token or position by many."""

WHAT = {
    Kind.SUFFIX: "scores a continuation in one request, its context from the prefix cache",
    Kind.READ: "scores named tokens after a prompt, the prompt from the prefix cache",
    Kind.ECHO: "scores whole prompts, nothing from the prefix cache",
}
HINTS = {
    Kind.SUFFIX: "start vLLM with --enable-scale-out (0.30 on) and components/servers/vllm_plugin in PYTHONPATH",
    Kind.READ: "this needs vLLM's logprob_token_ids",
    Kind.ECHO: "this needs `echo` with `logprobs` on /v1/completions",
}


@dataclass(frozen=True)
class Ability:
    """What came of trying one way."""

    kind: Kind
    trouble: str
    """Why it cannot be used; "" when it can."""
    difference: float = 0.0
    """Largest distance of a token's log-probability from what the slowest way that works found."""


@dataclass(frozen=True)
class Abilities:
    """What a server is, and which ways it answers exactly."""

    version: str
    max_model_len: int
    """Tokens a prompt and its answer may have together; 0 when the server does not tell."""
    tried: tuple[Ability, ...]

    @property
    def kinds(self) -> frozenset[Kind]:
        """The ways to use; raises PrerequisiteError when there is none."""
        usable = frozenset(each.kind for each in self.tried if not each.trouble)
        if not usable:
            told = "\n".join(f"  {each.kind}: {each.trouble}" for each in self.tried)
            raise PrerequisiteError(f"The server scores prompts in no way that is known here:\n{told}")
        return usable


def abilities(client: Client) -> Abilities:
    """Try every way on the server; raises PrerequisiteError when it does not serve the model at all."""
    return asyncio.run(try_all(client))


async def try_all(client: Client) -> Abilities:
    """As `abilities`."""
    async with client.session() as session:
        model = await model_card(client, session)
        tried, reference = [], None
        for kind in (Kind.ECHO, Kind.READ, Kind.SUFFIX):
            found, ability = await try_one(client, session, kind, reference)
            reference = reference or found
            tried.append(ability)
        try:
            version = str((await client.get(session, "/version"))["version"])
        except (aiohttp.ClientError, TimeoutError, RefusedError, BadAnswerError, KeyError, TypeError):
            version = "unknown"
    return Abilities(version, int(model.get("max_model_len") or 0), tuple(tried[::-1]))


async def model_card(client: Client, session: aiohttp.ClientSession) -> dict[str, Any]:
    """What the server says of the model; raises PrerequisiteError with the names that it does serve."""
    try:
        served = {each["id"]: each for each in (await client.get(session, "/v1/models"))["data"]}
    except (aiohttp.ClientError, TimeoutError, RefusedError, BadAnswerError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise PrerequisiteError(f"No OpenAI-compatible server answers at {client.root}/v1/models ({what}).") from error
    client.model = client.model or next(iter(served), "")
    if client.model not in served:
        raise PrerequisiteError(f"{client.root} serves {', '.join(served) or 'no model'}, not {client.model!r}.")
    return dict(served[client.model])


def questions_of(kind: Kind) -> list[list[Ask]]:
    """Two continuations of one context, the same for every kind; whoever comes second finds the context cached."""
    source = random.Random(20261121)
    context = tuple(source.choices(TOKEN_IDS, k=CONTEXT_TOKENS))
    asked = []
    for _ in range(2):
        whole = context + tuple(source.choices(TOKEN_IDS, k=CONTINUATION_TOKENS))
        if kind is Kind.READ:
            asked.append([Ask(kind, whole, at, (whole[at],)) for at in range(CONTEXT_TOKENS, len(whole))])
        else:
            asked.append([Ask(kind, whole, CONTEXT_TOKENS)])
    return asked


async def try_one(
    client: Client, session: aiohttp.ClientSession, kind: Kind, reference: list[float] | None
) -> tuple[list[float] | None, Ability]:
    """The log-probabilities that one way finds, and what to think of it."""
    found: list[float] = []
    salt = fresh_salt()
    trouble = ""
    try:
        for asks in questions_of(kind):
            answers = await asyncio.gather(*(client.score_call(session, [ask], salt) for ask in asks))
            found += logliks_of(asks[0].whole, [scored for (scored,) in answers])
        if kind is Kind.SUFFIX and not await patiently(partial(marks_cached_rows, client, session, asks, salt)):
            trouble = "It does not mark the scores that it has not computed, or caches no prefixes."
    except ServerFailedError as error:
        trouble = str(error)[:200]
    if trouble:
        return None, Ability(kind, f"{trouble} ({HINTS[kind]})")
    difference = max((abs(one - other) for one, other in zip(found, reference or found, strict=True)), default=0.0)
    if difference > AGREEMENT:
        trouble = f"its answers differ by {difference:.2f} from those of the slower way"
    return found, Ability(kind, trouble, difference)


async def marks_cached_rows(client: Client, session: aiohttp.ClientSession, asks: list[Ask], salt: str) -> bool:
    """Whether a prompt asked before has the rows of its cached tokens marked, or left out."""
    way = WAYS[Kind.SUFFIX]
    answer = await client.post(session, way.path, way.payload(client.model, asks, salt))
    try:
        rows = answer["prompt_logprobs"]
        return len(rows) < len(asks[0].whole) or is_marked(rows[1])
    except (KeyError, IndexError, TypeError) as error:
        raise BadAnswerError(f"The server's answer cannot be read: {error!r}") from error


def logliks_of(whole: tuple[int, ...], scored: list[Scored]) -> list[float]:
    """The continuation's log-probabilities, token by token."""
    positions = {at: value for each in scored for at, value in each.positions.items()}
    return [positions[at][0][whole[at]] for at in sorted(positions)]
