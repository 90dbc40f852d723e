"""The five ways to get log-probabilities from a server: the request of each way, and how its response is read.

A way puts asks into one HTTP call and reads one `Scored` for each ask from the response. It raises BadAnswerError when
a number is missing, not finite, or not reliable, so that no score is ever guessed. A salt divides the prefix cache: a
call finds only prefixes that calls with the same salt have cached.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from quantgate.components.servers.scoring_requests import Ask, Kind, Scored, Tokens, shared

PROMPTS_PER_CALL = 8
TOKENS_PER_BATCH = 512
"""A batch ends with the context with which the server has so many tokens to compute: one context of HellaSwag, or a few
questions of MMLU. So a slow server has no more to do for a call than for one generated answer."""
GREEDY = {"temperature": 0, "max_tokens": 1, "seed": 1234}

LEAST = -10_000.0
"""No log-probability is less: llama.cpp says -3.4e38 for a probability that is 0 in 32 bits."""
FORCED_BIAS = 10_000.0
"""Added to a token's logit before one is drawn: none other reaches it. The log-probabilities are those without."""

WHOLE_CHARACTER = "a"
MORE_THAN_ALL_TOKENS = 10_000_000

NOT_COMPUTED = "-1"
"""The token id with which `components/servers/vllm_plugin` marks the rows of cached tokens."""


class BadAnswerError(ValueError):
    """The server's answer does not contain the log-probabilities that were requested."""


class PartOfCharacterError(BadAnswerError):
    """The token is a part of a character, of which llama.cpp gives no log-probability when it is forced."""


@dataclass(frozen=True)
class Way:
    """One way of scoring in the API of vLLM or llama.cpp."""

    path: str
    """Below the server's root."""
    payload: Callable[[str, list[Ask], str], dict[str, Any]]
    """The request body, from the served model's name, the asks of the call, and the prefix cache's salt."""
    scored: Callable[[list[Ask], Any], list[Scored]]
    """Reads the asks' scores from the response body."""
    per_call: int = 1
    """The most asks in one call of `calls`."""


def calls(asks: Iterable[Ask]) -> Iterator[tuple[Way, list[Ask]]]:
    """The asks in their order, grouped into HTTP calls; the asks of a call share every parameter but the prompt."""
    for (kind, _ids), group in groupby(asks, key=lambda ask: (ask.kind, ask.ids)):
        while call := list(islice(group, WAYS[kind].per_call)):
            yield WAYS[kind], call


def batches(asks: Iterable[Ask]) -> Iterator[tuple[Way, list[Ask]]]:
    """The asks in their order, grouped into batches.

    The asks of one context are in the same batch, unless what follows the contexts alone fills it, as the windows over
    long documents do.
    """
    batch: list[Ask] = []
    context: Tokens = ()
    in_contexts = after_contexts = 0
    for ask in asks:
        if ask.context is not context:
            if in_contexts + after_contexts >= TOKENS_PER_BATCH:
                yield WAYS[Kind.BATCH], batch
                batch, in_contexts, after_contexts = [], 0, 0
            in_contexts += len(ask.context) - shared(context, ask.context)
            context = ask.context
        elif after_contexts >= TOKENS_PER_BATCH:
            yield WAYS[Kind.BATCH], batch
            batch, in_contexts, after_contexts = [], 0, 0
        batch.append(ask)
        after_contexts += len(ask.tokens) - len(context)
    if batch:
        yield WAYS[Kind.BATCH], batch


def read_payload(model: str, asks: list[Ask], salt: str) -> dict[str, Any]:
    """Several prompts with one next token each; the response has the log-probabilities of that token and of `ids`."""
    return GREEDY | {
        "model": model,
        "prompt": [list(ask.tokens) for ask in asks],
        "logprobs": 1,
        "logprob_token_ids": list(asks[0].ids),
        "return_tokens_as_token_ids": True,
        "cache_salt": salt,
    }


def read_scored(asks: list[Ask], answer: Any) -> list[Scored]:
    """Each choice's log-probabilities by token id; the greedy token has the highest."""
    scores = []
    for ask, choice in zip(asks, in_order(answer, len(asks)), strict=True):
        logprobs = choice["logprobs"]
        by_id = {int(name.removeprefix("token_id:")): value for name, value in logprobs["top_logprobs"][0].items()}
        logliks = {token: finite(by_id[token]) for token in ask.ids}
        scores.append(Scored({ask.start: (logliks, finite(logprobs["token_logprobs"][0]))}))
    return scores


def suffix_payload(model: str, asks: list[Ask], salt: str) -> dict[str, Any]:
    """One prompt whose own tokens are scored; cached tokens are not computed again."""
    (ask,) = asks
    scoring = {"prompt_logprobs": 1, "skip_reading_prefix_cache": False, "detokenize": False}
    params = GREEDY | scoring
    return {"model": model, "token_ids": list(ask.tokens), "sampling_params": params, "cache_salt": salt}


def suffix_scored(asks: list[Ask], answer: Any) -> list[Scored]:
    """The prompt's own log-probabilities from `start` on; raises BadAnswerError for one not computed in this call.

    Computing token p - 1 gives the score of position p. A server has no score for a token from the prefix cache. Our
    vLLM plugin leaves the rows of such tokens out, as does vLLM's second model runner, the default on GPUs: they return
    only the rows of the prompt's end. An older plugin marks the rows. A prompt with a fresh salt has no cached token.
    """
    (ask,) = asks
    rows = answer["prompt_logprobs"]
    left_out = len(ask.whole) - len(rows)
    if left_out < 0 or not rows:
        raise BadAnswerError(f"The server scored {len(rows)} tokens where {len(ask.whole)} were requested.")
    if ask.start <= left_out or is_marked(rows[ask.start - left_out]):
        raise BadAnswerError(f"Token {ask.start - 1} came from the prefix cache, which has no score of the next token.")
    # each row names its own token
    if left_out and any(str(ask.whole[at]) not in rows[at - left_out] for at in range(left_out + 1, len(ask.whole))):
        raise BadAnswerError(
            f"The server scored {len(rows)} tokens where {len(ask.whole)} were requested, not the prompt's last ones."
        )
    return [Scored({at: row_scored(rows[at - left_out], ask.whole[at]) for at in range(ask.start, len(ask.whole))})]


def is_marked(row: dict[str, Any]) -> bool:
    """Whether the plugin has marked this row as not computed."""
    return NOT_COMPUTED in row


def row_scored(row: dict[str, Any], token: int) -> tuple[dict[int, float], float]:
    """The log-probability of one prompt token, by its id, and that of the likeliest token."""
    logliks = {int(name): finite(entry["logprob"]) for name, entry in row.items()}
    return {token: logliks[token]}, max(logliks.values())


def echo_payload(model: str, asks: list[Ask], _salt: str) -> dict[str, Any]:
    """The request of lm-eval's local-completions."""
    return GREEDY | {"model": model, "prompt": [list(ask.tokens) for ask in asks], "logprobs": 1, "echo": True}


def echo_scored(asks: list[Ask], answer: Any) -> list[Scored]:
    """Read as lm-eval's local-completions does: the log-probabilities of all prompt tokens and one generated token."""
    scores = []
    for ask, choice in zip(asks, in_order(answer, len(asks)), strict=True):
        own, top = choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]
        if not len(own) == len(top) == len(ask.whole) + GREEDY["max_tokens"]:
            raise BadAnswerError(f"The server scored {len(own)} tokens where {len(ask.whole) + 1} were requested.")
        scores.append(
            Scored(
                {
                    at: ({ask.whole[at]: finite(own[at])}, max(map(finite, top[at].values())))
                    for at in range(ask.start, len(ask.whole))
                }
            )
        )
    return scores


def batch_payload(_model: str, asks: list[Ask], salt: str) -> dict[str, Any]:
    """Each context once, and what follows it in each of its prompts; our vLLM plugin answers it."""
    contexts = []
    for _, group in groupby(asks, key=lambda ask: id(ask.context)):
        of_context = list(group)
        context = of_context[0].context
        prompts = [
            {"tokens": list(ask.tokens[len(context) :])} | ({"ids": list(ask.ids)} if ask.ids else {"start": ask.start})
            for ask in of_context
        ]
        contexts.append({"tokens": list(context), "prompts": prompts})
    return {"contexts": contexts, "cache_salt": salt}


def batch_scored(asks: list[Ask], answer: Any) -> list[Scored]:
    """For each position of each prompt the requested tokens' log-probabilities, then that of the likeliest token."""
    if len(answer["scores"]) != len(asks):
        raise BadAnswerError(f"The server scored {len(answer['scores'])} prompts where {len(asks)} were sent.")
    scores = []
    for ask, rows in zip(asks, answer["scores"], strict=True):
        places = range(ask.start, ask.start + 1 if ask.ids else len(ask.whole))
        positions = {}
        for at, (*logliks, best) in zip(places, rows, strict=True):
            tokens = ask.ids or ask.whole[at : at + 1]
            positions[at] = dict(zip(tokens, map(finite, logliks), strict=True)), finite(best)
        scores.append(Scored(positions))
    return scores


def forced_payload(model: str, asks: list[Ask], _salt: str) -> dict[str, Any]:
    """One prompt after which the server must generate the token whose log-probability is asked for."""
    (ask,) = asks
    forced = {"logit_bias": [[ask.ids[0], FORCED_BIAS]], "logprobs": 1}
    return GREEDY | forced | {"model": model, "prompt": list(ask.tokens)}


def forced_scored(asks: list[Ask], answer: Any) -> list[Scored]:
    """The generated token's log-probability, and that of the likeliest one; raises BadAnswerError for another token."""
    (ask,), (choice,) = asks, answer["choices"]
    if choice["logprobs"] is None:
        raise PartOfCharacterError(f"The server gave no log-probability of token {ask.ids[0]}.")
    (generated,) = choice["logprobs"]["content"]
    if generated["id"] != ask.ids[0]:
        raise BadAnswerError(f"The server generated token {generated['id']} and not {ask.ids[0]}, which it was to.")
    best = finite(generated["top_logprobs"][0]["logprob"])
    return [Scored({ask.start: ({ask.ids[0]: finite(generated["logprob"])}, best)})]


def whole_vocabulary_payload(model: str, asks: list[Ask], salt: str) -> dict[str, Any]:
    """The same for a part of a character: a whole one is forced, and all tokens' log-probabilities come along."""
    all_tokens = {"logit_bias": [[WHOLE_CHARACTER, FORCED_BIAS]], "logprobs": MORE_THAN_ALL_TOKENS}
    return forced_payload(model, asks, salt) | all_tokens


def whole_vocabulary_scored(asks: list[Ask], answer: Any) -> list[Scored]:
    """The asked token's log-probability among those of all tokens, which are in descending order."""
    (ask,), (choice,) = asks, answer["choices"]
    (generated,) = choice["logprobs"]["content"]
    ranked = generated["top_logprobs"]
    loglik = next((entry["logprob"] for entry in ranked if entry["id"] == ask.ids[0]), None)
    if loglik is None:
        raise BadAnswerError(f"The server says nothing of token {ask.ids[0]}.")
    return [Scored({ask.start: ({ask.ids[0]: finite(loglik)}, finite(ranked[0]["logprob"]))})]


def in_order(answer: Any, count: int) -> list[Any]:
    """The choices, sorted by index; raises BadAnswerError unless each prompt has one."""
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    if [choice["index"] for choice in choices] != list(range(count)):
        raise BadAnswerError(f"The server answered {len(choices)} prompts where {count} were sent.")
    return choices


def finite(value: Any) -> float:
    """The value as a log-probability; raises BadAnswerError when it is not finite or above zero."""
    number = float(value)
    if not LEAST <= number <= 1e-3:  # also not a number
        raise BadAnswerError(f"The server gave {value!r} as a log-probability.")
    return number


WHOLE_VOCABULARY = Way("/v1/completions", whole_vocabulary_payload, whole_vocabulary_scored)
"""In place of Kind.FORCED for a part of a character: megabytes for one score, but few tokens are one."""
WAYS = {
    Kind.READ: Way("/v1/completions", read_payload, read_scored, PROMPTS_PER_CALL),
    Kind.SUFFIX: Way("/inference/v1/generate", suffix_payload, suffix_scored),
    Kind.ECHO: Way("/v1/completions", echo_payload, echo_scored),
    Kind.BATCH: Way("/v1/quantgate/score", batch_payload, batch_scored),
    Kind.FORCED: Way("/v1/completions", forced_payload, forced_scored),
}


def score(way: Way, asks: list[Ask], answer: Any) -> list[Scored]:
    """`Way.scored`; raises BadAnswerError for an answer of any other shape."""
    try:
        return way.scored(asks, answer)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BadAnswerError):
            raise
        raise BadAnswerError(f"The server's answer cannot be read: {error!r} in {str(answer)[:300]}") from error
