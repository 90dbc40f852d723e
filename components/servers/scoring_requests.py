"""Plan a task's log-likelihood questions before the first is sent, so that nothing is computed or asked twice.

A question wants, for each token of a continuation, its log-probability after everything before it: a *position*.
Sorted by their token ids the questions lie in the order in which a trie of all of them is walked: those that share a
prefix are neighbours, so the server's prefix cache is warm when it is needed, and a position that several questions
share is met in a row and asked once. How a position is asked depends on what the server can (`abilities.py`):

    read     the prompt ends before the position; log-probabilities of named token ids come with the next token
    suffix   the whole question is the prompt; its own tokens are scored from the cached prefix on
    echo     the whole question is the prompt; all its tokens are scored, nothing is taken from the cache
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby

Tokens = tuple[int, ...]

READ_COST = 32
"""Prompt tokens that one read is worth: what it computes anew (half a block of the cache) and the request itself."""
ECHO_COST = 2
"""What one echoed prompt token is worth against one that is only computed: it takes the logits of every position."""
IDS_PER_READ = 128
"""vLLM's limit on the token ids of one request."""


class Kind(StrEnum):
    """How an ask is put to the server."""

    READ = "read"
    SUFFIX = "suffix"
    ECHO = "echo"


@dataclass(frozen=True, slots=True)
class Question:
    """A continuation whose log-likelihood is wanted."""

    tokens: Tokens
    """Context and continuation."""
    start: int
    """Index of the continuation's first token; at least 1, as nothing predicts the first token of a prompt."""


@dataclass(eq=False, slots=True)
class Ask:
    """One prompt for the server, and the positions that its answer serves."""

    kind: Kind
    whole: Tokens
    """A question's tokens: the prompt is their beginning."""
    start: int
    """The first position that is scored. A read scores no other; the prompt of a read ends before it."""
    ids: tuple[int, ...] = ()
    """Of a read: the token ids, ascending, whose log-probabilities are wanted."""
    wanted: list[tuple[int, int]] = field(default_factory=list)
    """(question, position) pairs that this answer serves."""

    @property
    def tokens(self) -> Tokens:
        """The prompt; cut when it is needed, as a benchmark's reads would fill the memory."""
        return self.whole[: self.start] if self.kind is Kind.READ else self.whole


@dataclass(frozen=True, slots=True)
class Loglik:
    """What lm-eval wants to know of a continuation."""

    loglik: float
    """Sum of the tokens' natural log-probabilities."""
    greedy: bool
    """Whether each token was the likeliest one where it stands."""


def trie_size(sequences: Iterable[Tokens]) -> int:
    """Distinct tokens in the trie of the sequences: the least that any server has to compute."""
    size = 0
    previous: Tokens = ()
    for each in sorted(sequences):
        size += len(each) - shared(previous, each)
        previous = each
    return size


def shared(one: Tokens, other: Tokens) -> int:
    """Length of the common prefix."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    low, high = 0, length  # one[:low] == other[:low] and one[:high] != other[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def plan(questions: Sequence[Question], kinds: frozenset[Kind]) -> list[Ask]:
    """The asks, in the order to send them, that together answer all questions with the kinds that the server offers.

    `Question`s must differ. Every (question, position) is wanted of exactly one ask.
    """
    order = sorted(range(len(questions)), key=lambda each: questions[each].tokens)
    asks: list[Ask] = []
    for _context, group in groupby(order, key=lambda each: questions[each].tokens[: questions[each].start]):
        members = list(group)
        reads = reads_of(questions, members)
        wholes = wholes_of(questions, members, Kind.SUFFIX if Kind.SUFFIX in kinds else Kind.ECHO)
        asks += reads if prefers_reads(reads, wholes, kinds) else wholes
    return asks


def prefers_reads(reads: list[Ask], wholes: list[Ask], kinds: frozenset[Kind]) -> bool:
    """Whether to read the positions of one context one by one, rather than to ask its continuations as a whole."""
    if Kind.READ not in kinds or len(kinds) == 1:
        return Kind.READ in kinds
    if any(len(each.ids) > IDS_PER_READ for each in reads):
        return False
    if Kind.SUFFIX in kinds:
        return len(reads) <= len(wholes)
    return READ_COST * len(reads) + reads[0].start < ECHO_COST * sum(len(each.whole) for each in wholes)


def reads_of(questions: Sequence[Question], members: list[int]) -> list[Ask]:
    """One read for every distinct position of the questions (sorted by their tokens)."""
    reads: list[Ask] = []
    path: dict[int, Ask] = {}  # position -> the read on the walk's present path
    previous: Tokens = ()
    for member in members:
        question = questions[member]
        common = shared(previous, question.tokens)
        path = {position: ask for position, ask in path.items() if position <= common}
        for position in range(question.start, len(question.tokens)):
            if position not in path:
                path[position] = Ask(Kind.READ, question.tokens, position)
                reads.append(path[position])
            path[position].wanted.append((member, position))
        previous = question.tokens
    for ask in reads:
        ask.ids = tuple(sorted({questions[member].tokens[position] for member, position in ask.wanted}))
    return reads


def wholes_of(questions: Sequence[Question], members: list[int], kind: Kind) -> list[Ask]:
    """An ask for every question that is not the beginning of another, in the order to send them.

    A position that several questions share belongs to the ask that is sent first: the prefix cache has it afterwards,
    and a cached token's score cannot be had.
    """
    asks: list[Ask] = []
    path: dict[int, Ask] = {}  # position -> the ask that scores it, on the walk's present path
    previous: Tokens = ()
    for member in reversed(members):
        question = questions[member]
        common = shared(previous, question.tokens)
        path = {position: ask for position, ask in path.items() if position < common}
        own = Ask(kind, question.tokens, question.start)
        for position in range(question.start, len(question.tokens)):
            path.setdefault(position, own).wanted.append((member, position))
        if own.wanted:
            asks.append(own)
            own.start = own.wanted[0][1]
        previous = question.tokens
    return asks


class Tally:
    """Puts the positions' log-probabilities together to the questions' answers as they arrive."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self.found: dict[int, dict[int, tuple[float, bool]]] = {}

    def add(self, ask: Ask, scored: "Scored") -> list[tuple[int, Loglik]]:
        """Take in an ask's answer; the questions, by number, that it completes."""
        done = []
        for number, position in ask.wanted:
            question = self.questions[number]
            positions = self.found.setdefault(number, {})
            positions[position] = scored.at(position, question.tokens[position])
            if len(positions) == len(question.tokens) - question.start:
                done.append((number, summed(self.found.pop(number))))
        return done


def summed(positions: dict[int, tuple[float, bool]]) -> Loglik:
    """The question's answer; `fsum` makes it the same in whatever order the positions came."""
    return Loglik(math.fsum(loglik for loglik, _ in positions.values()), all(top for _, top in positions.values()))


@dataclass(frozen=True, slots=True)
class Scored:
    """An ask's answer: at each position the log-probabilities of the tokens asked for, and that of the likeliest."""

    positions: dict[int, tuple[dict[int, float], float]]

    def at(self, position: int, token: int) -> tuple[float, bool]:
        """The token's log-probability, and whether it is the likeliest there (a tie counts, as in lm-eval)."""
        logliks, best = self.positions[position]
        return logliks[token], logliks[token] >= best
