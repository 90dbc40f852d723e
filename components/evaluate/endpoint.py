"""The lm-eval model `vllm-endpoint`: a served model that gets each question once, in the fastest exact way.

Tokenization, truncation, generation settings and chat templates are lm-eval's own (`local-completions`). This module
decides which requests are sent to the server, and in which order. It also works in lm-eval without a run:

    quantgate lm-eval --model vllm-endpoint --model_args base_url=http://…/v1,model=NAME,tokenizer=DIR --tasks …
"""

from pathlib import Path
from typing import Any

from lm_eval import utils
from lm_eval.api.registry import register_model
from lm_eval.models.openai_completions import LocalCompletionsAPI

from quantgate.components.benchmarks.encoder import Encoder, generation_request
from quantgate.components.evaluate.ledger import Ledger
from quantgate.components.evaluate.tested_model import TestedModel
from quantgate.components.run.server_identity import ServerIdentity
from quantgate.components.servers.client import CONCURRENT_CALLS, TIMEOUT_S, Client, Text
from quantgate.components.servers.scoring_requests import Loglik, Question

NAME = "vllm-endpoint"
ARGUMENTS = "base_url, model, tokenizer, max_length, ledger, model_digest, way, num_concurrent, timeout"
DEFAULT_MAX_LENGTH = 2048
"""The window when the server does not report its max_model_len: lm-eval's own default."""


class UnscorableError(ValueError):
    """A prompt cannot be scored."""


@register_model(NAME)
class Endpoint(LocalCompletionsAPI):  # type: ignore[misc]  # lm-eval is untyped
    """lm-eval on one served model.

    `base_url` is the API's base; `model` the served name (default: the server's first model); `tokenizer` the folder
    or name of its tokenizer; `max_length` the limit of tokens for a prompt and its answer together (default: the
    server's max_model_len). `ledger` is an open answer ledger, which the caller closes, or a ledger's file. A file
    needs `model_digest`: the name under which the ledger keeps the answers of exactly this model with its settings.
    `way` is one of `batch`, `suffix`, `read`, `echo`; no other way is used then. `key` is the server's API key
    (default: the user's, from $VLLM_API_KEY or $OPENAI_API_KEY).

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
        key: str = "",
        **settings: Any,
    ) -> None:
        if isinstance(ledger, str) and not model_digest:
            raise ValueError("A ledger needs model_digest=…: the model whose answers it keeps.")
        client = Client(base_url, model, int(num_concurrent), float(timeout))
        client.key = key or client.key
        self.tested = TestedModel(client, way=way)
        super().__init__(
            base_url=base_url,
            model=client.model,
            tokenizer=tokenizer or client.model,
            tokenizer_backend="huggingface",
            tokenized_requests=True,
            num_concurrent=int(num_concurrent),
            timeout=int(float(timeout)),
            max_length=int(max_length) or self.tested.server.max_model_len or DEFAULT_MAX_LENGTH,
            **settings,
        )
        self.encoder = Encoder(self.tokenizer)
        self.add_bos_token = self.encoder.adds_bos
        if isinstance(ledger, str):
            server = self.tested.server
            identity = ServerIdentity(weights=model_digest, package=server.package, version=server.version)
            ledger = Ledger(Path(ledger), identity.describe())
        self.tested.ledger = ledger
        self.truncated = 0

    def apply_chat_template(self, chat_history: list[dict[str, str]], *arguments: Any, **settings: Any) -> str:
        """As lm-eval's; drops the system message when the template refuses it, as lm-eval's other models do."""
        return self.encoder.apply_chat_template(chat_history, *arguments, **settings)

    def tok_encode(self, string: Any, left_truncate_len: int | None = None, **_settings: Any) -> Any:
        """The token ids of a text, or of each of several texts, as `Encoder.encode` gives them."""
        texts = self.encoder.encode([string] if isinstance(string, str) else string)
        cut = [ids[-(left_truncate_len or 0) :] for ids in texts]
        return cut[0] if isinstance(string, str) else cut

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002 - lm-eval's
        """As lm-eval's; the texts are encoded together."""
        pairs = self.encoder.encode_pairs([request.args for request in requests])
        return self._loglikelihood_tokens([(request.args, *ids) for request, ids in zip(requests, pairs, strict=True)])

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_settings: Any
    ) -> list[tuple[float, bool]]:
        """The log-likelihood and greediness of each request (cache key, context ids, continuation ids)."""
        questions = [self.question(context, continuation) for _, context, continuation in requests]
        answers: dict[Question, Loglik] = {}
        self.tested.run(self.tested.scoring_jobs(list(dict.fromkeys(questions)), answers.__setitem__))
        pairs = [(answers[question].loglik, answers[question].greedy) for question in questions]
        for (cache_key, _, _), pair in zip(requests, pairs, strict=True):
            if cache_key is not None:
                self.cache_hook.add_partial("loglikelihood", cache_key, pair)
        return pairs

    def question(self, context: list[int], continuation: list[int]) -> Question:
        """The question for one request, cut from the left to `max_length` tokens.

        Raises UnscorableError for one that the server cannot score.
        """
        if not continuation:
            raise UnscorableError(
                "An answer has no tokens of its own after its prompt, so it has no score. Correct the row, or leave the"
                " task out."
            )
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
        prompts = self.encoder.encode([request.args[0] for request in requests])
        sent = [self.generation(tokens, request.args[1]) for tokens, request in zip(prompts, requests, strict=True)]
        order = sorted(range(len(sent)), key=lambda number: sent[number][0])
        texts: dict[int, str] = {}

        def on_text(place: int, text: Text) -> None:
            texts[order[place]] = text.text
            self.cache_hook.add_partial("generate_until", requests[order[place]].args, text.text)

        self.tested.run(self.tested.generating_jobs([sent[number] for number in order], on_text))
        return [texts[number] for number in range(len(requests))]

    def generation(self, tokens: list[int], settings: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
        """One prompt, cut from the left to leave room for its answer, and the other fields of its request."""
        fields = generation_request({"max_gen_toks": self._max_gen_toks, **settings})
        limit = self.max_length - int(fields["max_tokens"])
        if limit < 1:
            raise UnscorableError(
                f"An answer may have {fields['max_tokens']} tokens, and the server's window has {self.max_length}. "
                "Serve the model with a larger --max-model-len."
            )
        self.truncated += len(tokens) > limit
        return tokens[-limit:], fields
