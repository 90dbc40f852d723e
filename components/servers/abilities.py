"""Find out which ways of scoring a server offers: each way scores the same tokens, and the scores are compared."""

import asyncio
import random
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.prompt_settings import NEUTRAL_ON_LLAMA_CPP, NEUTRAL_ON_VLLM
from quantgate.components.run.server_identity import LLAMA_CPP
from quantgate.components.servers.access import key_hint
from quantgate.components.servers.client import Client, RefusedError, ServerFailedError, fresh_salt, with_retries
from quantgate.components.servers.scoring_requests import OF_VLLM, Ask, Kind, Scored
from quantgate.components.servers.scoring_ways import WAYS, BadAnswerError, is_marked

CONTEXT_TOKENS = 132
CONTINUATION_TOKENS = 6
"""The continuation ends in the block of the prefix cache (16 tokens or more) in which it begins: no scored token is
in a cached block."""
TOKEN_IDS = range(10, 200)
"""Ids that every vocabulary of a language model has."""
AGREEMENT = 0.5
"""In natural log units for each token. 16-bit kernels differ by about 0.1; a wrong token or position by much more."""
UNKNOWN = "unknown"
"""The version of a server that has no /version, as vLLM has."""

WHAT = {
    Kind.BATCH: "scores all continuations of a context in one request",
    Kind.SUFFIX: "scores a continuation in one request, its context from the prefix cache",
    Kind.READ: "scores named tokens after a prompt, the prompt from the prefix cache",
    Kind.ECHO: "scores whole prompts, nothing from the prefix cache",
    Kind.FORCED: "scores one token after a prompt by generating it",
}
PLUGIN = (
    "quantgate's plugin: on a cluster the image of manifests/images/vllm.Containerfile, elsewhere "
    "components/servers/vllm_plugin on vLLM's PYTHONPATH"
)
HINTS = {
    Kind.BATCH: f"this needs vLLM 0.32 and {PLUGIN}",
    Kind.SUFFIX: f"this needs vLLM with --enable-scale-out (0.30 on) and {PLUGIN}",
    Kind.READ: "this needs vLLM's logprob_token_ids",
    Kind.ECHO: "this needs `echo` with `logprobs` on /v1/completions",
    Kind.FORCED: "this needs llama.cpp's `logit_bias` and `logprobs` on /v1/completions",
}
OWNED_BY_LLAMA_CPP = "llamacpp"
"""What llama.cpp's server calls the owner of its model."""
NOT_LLAMA_CPPS = "llama.cpp does not offer it"


@dataclass(frozen=True)
class Ability:
    """The result of trying one way."""

    kind: Kind
    trouble: str
    """Why the way cannot be used; "" when it can."""
    difference: float = 0.0
    """Largest difference of a token's log-probability from that of the slowest usable way."""


@dataclass(frozen=True)
class Abilities:
    """A server's version, its window, and the results of trying each way."""

    version: str
    """E.g. `0.32.0`; `unknown` where the server does not say it."""
    max_model_len: int
    """The limit of tokens for a prompt and its answer together; 0 when the server does not report it."""
    tried: tuple[Ability, ...]
    package: str = "vLLM"
    """The engine: vLLM, or another server that speaks its API; or llama.cpp."""

    @property
    def neutral(self) -> dict[str, int]:
        """The neutral values for this server beyond those of every request."""
        if self.package == LLAMA_CPP:
            return NEUTRAL_ON_LLAMA_CPP
        return NEUTRAL_ON_VLLM if self.version != UNKNOWN else {}

    @property
    def kinds(self) -> frozenset[Kind]:
        """The ways to use; raises PrerequisiteError when there is none."""
        usable = frozenset(ability.kind for ability in self.tried if not ability.trouble)
        if not usable:
            reasons = "\n".join(f"  {ability.kind}: {ability.trouble}" for ability in self.tried)
            raise PrerequisiteError(f"The server offers none of the ways to score prompts:\n{reasons}")
        return usable

    @property
    def why_slow(self) -> str:
        """Which ways score prompts in place of the fastest one, and why; "" when the fastest one can be used."""
        fastest = next(ability for ability in self.tried if ability.kind is Kind.BATCH)
        usable = " and ".join(ability.kind for ability in self.tried if not ability.trouble)
        return fastest.trouble and f"scored more slowly, with {usable} and not {Kind.BATCH}: {fastest.trouble}"


def abilities(client: Client) -> Abilities:
    """Try every way on the server; raises PrerequisiteError when it does not serve the model at all."""
    return asyncio.run(try_all(client))


async def try_all(client: Client) -> Abilities:
    """The coroutine of `abilities`."""
    async with client.session() as session:
        model = await model_card(client, session)
        if model.get("owned_by") == OWNED_BY_LLAMA_CPP:
            return await try_llama_cpp(client, session, model)
        tried, reference = [], None
        for kind in reversed(OF_VLLM):
            logliks, ability = await try_way(client, session, kind, reference)
            reference = reference or logliks
            tried.append(ability)
        try:
            version = str((await client.get(session, "/version"))["version"])
        except (aiohttp.ClientError, TimeoutError, RefusedError, BadAnswerError, KeyError, TypeError):
            version = UNKNOWN
    return Abilities(version, int(model.get("max_model_len") or 0), tuple(tried[::-1]))


async def try_llama_cpp(client: Client, session: aiohttp.ClientSession, model: dict[str, Any]) -> Abilities:
    """The abilities of llama.cpp's server, which ignores what the other ways need."""
    _, forced = await try_way(client, session, Kind.FORCED, None)
    others = (Ability(kind, NOT_LLAMA_CPPS) for kind in OF_VLLM)
    try:
        properties = await client.get(session, "/props")
        build, slots = str(properties["build_info"]), int(properties["total_slots"])
    except (aiohttp.ClientError, TimeoutError, RefusedError, BadAnswerError, KeyError, TypeError, ValueError):
        build, slots = UNKNOWN, 1
    client.concurrency = min(client.concurrency, slots + 1)  # more would wait in its queue, until their timeout
    window = int((model.get("meta") or {}).get("n_ctx") or 0)
    return Abilities(build, window, (forced, *others), LLAMA_CPP)


async def model_card(client: Client, session: aiohttp.ClientSession) -> dict[str, Any]:
    """The model's entry in /v1/models; raises PrerequisiteError with the served names when it is missing."""
    try:
        served = {model["id"]: model for model in (await client.get(session, "/v1/models"))["data"]}
    except RefusedError as error:
        if hint := key_hint(error.status):
            raise PrerequisiteError(f"{client.root}: {hint} (HTTP {error.status}).") from error
        raise PrerequisiteError(f"{client.root}/v1/models answers with an error: {error}") from error
    except (aiohttp.ClientError, TimeoutError, BadAnswerError, KeyError, TypeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise PrerequisiteError(f"No OpenAI-compatible server answers at {client.root}/v1/models ({cause}).") from error
    client.model = client.model or next(iter(served), "")
    if client.model not in served:
        raise PrerequisiteError(f"{client.root} serves {', '.join(served) or 'no model'}, not {client.model!r}.")
    card = dict(served[client.model])
    if card.get("owned_by") == OWNED_BY_LLAMA_CPP:
        client.neutral = NEUTRAL_ON_LLAMA_CPP
    return card


def probes(kind: Kind) -> list[list[list[Ask]]]:
    """The calls for each of two continuations of one context, the same for every kind.

    The second continuation finds the context in the prefix cache.
    """
    source = random.Random(20261121)
    context = tuple(source.choices(TOKEN_IDS, k=CONTEXT_TOKENS))
    calls = []
    for _ in range(2):
        whole = context + tuple(source.choices(TOKEN_IDS, k=CONTINUATION_TOKENS))
        if kind in (Kind.READ, Kind.FORCED):
            calls.append([[Ask(kind, whole, at, (whole[at],))] for at in range(CONTEXT_TOKENS, len(whole))])
        elif kind is Kind.BATCH:
            read = Ask(Kind.READ, whole, CONTEXT_TOKENS, (whole[CONTEXT_TOKENS],), context=context)
            calls.append([[read, Ask(Kind.SUFFIX, whole, CONTEXT_TOKENS + 1, context=context)]])
        else:
            calls.append([[Ask(kind, whole, CONTEXT_TOKENS)]])
    return calls


async def try_way(
    client: Client, session: aiohttp.ClientSession, kind: Kind, reference: list[float] | None
) -> tuple[list[float] | None, Ability]:
    """The log-probabilities that one way returns (None when it fails), and whether the way can be used."""
    logliks: list[float] = []
    salt = fresh_salt()
    trouble = ""
    try:
        for calls in probes(kind):
            logliks += await scores_of(client, session, kind, calls, salt)
        check = CHECKS.get(kind)
        if check and not await with_retries(partial(check, client, session, calls[0][-1].whole, salt)):
            trouble = "The server does not mark scores that it has not computed, or it caches no prefixes."
    except ServerFailedError as error:
        trouble = str(error)[:200]
    if trouble:
        return None, Ability(kind, f"{trouble} ({HINTS[kind]})")
    pairs = zip(logliks, reference or logliks, strict=True)
    difference = max((abs(loglik - expected) for loglik, expected in pairs), default=0.0)
    if difference > AGREEMENT:
        trouble = f"its scores differ by {difference:.2f} from those of the slower way"
    return logliks, Ability(kind, trouble, difference)


async def scores_of(
    client: Client, session: aiohttp.ClientSession, kind: Kind, calls: list[list[Ask]], salt: str
) -> list[float]:
    """The log-probabilities of a continuation, token by token, from all of its calls."""
    answers = await asyncio.gather(*(client.score_call(session, WAYS[kind], asks, salt) for asks in calls))
    return logliks_of(calls[0][0].whole, [scored for answer in answers for scored in answer])


async def marks_cached_rows(client: Client, session: aiohttp.ClientSession, cached: tuple[int, ...], salt: str) -> bool:
    """Whether the server marks or leaves out the rows of cached tokens, for a prompt that it has cached."""
    way = WAYS[Kind.SUFFIX]
    answer = await client.post(session, way.path, way.payload(client.model, [Ask(Kind.SUFFIX, cached, 1)], salt))
    try:
        rows = answer["prompt_logprobs"]
        return len(rows) < len(cached) or is_marked(rows[1])
    except (KeyError, IndexError, TypeError) as error:
        raise BadAnswerError(f"The server's answer cannot be read: {error!r}") from error


async def computes_cached_rows(
    client: Client, session: aiohttp.ClientSession, cached: tuple[int, ...], salt: str
) -> bool:
    """Whether the server computes a prompt again, of whose tokens it has cached some that are to be scored."""
    way = WAYS[Kind.BATCH]
    answer = await client.post(session, way.path, way.payload(client.model, [Ask(Kind.SUFFIX, cached, 1)], salt))
    try:
        return int(answer["computed_again"]) == 1
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswerError(f"The server's answer cannot be read: {error!r}") from error


CHECKS = {Kind.SUFFIX: marks_cached_rows, Kind.BATCH: computes_cached_rows}
"""How a way whose scores the prefix cache can spoil shows that it notices."""


def logliks_of(whole: tuple[int, ...], scored: list[Scored]) -> list[float]:
    """The continuation's log-probabilities, token by token."""
    positions = {at: value for answer in scored for at, value in answer.positions.items()}
    return [positions[at][0][whole[at]] for at in sorted(positions)]
