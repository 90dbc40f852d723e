"""A served model that answers each question once: from the answer ledger if it is there, else from the server."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate import ledger
from quantgate.components.evaluate.ledger import Ledger
from quantgate.components.run.server_identity import LLAMA_CPP
from quantgate.components.servers.abilities import Abilities, abilities
from quantgate.components.servers.client import Client, Job, ServerFailedError, Text
from quantgate.components.servers.scoring_requests import Ask, Kind, Loglik, Question, Scored, Tally, plan

OF_CHATS = ("messages", "add_generation_prompt", "continue_final_message")
"""The fields of a request that a prompt of token ids does not need."""


class OtherPromptError(PrerequisiteError):
    """The server renders chats otherwise than the model's own chat template."""


class TestedModel:
    """The model behind `client`, with the ledger of its answers, if there is one.

    `way` is one of `batch`, `suffix`, `read`, `echo`, `forced`, and no other way is used then; by default the server's
    best one is.
    """

    __test__ = False  # pytest would collect it
    chats_as_tokens = False

    def __init__(self, client: Client, ledger: Ledger | None = None, way: str = "") -> None:
        self.client = client
        self.ledger = ledger
        self.way = way
        self.server: Abilities = abilities(client)
        self.neutral = self.server.neutral
        self.chats_as_tokens = self.server.package == LLAMA_CPP
        self.requests = self.reused = 0
        """Distinct requests so far, and how many of them the ledger has answered."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """The ways of scoring that may be used; raises PrerequisiteError when the server offers none."""
        return frozenset({Kind(self.way)}) if self.way else self.server.kinds

    def run(self, jobs: Iterable[Job]) -> None:
        """Do the jobs in their order, several at a time; see `Client.run` for the errors."""
        asyncio.run(self.client.run(jobs))

    def scoring_jobs(
        self, questions: Sequence[Question], on_answer: Callable[[Question, Loglik], None]
    ) -> Iterator[Job]:
        """The jobs that answer these distinct questions; `on_answer` is called once for each of them.

        Nothing happens before the first job is taken. Then the ledger is read, and what it has is answered at once.
        """
        keys = ledger.question_keys(questions) if self.ledger else []
        saved = self.ledger.read(keys, ledger.unpack) if self.ledger else {}
        places = [place for place in range(len(questions)) if not saved or keys[place] not in saved]
        unanswered = [questions[place] for place in places]
        self.requests += len(questions)
        self.reused += len(questions) - len(unanswered)
        for question, key in zip(questions, keys, strict=False):
            if key in saved:
                on_answer(question, saved[key])
        tally = Tally(unanswered)

        def on_scored(answers: list[tuple[Ask, Scored]]) -> None:
            done = [answered for ask, scored in answers for answered in tally.add(ask, scored)]
            if self.ledger and done:
                self.ledger.put((keys[places[number]], ledger.pack(answer)) for number, answer in done)
            for number, answer in done:
                on_answer(unanswered[number], answer)

        if unanswered:
            kinds = self.kinds
            yield from self.client.scoring_jobs(plan(unanswered, kinds), on_scored, batched=Kind.BATCH in kinds)

    def generating_jobs(
        self, requests: Sequence[tuple[list[int], dict[str, Any]]], on_text: Callable[[int, Text], None]
    ) -> Iterator[Job]:
        """The jobs that generate these texts; `on_text` is called once for each, with the request's number.

        A request is the prompt's token ids, and the other fields of the request, without the model. Fields with
        messages are a chat, whose text in the chat template has these token ids. Raises OtherPromptError when the
        server reads other ones.
        """
        keys = [ledger.generation_key(tuple(tokens), fields) for tokens, fields in requests]
        saved = self.ledger.read(keys, ledger.unpack_text) if self.ledger else {}
        unanswered = [number for number, key in enumerate(keys) if key not in saved]
        self.requests += len(requests)
        self.reused += len(requests) - len(unanswered)
        for number, key in enumerate(keys):
            if key in saved:
                on_text(number, saved[key])

        def save(position: int, text: Text) -> None:
            number = unanswered[position]
            check_prompt(requests[number][0], text)
            if self.ledger:
                self.ledger.put([(keys[number], ledger.pack_text(text))])
            on_text(number, text)

        payloads = [self.payload(*requests[number]) for number in unanswered]
        yield from self.client.generating_jobs(payloads, save)

    def payload(self, tokens: list[int], fields: dict[str, Any]) -> dict[str, Any]:
        """The body of one request. llama.cpp gets a chat as token ids: it would repeat a begun answer."""
        if self.chats_as_tokens:
            fields = {name: value for name, value in fields.items() if name not in OF_CHATS}
        prompt = {"return_token_ids": True} if "messages" in fields else {"prompt": [tokens]}
        return {"model": self.client.model, **prompt, **self.neutral, **fields}


class LedgerModel(TestedModel):
    """A model whose server did not start: only the ledger answers."""

    def __init__(self, book: Ledger) -> None:
        self.client, self.ledger, self.way, self.neutral = Client("", ""), book, "", {}
        self.requests = self.reused = 0

    @property
    def kinds(self) -> frozenset[Kind]:
        """Every way of scoring: the ledger's answers came from any of them."""
        return frozenset(Kind)

    def run(self, jobs: Iterable[Job]) -> None:
        """Take the answers from the ledger; raises ServerFailedError when it lacks one."""
        if next(iter(jobs), None):
            raise ServerFailedError("No server is left, and the ledger does not have all of the model's answers.")


def check_prompt(tokens: list[int], text: Text) -> None:
    """Raise OtherPromptError when the server read other tokens than the run prepared; nothing if it does not say."""
    if text.prompt is None or list(text.prompt) == tokens:
        return
    pairs = enumerate(zip(text.prompt, tokens, strict=False))
    place = next((at for at, (theirs, ours) in pairs if theirs != ours), min(len(text.prompt), len(tokens)))
    raise OtherPromptError(
        f"The server read a chat as {len(text.prompt)} tokens and the run prepared {len(tokens)}; the first difference"
        f" is at token {place}. The server has another chat template than the model: serve it without --chat-template,"
        " or evaluate with --chat no."
    )
