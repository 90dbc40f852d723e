"""Plan the requests for a task's log-likelihood questions, so that nothing is computed or requested twice.

A question needs the log-probability of each token of a continuation, after all tokens before it. Such a token's place
is a *position*. Questions sorted by their token ids are in the order in which one walks the trie of all of them.
Questions that share a prefix are neighbours then: the server's prefix cache is warm for the second, and a position that
several questions share is requested once. The request depends on the ways that the server offers (`abilities.py`):

    read     the prompt ends before the position; log-probabilities of named token ids come with the next token
    suffix   the whole question is the prompt; its own tokens are scored from the cached prefix on. A read of the first
             position goes before the suffixes of a long context: it puts the context into the cache without scoring it
    echo     the whole question is the prompt; all its tokens are scored, nothing is taken from the cache
    batch    reads and suffixes as above, those of several contexts in one HTTP call, each context sent once
    forced   as a read, but with one token id, which the server is made to generate: llama.cpp's only way
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby

Tokens = tuple[int, ...]

READ_COST = 32
"""The cost of one read in prompt tokens: those it computes again (half a block of the cache), and the request."""
LONG_CONTEXT = 128
"""From so many tokens on, scoring a whole context costs more than a read of the position after it."""
ECHO_COST = 2
"""The cost of one echoed prompt token in computed ones: an echo needs the logits of every position."""
IDS_PER_READ = 128
"""vLLM's limit on the token ids of one request."""


class Kind(StrEnum):
    """The way in which an ask is scored."""

    READ = "read"
    SUFFIX = "suffix"
    ECHO = "echo"
    BATCH = "batch"
    FORCED = "forced"


OF_VLLM = (Kind.BATCH, Kind.SUFFIX, Kind.READ, Kind.ECHO)
"""The ways of vLLM, the fastest first."""
BATCHED = frozenset({Kind.READ, Kind.SUFFIX})
"""The kinds of ask that a batch carries."""


@dataclass(frozen=True, slots=True)
class Question:
    """A continuation whose log-likelihood lm-eval needs."""

    tokens: Tokens
    """Context and continuation."""
    start: int
    """Index of the continuation's first token; at least 1, as nothing predicts the first token of a prompt."""

    def __post_init__(self) -> None:
        """Refuse a question without context or continuation: its score would be 0, that of a certain answer."""
        if not 1 <= self.start < len(self.tokens):
            raise ValueError(f"A question has {len(self.tokens)} tokens and its continuation starts at {self.start}.")


@dataclass(eq=False, slots=True)
class Ask:
    """One prompt for the server, and the positions for which its answer is used."""

    kind: Kind
    whole: Tokens
    """A question's tokens: the prompt is these, or their beginning."""
    start: int
    """The first position that is scored. A read scores no other; the prompt of a read ends before it."""
    ids: tuple[int, ...] = ()
    """The token ids, ascending, whose log-probabilities a read requests; one if it is forced; else empty."""
    wanted: list[tuple[int, int]] = field(default_factory=list)
    """(question, position) pairs for which this answer is used."""
    context: Tokens = ()
    """The tokens that all asks of one context share, the same object in each."""

    @property
    def tokens(self) -> Tokens:
        """The prompt; sliced on each call, because the slices of all reads of a benchmark would fill the memory."""
        return self.whole[: self.start] if self.kind in (Kind.READ, Kind.FORCED) else self.whole


@dataclass(frozen=True, slots=True)
class Loglik:
    """A continuation's score for lm-eval."""

    loglik: float
    """Sum of the tokens' natural log-probabilities."""
    greedy: bool
    """Whether each token is the likeliest one at its position."""


def trie_size(sequences: Iterable[Tokens]) -> int:
    """Distinct tokens in the trie of the sequences: the fewest that any server must compute."""
    size = 0
    previous: Tokens = ()
    for sequence in sorted(sequences):
        size += len(sequence) - shared(previous, sequence)
        previous = sequence
    return size


def shared(left: Tokens, right: Tokens) -> int:
    """Length of the common prefix."""
    length = min(len(left), len(right))
    if left[:length] == right[:length]:
        return length
    low, high = 0, length  # left[:low] == right[:low] and left[:high] != right[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def plan(questions: Sequence[Question], kinds: frozenset[Kind]) -> list[Ask]:
    """The asks that together answer all questions, in the order to send them, with the kinds that the server offers.

    The questions must be distinct. Every (question, position) belongs to exactly one ask.
    """
    kinds = BATCHED if Kind.BATCH in kinds else kinds
    order = sorted(range(len(questions)), key=lambda number: questions[number].tokens)
    asks: list[Ask] = []
    for context, group in groupby(order, key=lambda number: questions[number].tokens[: questions[number].start]):
        chosen = asks_of(questions, list(group), kinds)
        for ask in chosen:
            ask.context = context
        asks += chosen
    return asks


def asks_of(questions: Sequence[Question], members: list[int], kinds: frozenset[Kind]) -> list[Ask]:
    """The asks for the questions of one context, in whichever way is cheaper."""
    if kinds == {Kind.FORCED}:
        return forced_of(questions, members)
    wholes = suffixes_of(questions, members, kinds) if Kind.SUFFIX in kinds else wholes_of(questions, members)
    fewest = max(len(questions[member].tokens) - questions[member].start for member in members)
    if kinds >= BATCHED and fewest > len(wholes):
        return wholes  # there are more reads than suffixes, and need not be made
    reads = reads_of(questions, members)
    return reads if prefers_reads(reads, wholes, kinds) else wholes


def prefers_reads(reads: list[Ask], wholes: list[Ask], kinds: frozenset[Kind]) -> bool:
    """Whether reading the positions of one context one by one is cheaper than sending its continuations whole."""
    if Kind.READ not in kinds or len(kinds) == 1:
        return Kind.READ in kinds
    if any(len(read.ids) > IDS_PER_READ for read in reads):
        return False
    if Kind.SUFFIX in kinds:
        return len(reads) <= len(wholes)
    return READ_COST * len(reads) + reads[0].start < ECHO_COST * sum(len(ask.whole) for ask in wholes)


def reads_of(questions: Sequence[Question], members: list[int]) -> list[Ask]:
    """One read for every distinct position of the questions (of one context, sorted by their tokens)."""
    start = questions[members[0]].start
    reads: list[Ask] = []
    path: dict[int, Ask] = {}  # position -> the read on the current path through the trie
    previous: Tokens = ()
    for member in members:
        question = questions[member]
        continuation = question.tokens[start:]
        common = start + shared(previous, continuation)
        path = {position: ask for position, ask in path.items() if position <= common}
        for position in range(start, len(question.tokens)):
            if position not in path:
                path[position] = Ask(Kind.READ, question.tokens, position)
                reads.append(path[position])
            path[position].wanted.append((member, position))
        previous = continuation
    for ask in reads:
        ask.ids = tuple(sorted({questions[member].tokens[position] for member, position in ask.wanted}))
    return reads


def forced_of(questions: Sequence[Question], members: list[int]) -> list[Ask]:
    """One ask for every distinct position of the questions and every token there."""
    asks = []
    for read in reads_of(questions, members):
        for token in read.ids:
            wanted = [(member, at) for member, at in read.wanted if questions[member].tokens[at] == token]
            asks.append(Ask(Kind.FORCED, read.whole, read.start, (token,), wanted))
    return asks


def suffixes_of(questions: Sequence[Question], members: list[int], kinds: frozenset[Kind]) -> list[Ask]:
    """The suffixes of one context's questions; after a read of the first position where the context is long.

    A suffix computes the scores of all of its tokens that are not in the cache, over the whole vocabulary: without the
    read, the first suffix would score the context too.
    """
    start = questions[members[0]].start
    ids = tuple(sorted({questions[member].tokens[start] for member in members}))
    if Kind.READ not in kinds or start < LONG_CONTEXT or len(ids) > IDS_PER_READ:
        return wholes_of(questions, members, Kind.SUFFIX)
    first = Ask(Kind.READ, questions[members[0]].tokens, start, ids, [(member, start) for member in members])
    return [first, *wholes_of(questions, members, Kind.SUFFIX, skipped=1)]


def wholes_of(questions: Sequence[Question], members: list[int], kind: Kind = Kind.ECHO, skipped: int = 0) -> list[Ask]:
    """An ask for every question that is not the beginning of another, in the order to send them.

    The first `skipped` positions of each question belong to another ask. A position that several questions share
    belongs to the ask that is sent first: afterwards the position is in the prefix cache, and a cached token's score
    is unavailable.
    """
    asks: list[Ask] = []
    path: dict[int, Ask] = {}  # position -> the ask that scores it, on the current path through the trie
    previous: Tokens = ()
    start = questions[members[0]].start
    for member in reversed(members):
        question = questions[member]
        continuation = question.tokens[start:]
        common = start + shared(previous, continuation)
        path = {position: ask for position, ask in path.items() if position < common}
        own = Ask(kind, question.tokens, start)
        for position in range(start + skipped, len(question.tokens)):
            path.setdefault(position, own).wanted.append((member, position))
        if own.wanted:
            asks.append(own)
            own.start = own.wanted[0][1]
        previous = continuation
    return asks


class Tally:
    """Collects the positions' log-probabilities as they arrive, until a question has all of its own."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self.incomplete: dict[int, dict[int, tuple[float, bool]]] = {}

    def add(self, ask: Ask, scored: "Scored") -> list[tuple[int, Loglik]]:
        """Add an ask's answer; returns the questions that it completes, as pairs of number and log-likelihood."""
        done = []
        for number, position in ask.wanted:
            question = self.questions[number]
            positions = self.incomplete.setdefault(number, {})
            positions[position] = scored.at(position, question.tokens[position])
            if len(positions) == len(question.tokens) - question.start:
                done.append((number, summed(self.incomplete.pop(number))))
        return done


def summed(positions: dict[int, tuple[float, bool]]) -> Loglik:
    """The question's log-likelihood; `fsum` makes it independent of the order in which the positions arrived."""
    return Loglik(math.fsum(loglik for loglik, _ in positions.values()), all(top for _, top in positions.values()))


@dataclass(frozen=True, slots=True)
class Scored:
    """An ask's answer: for each position the requested tokens' log-probabilities, and that of the likeliest token."""

    positions: dict[int, tuple[dict[int, float], float]]

    def at(self, position: int, token: int) -> tuple[float, bool]:
        """The token's log-probability, and whether it is the likeliest there (a tie counts, as in lm-eval)."""
        logliks, best = self.positions[position]
        return logliks[token], logliks[token] >= best
