"""The plan of what to ask: every position once, in the trie's order, by the kinds that the server offers."""

import math
import random

import pytest

from quantgate.components.servers.scoring_requests import (
    BATCHED,
    OF_VLLM,
    Ask,
    Kind,
    Loglik,
    Question,
    Scored,
    Tally,
    plan,
    shared,
    trie_size,
)

ALL = frozenset(OF_VLLM)
CONTEXT = tuple(range(100, 1000))


def model(prefix: tuple[int, ...], token: int) -> float:
    """A made-up model: a log-probability that depends on the whole prefix."""
    return -1 - random.Random(hash((prefix, token))).random()


def best(prefix: tuple[int, ...]) -> float:
    """The likeliest token's: what the model gives to token 7."""
    return max(model(prefix, token) for token in range(10))


def answer(ask: Ask) -> Scored:
    """What a server that runs the model answers."""
    if ask.kind in (Kind.READ, Kind.FORCED):
        prefix = ask.tokens
        return Scored({ask.start: ({token: model(prefix, token) for token in ask.ids}, best(prefix))})
    return Scored(
        {
            at: ({ask.whole[at]: model(ask.whole[:at], ask.whole[at])}, best(ask.whole[:at]))
            for at in range(ask.start, len(ask.whole))
        }
    )


def run(questions: list[Question], kinds: frozenset[Kind]) -> tuple[list[Ask], dict[int, Loglik]]:
    """Plan, answer in the plan's order, and put together."""
    asks = plan(questions, kinds)
    tally = Tally(questions)
    return asks, dict(done for ask in asks for done in tally.add(ask, answer(ask)))


def expected(question: Question) -> Loglik:
    """The answer, straight from the definition."""
    positions = range(question.start, len(question.tokens))
    logliks = [model(question.tokens[:at], question.tokens[at]) for at in positions]
    return Loglik(
        math.fsum(logliks),
        all(loglik >= best(question.tokens[:at]) for at, loglik in zip(positions, logliks, strict=True)),
    )


def random_questions(seed: int) -> list[Question]:
    """Questions over few tokens, so that they share prefixes, contain one another and begin at different places."""
    source = random.Random(seed)
    distinct = set()
    for _ in range(60):
        tokens = tuple(source.choices(range(3), k=source.randint(2, 9)))
        distinct.add(Question(tokens, source.randint(1, len(tokens) - 1)))
    return sorted(distinct, key=lambda _: source.random())


@pytest.mark.parametrize("kinds", [ALL, *(frozenset({kind}) for kind in Kind), frozenset({Kind.READ, Kind.ECHO})])
@pytest.mark.parametrize("context", [(), CONTEXT[:200]], ids=["short", "long"])
@pytest.mark.parametrize("seed", range(5))
def test_every_request_is_answered_correctly_for_any_server_abilities(
    kinds: frozenset[Kind], seed: int, context: tuple[int, ...]
) -> None:
    questions = [
        Question(context + question.tokens, len(context) + question.start) for question in random_questions(seed)
    ]
    asks, answers = run(questions, kinds)
    assert answers == {number: expected(question) for number, question in enumerate(questions)}
    assert {ask.kind for ask in asks} <= (BATCHED if Kind.BATCH in kinds else kinds)
    wanted = [pair for ask in asks for pair in ask.wanted]
    assert len(wanted) == len(set(wanted)) == sum(len(question.tokens) - question.start for question in questions)


def test_single_token_choices_are_one_request() -> None:
    questions = [Question((*CONTEXT, letter), len(CONTEXT)) for letter in (5, 3, 9, 7)]
    (ask,) = plan(questions, ALL)
    assert (ask.kind, ask.tokens, ask.ids) == (Kind.READ, CONTEXT, (3, 5, 7, 9))


def test_longer_choices_are_one_suffix_each_except_a_prefix_of_another_choice() -> None:
    choices = [(1, 2, 3), (1, 2), (1, 4, 5), (6, 7, 8)]
    questions = [Question(CONTEXT + choice, len(CONTEXT)) for choice in choices]
    asks = plan(questions, ALL)
    read, *suffixes = asks
    assert (read.kind, read.tokens, read.ids) == (Kind.READ, CONTEXT, (1, 6))
    assert [ask.whole[len(CONTEXT) :] for ask in suffixes] == [(6, 7, 8), (1, 4, 5), (1, 2, 3)]
    assert {ask.kind for ask in suffixes} == {Kind.SUFFIX}
    assert [ask.start - len(CONTEXT) for ask in suffixes] == [1, 1, 1], "the first position was read"


def test_a_short_context_is_scored_with_its_first_suffix() -> None:
    questions = [Question(CONTEXT[:127] + choice, 127) for choice in ((1, 2, 3), (4, 5, 6))]
    assert [ask.kind for ask in plan(questions, ALL)] == [Kind.SUFFIX] * 2
    longer = [Question(CONTEXT[:128] + choice, 128) for choice in ((1, 2, 3), (4, 5, 6))]
    assert [ask.kind for ask in plan(longer, ALL)] == [Kind.READ, Kind.SUFFIX, Kind.SUFFIX]


def test_a_suffix_requests_no_score_for_tokens_that_an_earlier_one_cached() -> None:
    choices = [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 6)]
    asks = plan([Question(CONTEXT + choice, len(CONTEXT)) for choice in choices], frozenset({Kind.SUFFIX}))
    seen: list[tuple[int, ...]] = []
    for ask in asks:
        assert ask.start == max([len(CONTEXT), *(shared(ask.whole, earlier) for earlier in seen)])
        seen.append(ask.whole)


def test_reads_share_the_common_positions_of_choices() -> None:
    choices = [(1, 2, 3), (1, 2, 4), (1, 5, 3)]
    asks = plan([Question(CONTEXT + choice, len(CONTEXT)) for choice in choices], frozenset({Kind.READ}))
    assert sorted((ask.tokens[len(CONTEXT) :], ask.ids) for ask in asks) == [
        ((), (1,)),
        ((1,), (2, 5)),
        ((1, 2), (3, 4)),
        ((1, 5), (3,)),
    ]


def test_without_suffixes_long_contexts_are_read_and_short_ones_echoed() -> None:
    kinds = frozenset({Kind.READ, Kind.ECHO})
    choices = [(1, 2, 3, 4), (5, 6, 7, 8)]
    long = plan([Question(CONTEXT + choice, len(CONTEXT)) for choice in choices], kinds)
    short = plan([Question(CONTEXT[:20] + choice, 20) for choice in choices], kinds)
    assert {ask.kind for ask in long} == {Kind.READ}
    assert {ask.kind for ask in short} == {Kind.ECHO}


def test_contexts_that_share_a_prefix_follow_one_another() -> None:
    contexts = [CONTEXT[:500] + tail for tail in ((1, 2), (9, 9), (1, 3), (9, 8))]
    questions = [Question(context + choice, len(context)) for choice in ((5, 6), (7, 8)) for context in contexts]
    ids = [ask.whole[500:502] for ask in plan(questions, frozenset({Kind.SUFFIX}))]
    assert ids == [(1, 2), (1, 2), (1, 3), (1, 3), (9, 8), (9, 8), (9, 9), (9, 9)]


def test_a_tie_with_the_most_likely_token_counts_as_greedy() -> None:
    assert Scored({1: ({4: -0.5}, -0.5)}).at(1, 4) == (-0.5, True)
    assert Scored({1: ({4: -0.6}, -0.5)}).at(1, 4) == (-0.6, False)


@pytest.mark.parametrize("seed", range(5))
def test_the_trie_has_as_many_tokens_as_there_are_distinct_prefixes(seed: int) -> None:
    sequences = [question.tokens for question in random_questions(seed)]
    assert trie_size(sequences) == len(
        {sequence[:end] for sequence in sequences for end in range(1, len(sequence) + 1)}
    )


def test_shared_is_the_length_of_the_common_prefix() -> None:
    assert shared((), (1,)) == 0
    assert shared((1, 2, 3), (1, 2, 3)) == 3
    assert shared((1, 2, 3), (1, 2)) == 2
    assert shared(tuple(range(999)), (*range(500), 0, *range(501, 999))) == 500
    assert shared((0, 1), (1, 1)) == 0
