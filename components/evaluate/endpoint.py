"""The lm-eval model `vllm-endpoint`: a served model that gets each question once, in the fastest exact way.

Tokenization, truncation, generation settings and chat templates are lm-eval's own (`local-completions`). This module
decides which requests are sent to the server, and in which order. It also works in lm-eval without a run:

    quantgate lm-eval --model vllm-endpoint --model_args base_url=http://…/v1,model=NAME,tokenizer=DIR --tasks …
"""

import asyncio
import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from lm_eval import utils
from lm_eval.api.registry import register_model
from lm_eval.models.openai_completions import LocalCompletionsAPI

from components.errors import PrerequisiteError
from components.evaluate import ledger
from components.evaluate.ledger import Ledger
from components.servers.abilities import Abilities, abilities
from components.servers.client import CONCURRENT_CALLS, TIMEOUT_S, Client, Text
from components.servers.scoring_requests import Ask, Kind, Loglik, Question, Scored, Tally, plan

NAME = "vllm-endpoint"
ARGUMENTS = "base_url, model, tokenizer, max_length, ledger, model_digest, way, num_concurrent, timeout"
DEFAULT_MAX_LENGTH = 2048
"""The window when the server does not report its max_model_len: lm-eval's own default."""

OnAnswer = Callable[[int, int], None]


class UnscorableError(ValueError):
    """A question does not fit into the model's window."""


@dataclass(frozen=True)
class Generated:
    """How a text was generated: the prompt's tokens as they were sent, and whether prompt or answer was cut."""

    tokens: tuple[int, ...]
    truncated: bool
    """Whether the beginning of the prompt was cut off."""
    cut: bool
    """Whether the limit of tokens ended the answer."""
    answer_tokens: int | None
    """Number of generated tokens; None when the server does not say."""
    answer_limit: int
    """The most tokens that the answer could have."""


@register_model(NAME)
class Endpoint(LocalCompletionsAPI):  # type: ignore[misc]  # lm-eval is untyped
    """lm-eval on one served model.

    `base_url` is the API's base; `model` the served name (default: the server's first model); `tokenizer` the folder
    or name of its tokenizer; `max_length` the limit of tokens for a prompt and its answer together (default: the
    server's max_model_len). `ledger` is an open answer ledger, which the caller closes, or a ledger's file. A file
    needs `model_digest`: the name under which the ledger keeps the answers of exactly this model with its settings.
    `way` is one of `suffix`, `read`, `echo`; no other way is used then.

    A prompt begins with BOS exactly when the model's own tokenizer adds it.
    """

    def __init__(
        self,
        base_url: str,
        model: str = "",
        tokenizer: str = "",
        max_length: int | str = 0,
        ledger: Ledger | str | None = None,
        model_digest: str = "",
        way: str = "",
        num_concurrent: int | str = CONCURRENT_CALLS,
        timeout: int | str = TIMEOUT_S,
        **settings: Any,
    ) -> None:
        if isinstance(ledger, str) and not model_digest:
            raise ValueError("A ledger needs model_digest=…: the model whose answers it keeps.")
        self.client = Client(base_url, model, int(num_concurrent), float(timeout))
        self.server: Abilities = abilities(self.client)
        self.way = way
        super().__init__(
            base_url=base_url,
            model=self.client.model,
            tokenizer=tokenizer or self.client.model,
            tokenizer_backend="huggingface",
            tokenized_requests=True,
            num_concurrent=int(num_concurrent),
            timeout=int(float(timeout)),
            max_length=int(max_length) or self.server.max_model_len or DEFAULT_MAX_LENGTH,
            **settings,
        )
        self.add_bos_token = puts_bos(self.tokenizer)
        if isinstance(ledger, str):
            ledger = Ledger(Path(ledger), f"{model_digest}, vLLM {self.server.version}")
        self.ledger = ledger
        self.on_answer: OnAnswer = lambda _answered, _total: None
        self.requests = self.reused = self.truncated = 0
        self.generations: dict[tuple[str, str], Generated] = {}

    def apply_chat_template(self, chat_history: list[dict[str, str]], *arguments: Any, **settings: Any) -> Any:
        """As lm-eval's; drops the system message when the template refuses it, as lm-eval's other models do."""
        try:
            return super().apply_chat_template(chat_history, *arguments, **settings)
        except TemplateError:
            without_system = [message for message in chat_history if message["role"] != "system"]
        try:
            return super().apply_chat_template(without_system, *arguments, **settings)
        except TemplateError as error:
            raise PrerequisiteError(
                f"The model's chat template refuses a prompt: {error}. Run it with --no-chat-template."
            ) from error

    @property
    def kinds(self) -> frozenset[Kind]:
        """The ways of scoring that may be used; raises PrerequisiteError when the server offers none."""
        return frozenset({Kind(self.way)}) if self.way else self.server.kinds

    def watch(self, on_answer: OnAnswer) -> None:
        """Set the progress callback: after each answer it gets the number of answers so far and of requests in all."""
        self.on_answer = on_answer

    def tok_encode(self, string: Any, *arguments: Any, **settings: Any) -> Any:
        """As lm-eval's, without a second BOS when a chat template has added one."""
        if self.add_bos_token:
            bos = str(self.tokenizer.bos_token)
            string = (
                string.removeprefix(bos) if isinstance(string, str) else [text.removeprefix(bos) for text in string]
            )
        return super().tok_encode(string, *arguments, **settings)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As lm-eval's."""
        return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_settings: Any
    ) -> list[tuple[float, bool]]:
        """The log-likelihood and greediness of each request (cache key, context ids, continuation ids)."""
        questions = [self.question(context, continuation) for _, context, continuation in requests]
        count = Counter(question for question in questions if question is not None)
        progress = Progress(self.on_answer, len(requests), answered=questions.count(None))
        answers = {None: Loglik(0.0, True)} | self.answers_to(
            list(count), lambda question: progress.advance(count[question])
        )
        pairs = [(answers[question].loglik, answers[question].greedy) for question in questions]
        for (cache_key, _, _), pair in zip(requests, pairs, strict=True):
            if cache_key is not None:
                self.cache_hook.add_partial("loglikelihood", cache_key, pair)
        return pairs

    def question(self, context: list[int], continuation: list[int]) -> Question | None:
        """The question for one request, cut from the left to `max_length` tokens; None for an empty continuation."""
        if not continuation:
            return None
        whole = context + continuation
        excess = max(0, len(whole) - self.max_length)
        self.truncated += excess > 0
        start = len(context) - excess
        if start < 1:
            raise UnscorableError(
                f"A continuation of {len(continuation)} tokens does not fit the server's window of {self.max_length}. "
                "Serve the model with a larger --max-model-len."
            )
        return Question(tuple(whole[excess:]), start)

    def answers_to(self, questions: list[Question], on_answer: Callable[[Question], None]) -> dict[Any, Loglik]:
        """Every question's answer, from the ledger or the server; `on_answer` is called with each answered question."""
        keys = dict(zip(questions, ledger.question_keys(questions), strict=True)) if self.ledger else {}
        saved = self.ledger.get(list(keys.values())) if self.ledger else {}
        answers = {question: ledger.unpack(saved[key]) for question, key in keys.items() if key in saved}
        self.requests += len(questions)
        self.reused += len(answers)
        for question in answers:
            on_answer(question)
        unanswered = [question for question in questions if question not in answers]
        tally = Tally(unanswered)

        def on_scored(ask: Ask, scored: Scored) -> None:
            done = tally.add(ask, scored)
            if self.ledger and done:
                self.ledger.put((keys[unanswered[number]], ledger.pack(answer)) for number, answer in done)
            for number, answer in done:
                answers[unanswered[number]] = answer
                on_answer(unanswered[number])

        if unanswered:
            asyncio.run(self.client.score_all(plan(unanswered, self.kinds), on_scored))
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002 - lm-eval's
        """The log-likelihood of each whole text, in lm-eval's own windows; the windows of all texts are one batch."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        ends: list[int] = []
        for (text,) in (request.args for request in requests):
            rolling = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            windows += [(None, *utils.make_disjoint_window(window)) for window in rolling]
            ends.append(len(windows))
        scored = [loglik for loglik, _ in self._loglikelihood_tokens(windows)]
        logliks = [sum(scored[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        for request, loglik in zip(requests, logliks, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, loglik)
        return logliks

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002 - lm-eval's
        """lm-eval's generation: its settings, stop sequences and truncation, in the order of shared prefixes."""
        prompts = self.tok_encode([request.args[0] for request in requests], add_special_tokens=self.add_bos_token)
        payloads = [self.payload(tokens, request.args[1]) for tokens, request in zip(prompts, requests, strict=True)]
        order = sorted(range(len(payloads)), key=lambda number: payloads[number]["prompt"][0])
        keys = [self.generation_key(payload) for payload in payloads]
        saved = self.ledger.get(keys) if self.ledger else {}
        texts = {number: ledger.unpack_text(saved[keys[number]]) for number in order if keys[number] in saved}
        self.requests += len(requests)
        self.reused += len(texts)
        progress = Progress(self.on_answer, len(requests), answered=len(texts))
        unanswered = [number for number in order if number not in texts]

        def on_text(position: int, text: Text) -> None:
            number = unanswered[position]
            texts[number] = text
            if self.ledger:
                self.ledger.put([(keys[number], ledger.pack_text(text))])
            self.cache_hook.add_partial("generate_until", requests[number].args, text.text)
            progress.advance(1)

        if unanswered:
            asyncio.run(self.client.generate_all([payloads[number] for number in unanswered], on_text))
        for number in order:
            limit = self.prompt_limit(requests[number].args[1])
            text, tokens = texts[number], prompts[number]
            generated = Generated(
                tuple(tokens[-limit:]), len(tokens) > limit, text.cut, text.tokens, self.max_length - limit
            )
            self.truncated += generated.truncated
            self.generations[generation_name(*requests[number].args)] = generated
        return [texts[number].text for number in range(len(requests))]

    def generated(self, context: str, settings: dict[str, Any]) -> "Generated":
        """How the text after a prompt was generated in this process."""
        return self.generations[generation_name(context, settings)]

    def prompt_limit(self, settings: dict[str, Any]) -> int:
        """The most tokens that a prompt may have, so that its answer fits into the window."""
        return int(self.max_length) - int(settings.get("max_gen_toks") or self._max_gen_toks)

    def payload(self, tokens: list[int], settings: dict[str, Any]) -> dict[str, Any]:
        """The request body that lm-eval sends for one prompt."""
        limit = self.prompt_limit(settings)
        if limit < 1:
            raise UnscorableError(
                f"An answer may have {self.max_length - limit} tokens, and the server's window has {self.max_length}. "
                "Serve the model with a larger --max-model-len."
            )
        return dict(
            self._create_payload(
                [tokens[-limit:]],
                generate=True,
                gen_kwargs=copy.deepcopy(settings),
                seed=self._seed,
            )
        )

    @staticmethod
    def generation_key(payload: dict[str, Any]) -> ledger.Key:
        """The ledger's key of one prompt's generation."""
        settings = {name: value for name, value in payload.items() if name not in ("prompt", "model")}
        return ledger.generation_key(tuple(payload["prompt"][0]), settings)


def generation_name(context: str, settings: dict[str, Any]) -> tuple[str, str]:
    """The key of a generation in `Endpoint.generations`."""
    return context, json.dumps(settings, sort_keys=True, default=str)


class Progress:
    """Counts the answers of one batch of requests."""

    def __init__(self, on_answer: OnAnswer, total: int, answered: int = 0) -> None:
        self.on_answer = on_answer
        self.total = total
        self.answered = answered

    def advance(self, by: int) -> None:
        """Count `by` more answers and report them."""
        self.answered += by
        self.on_answer(self.answered, self.total)


def puts_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself adds BOS before a text."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
