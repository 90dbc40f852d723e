"""The lm-eval model `vllm-endpoint`: a served model, asked each thing once and in the fastest exact way.

Tokenization, truncation, generation settings and chat templates are lm-eval's own (`local-completions`); only what
travels to the server, and in which order, is decided here. It works in lm-eval by itself:

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
"""Where the server does not tell how long a prompt and its answer may be: lm-eval's own default."""

OnAnswer = Callable[[int, int], None]


class UnscorableError(ValueError):
    """A question that the model's window cannot hold."""


@dataclass(frozen=True)
class Generated:
    """How a text was generated: the prompt's tokens as they were sent, and what the window cut."""

    tokens: tuple[int, ...]
    truncated: bool
    """Whether the prompt lost its beginning."""
    cut: bool
    """Whether the answer was ended by the limit of tokens."""


@register_model(NAME)
class Endpoint(LocalCompletionsAPI):  # type: ignore[misc]  # lm-eval is untyped
    """lm-eval on one served model.

    `base_url` is the API's base; `model` the served name (the server's first when left out); `tokenizer` the folder or
    name of its tokenizer; `max_length` the tokens a prompt and its answer may have together (default: what the server
    tells). `ledger` is an open answer ledger, which stays its owner's to close, or the file of one, which needs
    `model_digest`: a name under which the answers of exactly this model and its settings are found again. `way` keeps
    to one of `suffix`, `read`, `echo`.

    BOS is put in front exactly when the model's own tokenizer does so.
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
            raise ValueError("A ledger needs model_digest=…: whose answers it keeps.")
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
        self.on_answer: OnAnswer = lambda _answered, _asked: None
        self.requests = self.reused = self.truncated = 0
        self.generations: dict[tuple[str, str], Generated] = {}

    def apply_chat_template(self, chat_history: list[dict[str, str]], *arguments: Any, **settings: Any) -> Any:
        """As lm-eval's; without the system message where the template knows none, as lm-eval's other models do it."""
        try:
            return super().apply_chat_template(chat_history, *arguments, **settings)
        except TemplateError:
            known = [each for each in chat_history if each["role"] != "system"]
        try:
            return super().apply_chat_template(known, *arguments, **settings)
        except TemplateError as error:
            raise PrerequisiteError(
                f"The model's chat template refuses a prompt: {error}. Run it with --no-chat-template."
            ) from error

    @property
    def kinds(self) -> frozenset[Kind]:
        """The ways in which it is asked for scores; raises PrerequisiteError where the server offers none."""
        return frozenset({Kind(self.way)}) if self.way else self.server.kinds

    def watch(self, on_answer: OnAnswer) -> None:
        """After each answer of a task call `on_answer` with the answers that arrived and those that were asked for."""
        self.on_answer = on_answer

    def tok_encode(self, string: Any, *arguments: Any, **settings: Any) -> Any:
        """As lm-eval's, without a second BOS where a chat template has put one."""
        if self.add_bos_token:
            bos = str(self.tokenizer.bos_token)
            string = (
                string.removeprefix(bos) if isinstance(string, str) else [each.removeprefix(bos) for each in string]
            )
        return super().tok_encode(string, *arguments, **settings)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As lm-eval's."""
        return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_settings: Any
    ) -> list[tuple[float, bool]]:
        """The log-likelihood and greediness of each request (cache key, context ids, continuation ids)."""
        asked = [self.question(context, continuation) for _, context, continuation in requests]
        count = Counter(each for each in asked if each is not None)
        progress = Progress(self.on_answer, len(requests), answered=asked.count(None))
        answers = {None: Loglik(0.0, True)} | self.answered(list(count), lambda each: progress.advance(count[each]))
        for (cache_key, _, _), each in zip(requests, asked, strict=True):
            if cache_key is not None:
                self.cache_hook.add_partial("loglikelihood", cache_key, (answers[each].loglik, answers[each].greedy))
        return [(answers[each].loglik, answers[each].greedy) for each in asked]

    def question(self, context: list[int], continuation: list[int]) -> Question | None:
        """What to ask, cut from the left to `max_length` tokens; None for an empty continuation."""
        if not continuation:
            return None
        whole = context + continuation
        over = max(0, len(whole) - self.max_length)
        self.truncated += over > 0
        start = len(context) - over
        if start < 1:
            raise UnscorableError(
                f"A continuation of {len(continuation)} tokens does not fit the server's window of {self.max_length}. "
                "Serve the model with a larger --max-model-len."
            )
        return Question(tuple(whole[over:]), start)

    def answered(self, questions: list[Question], on_answer: Callable[[Question], None]) -> dict[Any, Loglik]:
        """Every question's answer, from the ledger or else from the server; `on_answer` is told of each."""
        keys = dict(zip(questions, ledger.question_keys(questions), strict=True)) if self.ledger else {}
        kept = self.ledger.get(list(keys.values())) if self.ledger else {}
        answers = {each: ledger.unpack(kept[key]) for each, key in keys.items() if key in kept}
        self.requests += len(questions)
        self.reused += len(answers)
        for each in answers:
            on_answer(each)
        rest = [each for each in questions if each not in answers]
        tally = Tally(rest)

        def take(ask: Ask, scored: Scored) -> None:
            done = tally.add(ask, scored)
            if self.ledger and done:
                self.ledger.put((keys[rest[number]], ledger.pack(answer)) for number, answer in done)
            for number, answer in done:
                answers[rest[number]] = answer
                on_answer(rest[number])

        if rest:
            asyncio.run(self.client.score_all(plan(rest, self.kinds), take))
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002 - lm-eval's
        """The log-likelihood of each whole text, in lm-eval's own windows; all texts' windows are asked together."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        ends: list[int] = []
        for (text,) in (request.args for request in requests):
            rolling = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            windows += [(None, *utils.make_disjoint_window(each)) for each in rolling]
            ends.append(len(windows))
        scored = [loglik for loglik, _ in self._loglikelihood_tokens(windows)]
        found = [sum(scored[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        for request, loglik in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, loglik)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002 - lm-eval's
        """lm-eval's generation: its settings, stop sequences and truncation, in the order of shared prefixes."""
        prompts = self.tok_encode([each.args[0] for each in requests], add_special_tokens=self.add_bos_token)
        payloads = [self.generation(tokens, request.args[1]) for tokens, request in zip(prompts, requests, strict=True)]
        order = sorted(range(len(payloads)), key=lambda each: payloads[each]["prompt"][0])
        keys = [self.generation_key(each) for each in payloads]
        kept = self.ledger.get(keys) if self.ledger else {}
        texts = {each: ledger.unpack_text(kept[keys[each]]) for each in order if keys[each] in kept}
        self.requests += len(requests)
        self.reused += len(texts)
        progress = Progress(self.on_answer, len(requests), answered=len(texts))
        rest = [each for each in order if each not in texts]

        def take(number: int, text: Text) -> None:
            texts[rest[number]] = text
            if self.ledger:
                self.ledger.put([(keys[rest[number]], ledger.pack_text(text))])
            self.cache_hook.add_partial("generate_until", requests[rest[number]].args, text.text)
            progress.advance(1)

        if rest:
            asyncio.run(self.client.generate_all([payloads[each] for each in rest], take))
        for each in order:
            room = self.room(requests[each].args[1])
            found = Generated(tuple(prompts[each][-room:]), len(prompts[each]) > room, texts[each].cut)
            self.truncated += found.truncated
            self.generations[generation_name(*requests[each].args)] = found
        return [texts[each].text for each in range(len(requests))]

    def generated(self, context: str, settings: dict[str, Any]) -> "Generated":
        """How the text after a prompt was generated in this process."""
        return self.generations[generation_name(context, settings)]

    def room(self, settings: dict[str, Any]) -> int:
        """Tokens that a prompt may have before its answer."""
        return int(self.max_length) - int(settings.get("max_gen_toks") or self._max_gen_toks)

    def generation(self, tokens: list[int], settings: dict[str, Any]) -> dict[str, Any]:
        """The body that lm-eval sends for one prompt."""
        room = self.room(settings)
        if room < 1:
            raise UnscorableError(
                f"An answer may have {self.max_length - room} tokens, the server's window has {self.max_length}. "
                "Serve the model with a larger --max-model-len."
            )
        return dict(
            self._create_payload(
                [tokens[-room:]],
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
    """By which the generation after a prompt is found again."""
    return context, json.dumps(settings, sort_keys=True, default=str)


class Progress:
    """Counts the answers of one batch of requests."""

    def __init__(self, on_answer: OnAnswer, asked: int, answered: int = 0) -> None:
        self.on_answer = on_answer
        self.asked = asked
        self.answered = answered

    def advance(self, by: int) -> None:
        """So many more have arrived."""
        self.answered += by
        self.on_answer(self.answered, self.asked)


def puts_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself begins a text with BOS."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
