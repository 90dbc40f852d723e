"""Batches: which prompts travel together, what the request looks like, and which answers are refused."""

import asyncio
import math
from typing import Any

import pytest

from quantgate.components.servers import client
from quantgate.components.servers.client import RefusedError, ServerFailedError, with_retries
from quantgate.components.servers.scoring_requests import Ask, Kind, Question, plan
from quantgate.components.servers.scoring_ways import TOKENS_PER_BATCH, WAYS, BadAnswerError, batches, score

BATCH = frozenset({Kind.BATCH})
WAY = WAYS[Kind.BATCH]


def asks(
    *contexts: tuple[int, ...], choices: tuple[tuple[int, ...], ...] = ((1, 2, 6), (1, 3, 4, 8), (5,))
) -> list[Ask]:
    """The planned asks of these choices after each context."""
    return plan([Question(context + choice, len(context)) for context in contexts for choice in choices], BATCH)


def test_a_batch_sends_a_context_once_and_a_read_before_the_suffixes() -> None:
    context = tuple(range(100, 300))
    ((way, batch),) = batches(asks(context))
    assert way is WAY
    assert way.payload("model", batch, "salt") == {
        "contexts": [
            {
                "tokens": list(context),
                "prompts": [
                    {"tokens": [], "ids": [1, 5]},
                    {"tokens": [1, 3, 4, 8], "start": 201},
                    {"tokens": [1, 2, 6], "start": 201},
                ],
            }
        ],
        "cache_salt": "salt",
    }


def test_single_tokens_are_read_after_each_of_several_contexts_in_one_batch() -> None:
    shots = tuple(range(1000, 1200))
    ((way, batch),) = batches(asks((*shots, 7), (*shots, 8), choices=((1,), (2,))))
    contexts = way.payload("model", batch, "salt")["contexts"]
    assert [context["tokens"][-1] for context in contexts] == [7, 8]
    assert [context["prompts"] for context in contexts] == [[{"tokens": [], "ids": [1, 2]}]] * 2


def test_a_batch_ends_with_a_context_and_counts_only_the_tokens_that_no_context_before_it_has() -> None:
    apart = [tuple(range(first, first + TOKENS_PER_BATCH)) for first in (1000, 3000)]
    assert [len(batch) for _, batch in batches(asks(*apart))] == [3, 3]
    shots = tuple(range(1000, 1000 + TOKENS_PER_BATCH - 10))
    together = [(*shots, *range(first, first + 5)) for first in range(1, 91, 10)]
    assert [len(batch) for _, batch in batches(asks(*together, choices=((1,), (2,))))] == [2, 7]


def test_windows_over_documents_that_share_their_first_token_travel_apart() -> None:
    documents = tuple((number, *range(100, 100 + TOKENS_PER_BATCH)) for number in (1, 2, 3))
    planned = list(batches(asks((9,), choices=documents)))
    assert [len(batch) for _, batch in planned] == [1, 1, 1]
    assert all(ask.context == (9,) for _, (ask,) in planned)


def test_the_scores_of_a_batch_belong_to_the_prompts_positions_and_tokens() -> None:
    batch = asks((9,) * 200)
    long, short = [[-3.0, -3.0], [-4.0, -0.1], [-0.3, -0.3]], [[-5.0, -0.2], [-6.0, -0.2]]
    scores = score(WAY, batch, {"scores": [[[-1.0, -2.0, -0.5]], long, short]})
    assert [scored.positions for scored in scores] == [
        {200: ({1: -1.0, 5: -2.0}, -0.5)},
        {201: ({3: -3.0}, -3.0), 202: ({4: -4.0}, -0.1), 203: ({8: -0.3}, -0.3)},
        {201: ({2: -5.0}, -0.2), 202: ({6: -6.0}, -0.2)},
    ]


@pytest.mark.parametrize(
    ("scores", "trouble"),
    [
        ([[[-1.0, -2.0, -0.5]]], "scored 1 prompts where 2 were sent"),
        ([[[-1.0, -0.5]], [[-1.0, -1.0]]], "cannot be read"),  # one token of two
        ([[[-1.0, -2.0, -0.5]], []], "cannot be read"),
        ([[[-1.0, -2.0, -0.5]], [[-1.0, -1.0]] * 2], "cannot be read"),
        ([[[-1.0, -2.0, -0.5]], [[math.nan, -1.0]]], "nan as a log-probability"),
        ([[[-1.0, 2.0, -0.5]], [[-1.0, -1.0]]], "2.0 as a log-probability"),
        ([[[-1.0, None, -0.5]], [[-1.0, -1.0]]], "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_an_incomplete_or_impossible_score_of_a_batch_is_refused(scores: Any, trouble: str) -> None:
    batch = [Ask(Kind.READ, (4, 5), 1, (5, 6)), Ask(Kind.SUFFIX, (4, 5, 6), 2)]
    with pytest.raises(BadAnswerError, match=trouble):
        score(WAY, batch, {"scores": scores})


@pytest.mark.parametrize(
    ("status", "failures", "attempts"), [(500, 0, 1), (500, 2, 3), (500, 99, client.ATTEMPTS), (400, 99, 1)]
)
def test_a_call_is_repeated_after_a_temporary_failure_only_and_within_limits(
    monkeypatch: pytest.MonkeyPatch, status: int, failures: int, attempts: int
) -> None:
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0)
    calls = []

    async def once() -> str:
        calls.append(1)
        if len(calls) <= failures:
            raise RefusedError(status, "out of memory")
        return "answer"

    if attempts <= failures:
        with pytest.raises(ServerFailedError, match=f"HTTP {status}: out of memory"):
            asyncio.run(with_retries(once))
    else:
        assert asyncio.run(with_retries(once)) == "answer"
    assert len(calls) == attempts
