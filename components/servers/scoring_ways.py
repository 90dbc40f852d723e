"""The three ways to put asks to a server: what is sent where, and how the log-probabilities are read from the answer.

Each way turns asks into one HTTP call and the call's answer into one `Scored` an ask; it raises BadAnswerError where a
number is missing, is not finite, or may not be trusted, so that nothing is ever guessed. A salt parts the prefix cache:
calls of one salt find there what others of that salt have left, and nothing else.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from components.servers.scoring_requests import Ask, Kind, Scored

PROMPTS_PER_CALL = 8
GREEDY = {"temperature": 0, "max_tokens": 1, "seed": 1234}

NOT_COMPUTED = "-1"
"""The token id by which `components/servers/vllm_plugin` marks the rows of cached tokens."""


class BadAnswerError(ValueError):
    """The server answered, but not with the log-probabilities that were asked for."""


@dataclass(frozen=True)
class Way:
    """One kind of ask, as vLLM's API speaks it."""

    path: str
    """Under the server's root."""
    payload: Callable[[str, list[Ask], str], dict[str, Any]]
    """The body of the call for a served model's name, asks that may share a call, and the prefix cache's salt."""
    scored: Callable[[list[Ask], Any], list[Scored]]
    """The asks' answers from the body of the response."""
    per_call: int = 1


def calls(asks: Sequence[Ask]) -> Iterator[list[Ask]]:
    """The asks in their order, gathered to HTTP calls: those of a call share every parameter but the prompt."""
    for (kind, _ids), group in groupby(asks, key=lambda ask: (ask.kind, ask.ids)):
        members = list(group)
        for first in range(0, len(members), WAYS[kind].per_call):
            yield members[first : first + WAYS[kind].per_call]


def read_payload(model: str, asks: list[Ask], salt: str) -> dict[str, Any]:
    """Many prompts, one next token each; beside its log-probability those of the ids that are asked for."""
    return GREEDY | {
        "model": model,
        "prompt": [list(ask.tokens) for ask in asks],
        "logprobs": 1,
        "logprob_token_ids": list(asks[0].ids),
        "return_tokens_as_token_ids": True,
        "cache_salt": salt,
    }


def read_scored(asks: list[Ask], answer: Any) -> list[Scored]:
    """Of each choice the log-probabilities by token id; the greedy token's is the best."""
    found = []
    for ask, choice in zip(asks, in_order(answer, len(asks)), strict=True):
        logprobs = choice["logprobs"]
        given = {int(name.removeprefix("token_id:")): value for name, value in logprobs["top_logprobs"][0].items()}
        logliks = {token: finite(given[token]) for token in ask.ids}
        found.append(Scored({ask.start: (logliks, finite(logprobs["token_logprobs"][0]))}))
    return found


def suffix_payload(model: str, asks: list[Ask], salt: str) -> dict[str, Any]:
    """One prompt whose own tokens are scored; those that the cache holds are not computed again."""
    (ask,) = asks
    scoring = {"prompt_logprobs": 1, "skip_reading_prefix_cache": False, "detokenize": False}
    params = GREEDY | scoring
    return {"model": model, "token_ids": list(ask.tokens), "sampling_params": params, "cache_salt": salt}


def suffix_scored(asks: list[Ask], answer: Any) -> list[Scored]:
    """The prompt's own log-probabilities from `start` on, which the server must have computed in this call.

    Position p is scored by computing token p - 1. A server returns no score for a token from the prefix cache: our
    plugin of vLLM marks its row, and vLLM's second model runner, the default on GPUs, leaves the row out, so that the
    rows it returns are those of the prompt's end. Under a salt of its own a prompt has no cached token.
    """
    (ask,) = asks
    rows = answer["prompt_logprobs"]
    left_out = len(ask.whole) - len(rows)
    if left_out < 0 or not rows:
        raise BadAnswerError(f"The server scored {len(rows)} tokens where {len(ask.whole)} were asked for.")
    if ask.start <= left_out or is_marked(rows[ask.start - left_out]):
        raise BadAnswerError(f"Token {ask.start - 1} came from the prefix cache, which holds no score of the next one.")
    # each row names its own token, so rows that do not belong to the prompt's end are noticed
    first = left_out + 1 if left_out else ask.start
    scored = {at: row_scored(rows[at - left_out], ask.whole[at]) for at in range(first, len(ask.whole))}
    return [Scored({at: scored[at] for at in range(ask.start, len(ask.whole))})]


def is_marked(row: dict[str, Any]) -> bool:
    """Whether the server says that it has not computed this row."""
    return NOT_COMPUTED in row


def row_scored(row: dict[str, Any], token: int) -> tuple[dict[int, float], float]:
    """One prompt token's log-probability and the likeliest token's."""
    logliks = {int(name): finite(entry["logprob"]) for name, entry in row.items()}
    return {token: logliks[token]}, max(logliks.values())


def echo_payload(model: str, asks: list[Ask], _salt: str) -> dict[str, Any]:
    """As lm-eval's local-completions asks."""
    return GREEDY | {"model": model, "prompt": [list(ask.tokens) for ask in asks], "logprobs": 1, "echo": True}


def echo_scored(asks: list[Ask], answer: Any) -> list[Scored]:
    """As lm-eval's local-completions reads: the log-probabilities of all tokens of the prompt and of one more."""
    found = []
    for ask, choice in zip(asks, in_order(answer, len(asks)), strict=True):
        own, top = choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]
        if not len(own) == len(top) == len(ask.whole) + GREEDY["max_tokens"]:
            raise BadAnswerError(f"The server scored {len(own)} tokens where {len(ask.whole) + 1} were asked for.")
        found.append(
            Scored(
                {
                    at: ({ask.whole[at]: finite(own[at])}, max(map(finite, top[at].values())))
                    for at in range(ask.start, len(ask.whole))
                }
            )
        )
    return found


def in_order(answer: Any, count: int) -> list[Any]:
    """The choices by their index; raises BadAnswerError unless each prompt has one."""
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    if [choice["index"] for choice in choices] != list(range(count)):
        raise BadAnswerError(f"The server answered {len(choices)} prompts where {count} were asked.")
    return choices


def finite(value: Any) -> float:
    """The log-probability; raises BadAnswerError for what cannot be one."""
    number = float(value)
    if not math.isfinite(number) or number > 1e-3:
        raise BadAnswerError(f"The server gave {value!r} as a log-probability.")
    return number


WAYS = {
    Kind.READ: Way("/v1/completions", read_payload, read_scored, PROMPTS_PER_CALL),
    Kind.SUFFIX: Way("/inference/v1/generate", suffix_payload, suffix_scored),
    Kind.ECHO: Way("/v1/completions", echo_payload, echo_scored),
}


def score(way: Way, asks: list[Ask], answer: Any) -> list[Scored]:
    """`Way.scored`, with every shape that cannot be read as a BadAnswerError."""
    try:
        return way.scored(asks, answer)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BadAnswerError):
            raise
        raise BadAnswerError(f"The server's answer cannot be read: {error!r} in {str(answer)[:300]}") from error
