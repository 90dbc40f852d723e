"""Turn prompts into token ids exactly as lm-eval's `local-completions` does, but many at once and each context once.

lm-eval encodes a context twice for each of its choices: once alone, and once followed by the choice. Here the context
is encoded once. Only its last line is encoded again with each choice, where that gives the same ids: see
`Encoder.last_lines`. tests/test_encoder.py compares the ids with lm-eval's own.

They differ in two places, where lm-eval's ids give a score that is not the choice's. Of a tokenizer's special tokens
only BOS goes before a prompt, never EOS after it. And a choice whose first characters are in one token with the end
of the context is encoded by itself: lm-eval's ids lack those characters, or the whole choice.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.run.prompt_settings import NEUTRAL

Pair = tuple[str, str]
"""A context and its continuation, as text."""
Ids = list[int]

ACROSS_LINES = re.compile(r"[\nĊ][A-Za-z]")
"""A token that covers a line break and a letter after it; byte-level vocabularies write the break as Ċ."""
LAST_LINE = re.compile(r"(?<=\n)[A-Za-z][^\n]*\Z")
TEXTS_PER_BATCH = 2048
DEFAULT_ANSWER_TOKENS = 256
"""lm-eval's limit of tokens for a generated text, where its task names none."""
SEED = 1234
"""lm-eval's seed of a request."""


class Encoder:
    """A model's tokenizer, in lm-eval's way: special tokens, empty contexts, chat template, generation requests.

    A prompt begins with BOS exactly when the tokenizer itself adds it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.adds_bos = puts_bos(tokenizer)
        self.backend = getattr(tokenizer, "backend_tokenizer", None)
        self.splits_at_lines = not any(map(ACROSS_LINES.search, tokenizer.get_vocab()))

    @classmethod
    def load(cls, tokenizer: str | Path) -> "Encoder":
        """The encoder of the tokenizer in that folder, or of that name on the hub."""
        from transformers import AutoTokenizer  # takes five seconds, and evaluate seldom needs it

        return cls(AutoTokenizer.from_pretrained(str(tokenizer)))

    @property
    def digest(self) -> str:
        """sha256 of all that determines token ids and prompts: vocabulary, rules, special tokens, chat template."""
        if self.backend is None:
            rules: Any = sorted(self.tokenizer.get_vocab().items())
        else:
            rules = json.loads(self.backend.to_str())
            rules = {name: value for name, value in rules.items() if name not in ("padding", "truncation")}
        content = [rules, self.adds_bos, self.prefix_token, self.tokenizer.chat_template]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def prefix_token(self) -> int:
        """The token that stands for an empty context: BOS, or EOS for a tokenizer without BOS."""
        bos: int | None = self.tokenizer.bos_token_id
        return bos if bos is not None else int(self.tokenizer.eos_token_id)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The token ids of each text, on all cores, with BOS before them where the tokenizer adds it."""
        if not self.adds_bos:
            return self.batches(texts)
        bos = str(self.tokenizer.bos_token)  # a chat template has added it already
        return [[self.prefix_token, *ids] for ids in self.batches([text.removeprefix(bos) for text in texts])]

    def batches(self, texts: Sequence[str]) -> list[Ids]:
        """The token ids of each text, without special tokens."""
        ids: list[Ids] = []
        for first in range(0, len(texts), TEXTS_PER_BATCH):
            batch = list(texts[first : first + TEXTS_PER_BATCH])
            if self.backend is None:
                ids += self.tokenizer(batch, add_special_tokens=False, return_attention_mask=False).input_ids
            else:
                self.backend.no_truncation()
                self.backend.no_padding()
                ids += [text.ids for text in self.backend.encode_batch_fast(batch, add_special_tokens=False)]
        return ids

    def encode_pairs(self, pairs: Sequence[Pair]) -> list[tuple[Ids, Ids]]:
        """The ids of each context and of its continuation, as lm-eval's `loglikelihood` encodes them.

        A continuation that a token joins with the context is encoded by itself; its ids are empty where they would not
        read as its text. The pairs of one context share one list of its ids.
        """
        normalized = [without_trailing_space(*pair) for pair in pairs]
        contexts = list(dict.fromkeys(context for context, _ in normalized))
        ids = dict(zip(contexts, self.encode(contexts), strict=True))
        lines = self.last_lines(ids)
        short = [lines[context] + continuation for context, continuation in normalized if context in lines]
        whole = [context + continuation for context, continuation in normalized if context not in lines]
        ends, wholes = iter(self.batches(short)), iter(self.encode(whole))
        starts = ids | {context: ids[context][-length:] for context, length in self.lengths(lines).items()}
        result = []
        for (original_context, _), (context, continuation) in zip(pairs, normalized, strict=True):
            encoded = next(ends if context in lines else wholes)
            if original_context:
                result.append((ids[context], self.after(starts[context], encoded, continuation)))
            else:
                result.append(self.without_context(continuation))
        return result

    def lengths(self, lines: Mapping[str, str]) -> dict[str, int]:
        """The number of token ids in the last line of each context."""
        return dict(zip(lines, map(len, self.batches(list(lines.values()))), strict=True))

    def after(self, start: Ids, whole: Ids, continuation: str) -> Ids:
        """The ids of the continuation of `start`, whose text together with it has the ids `whole`.

        They are the rest of `whole` if it begins with `start`. Otherwise they are the continuation's own, encoded after
        a line break where the tokenizer puts a mark before each text; empty if neither reads as the text of `whole`.
        """
        if whole[: len(start)] == start and len(whole) > len(start):
            return whole[len(start) :]
        text = self.decoded(whole)
        for before in ("", "\n"):
            first, both = self.batches([before, before + continuation])
            ids = both[len(first) :]
            if ids and both[: len(first)] == first and self.decoded(start + ids) == text:
                return ids
        return []

    def decoded(self, ids: Ids) -> str:
        """The text of token ids."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def last_lines(self, contexts: Mapping[str, Ids]) -> dict[str, str]:
        """The last line of each context whose last line can be encoded by itself; other contexts are left out.

        No token covers a line break and the letter after it, so the texts before and after that place are encoded
        independently. The ids are compared nevertheless, because some tokenizers put a mark before each text.
        """
        matches = {context: LAST_LINE.search(context) for context in contexts} if self.splits_at_lines else {}
        lines = {context: line[0] for context, line in matches.items() if line}
        encoded_alone = dict(zip(lines.values(), self.batches(list(lines.values())), strict=True))
        return {
            context: line
            for context, line in lines.items()
            if encoded_alone[line] and contexts[context][-len(encoded_alone[line]) :] == encoded_alone[line]
        }

    def without_context(self, continuation: str) -> tuple[Ids, Ids]:
        """The ids for an empty context: BOS or EOS takes its place, unless the continuation begins with it."""
        (ids,) = self.encode([continuation])
        return ([self.prefix_token], ids) if ids[:1] != [self.prefix_token] else (ids[:1], ids[1:])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As lm-eval's; see `chat`."""
        return self.chat(chat_history, add_generation_prompt)[1]

    def chat(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> tuple[list[dict[str, str]], str]:
        """The messages and their text in the model's chat template.

        The system message is dropped when the template refuses it, as by lm-eval's other models.
        """
        without_system = [message for message in chat_history if message["role"] != "system"]
        try:
            return chat_history, self.rendered(chat_history, add_generation_prompt)
        except TemplateError:
            pass
        try:
            return without_system, self.rendered(without_system, add_generation_prompt)
        except TemplateError as error:
            raise PrerequisiteError(
                f"The model's chat template refuses a prompt: {error}. Run it with --no-chat-template and --chat no."
            ) from error

    def rendered(self, chat_history: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """The messages in the model's chat template."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text


def without_trailing_space(context: str, continuation: str) -> Pair:
    """The pair with the context's trailing space moved to the continuation, as in lm-eval."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def generation_request(settings: dict[str, Any]) -> dict[str, Any]:
    """The fields of a completion request, without prompt and model, that lm-eval sends for these settings of a task.

    With neutral values of what the task does not set, which lm-eval leaves to the server. Without EOS among the stop
    sequences: a server stops at that token by itself, and leaves it out of the text.
    """
    settings = dict(settings)
    settings.pop("do_sample", None)
    limit = settings.pop("max_gen_toks", DEFAULT_ANSWER_TOKENS)
    limit = settings.pop("max_tokens", limit)
    until = settings.pop("until", None) or []
    stop = [until] if isinstance(until, str) else list(until)
    temperature = settings.pop("temperature", 0)
    return {**NEUTRAL, "max_tokens": limit, "temperature": temperature, "stop": stop, "seed": SEED, **settings}


def puts_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself adds BOS before a text."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
