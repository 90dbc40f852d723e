"""lm-eval's own client for a completions endpoint, made to tell its progress and to fail instead of guessing."""

from collections.abc import Callable
from typing import Any

from lm_eval.models.openai_completions import LocalCompletionsAPI

CONCURRENT_REQUESTS = 8
RETRIES = 5
TIMEOUT_S = 300


class BadAnswerError(ValueError):
    """The server answered, but not with the log-probabilities that were asked for."""


class Endpoint(LocalCompletionsAPI):  # type: ignore[misc]  # lm-eval is untyped
    """`local-completions` on one served variant.

    Prompts travel as token ids. BOS is put in front exactly when the model's own tokenizer does so.
    """

    def __init__(self, url: str, served_name: str, model_path: str, max_length: int) -> None:
        super().__init__(
            base_url=f"{url}/completions",
            model=served_name,
            tokenizer=model_path,
            tokenizer_backend="huggingface",
            tokenized_requests=True,
            num_concurrent=CONCURRENT_REQUESTS,
            max_retries=RETRIES,
            timeout=TIMEOUT_S,
            max_length=max_length,
        )
        self.add_bos_token = puts_bos(self.tokenizer)
        self.on_answer: Callable[[int, int], None] = lambda _answered, _asked: None

    def watch(self, on_answer: Callable[[int, int], None]) -> None:
        """After each answer of a task call `on_answer` with the answers that arrived and those that were asked for."""
        self.on_answer = on_answer

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As lm-eval asks, counting the answers as they arrive."""
        self.set_cache_hook(AnswerHook(self.on_answer, len(requests)))
        return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))

    @staticmethod
    def parse_logprobs(
        outputs: Any, tokens: Any = None, ctxlens: Any = None, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """As lm-eval reads them; raises BadAnswerError where a log-probability is missing."""
        try:
            given = [len(each["logprobs"]["token_logprobs"]) for each in outputs["choices"]]
            wanted = [len(each) + 1 for each in tokens]  # max_tokens: 1
            if sorted(given) != sorted(wanted):
                raise BadAnswerError(f"The server scored {given} tokens where {wanted} were asked for.")
            return list(LocalCompletionsAPI.parse_logprobs(outputs=outputs, tokens=tokens, ctxlens=ctxlens, **kwargs))
        except (KeyError, IndexError, TypeError, AssertionError) as error:
            raise BadAnswerError(f"The server's answer cannot be read: {error!r} in {str(outputs)[:300]}") from error


class AnswerHook:
    """lm-eval's cache hook: it is told of every answer as it arrives."""

    def __init__(self, on_answer: Callable[[int, int], None], asked: int) -> None:
        self.on_answer = on_answer
        self.asked = asked
        self.answered = 0

    def add_partial(self, _method: str, _request: object, _answer: object) -> None:
        """Called by lm-eval once an answer."""
        self.answered += 1
        self.on_answer(self.answered, self.asked)


def puts_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself begins a text with BOS."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
