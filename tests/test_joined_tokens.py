"""Tokenizers that join the end of a prompt with the answer, or put EOS after a text: every answer keeps its score."""

from pathlib import Path

import datasets
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from quantgate.components.benchmarks.encoder import Encoder
from quantgate.components.benchmarks.harness import prepare
from quantgate.components.benchmarks.prompts import Preparation, PromptFile, write
from quantgate.components.benchmarks.splits import Rows, Split
from quantgate.components.benchmarks.suites import SuiteTask
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.endpoint import Endpoint, UnscorableError
from quantgate.components.servers.scoring_requests import Question

pytestmark = pytest.mark.slow  # imports lm-eval and PyTorch

PIQA = SuiteTask("piqa", "acc", shots=0, chance=0.5, tiny=1, full=2)
EOS, BOS = 0, 1
ADDS_BOS = ("<s> $A", [("<s>", BOS)])
ADDS_BOTH = ("<s> $A <eos>", [("<s>", BOS), ("<eos>", EOS)])
ADDS_EOS = ("$A <eos>", [("<eos>", EOS)])


def encoder_of(merges: list[tuple[str, str]], special: tuple[str, list[tuple[str, int]]] | None = None) -> Encoder:
    """A byte-level tokenizer with these merges, which may cross the borders of words."""
    tokens = ["<eos>", "<s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if special:
        backend.post_processor = processors.TemplateProcessing(special[0], special_tokens=special[1])
    return Encoder(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", bos_token="<s>"))


def with_mark(merges: list[tuple[str, str]]) -> Encoder:
    """A tokenizer that puts a space before each text, as Llama 2 has, with these merges."""
    tokens = ["<eos>", "<s>", *"▁:\nQAB", *(a + b for a, b in merges)]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return Encoder(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", bos_token="<s>"))


def tokens(encoder: Encoder, ids: list[int]) -> list[str]:
    """The tokens of these ids."""
    return list(encoder.tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.fault(
    "numbers",
    "a token covers the end of the prompt and the beginning of an answer",
    "the answer is encoded by itself and scored whole",
)
@pytest.mark.parametrize(
    ("encoder", "pair", "expected"),
    [
        (encoder_of([("Ġ", "A"), (":", "ĠA")]), ("Q:", " A"), ["ĠA"]),
        (encoder_of([("Ġ", "A"), (":", "ĠA")]), ("Q:", " B"), ["Ġ", "B"]),
        (encoder_of([("Ġ", "A"), (":", "ĠA")], ADDS_BOS), ("Q:", " A"), ["ĠA"]),
        (encoder_of([("Ġ", "A"), (":", "ĠA")]), ("One line\nQ:", " A"), ["ĠA"]),
        (encoder_of([("Ġ", "A"), ("ĠA", "B"), (":", "ĠAB")]), ("Q: ", "ABA"), ["ĠAB", "A"]),
        (with_mark([("▁", "A"), (":", "▁A")]), ("Q:", " A"), ["▁A"]),
        (with_mark([(":", "A")]), ("Q:", "A"), ["A"]),
    ],
)
def test_an_answer_joined_with_its_prompt_is_encoded_by_itself(
    encoder: Encoder, pair: tuple[str, str], expected: list[str]
) -> None:
    ((context, continuation),) = encoder.encode_pairs([pair])
    assert tokens(encoder, continuation) == expected
    assert [context] == encoder.encode([pair[0].rstrip()])


@pytest.mark.fault(
    "numbers", "the tokenizer puts EOS after each text", "EOS is in no prompt, choice or window; BOS stays"
)
@pytest.mark.parametrize(("special", "first"), [(ADDS_BOTH, [BOS]), (ADDS_BOS, [BOS]), (ADDS_EOS, []), (None, [])])
def test_eos_is_never_put_after_a_text(special: tuple[str, list[tuple[str, int]]] | None, first: list[int]) -> None:
    encoder, bare = encoder_of([], special), encoder_of([])
    endpoint = Endpoint.__new__(Endpoint)
    endpoint.encoder = encoder
    (text,), (context,), (choice,) = (bare.batches([part]) for part in ("Q: A", "Q:", " A"))
    assert encoder.encode(["Q: A"]) == endpoint.tok_encode(["Q: A"]) == [[*first, *text]]
    assert encoder.encode_pairs([("Q:", " A"), ("a line\nQ:", " A")])[0] == ([*first, *context], choice)
    assert encoder.encode_pairs([("", " A")]) == [([BOS], choice)]
    assert endpoint.tok_encode("Q: A", left_truncate_len=2) == text[-2:]


class Answers:
    """Rows in PIQA's form; the second answer of the last row is given."""

    description = "rows of the tests"

    def __init__(self, answer: str) -> None:
        self.rows = [
            {"goal": "x" * n, "sol1": "A", "sol2": second, "label": 0} for n, second in ((1, "B"), (2, answer))
        ]

    def split(self, wanted: Split) -> Rows:
        return Rows(datasets.Dataset.from_list(self.rows), "0" * 64, wanted.path)


def prompts_of(encoder: Encoder, answer: str, folder: Path) -> PromptFile:
    """The prompts of both rows."""
    task, file = prepare(PIQA, Answers(answer)), folder / "prompts.parquet"
    write({"piqa": (task, {(0, 0), (0, 1)})}, Preparation(encoder, 2048), file, lambda _done, _task: None)
    return PromptFile(file)


def test_every_choice_in_the_prompts_has_its_own_tokens(tmp_path: Path) -> None:
    encoder = encoder_of([("Ġ", "A"), (":", "ĠA")], ADDS_BOTH)
    (block,) = prompts_of(encoder, "B", tmp_path).blocks("piqa", {(0, 0), (0, 1)})
    assert [[tokens(encoder, choice) for _, choice in item.requests] for item in block] == [[["ĠA"], ["Ġ", "B"]]] * 2


@pytest.mark.fault(
    "numbers",
    "the tokenizer has no token for an answer",
    "the run is refused before anything is asked, with task and item; the answer does not count as certain",
)
def test_an_answer_without_tokens_is_refused_with_task_and_item(tmp_path: Path) -> None:
    encoder = encoder_of([])
    encoder.tokenizer.backend_tokenizer.normalizer = normalizers.Strip(left=False, right=True)
    message = "Item 1 of piqa: the tokenizer has no tokens of its own for answer 2 of 2"
    with pytest.raises(PrerequisiteError, match=message):
        prompts_of(encoder, "", tmp_path)


def test_a_question_without_context_or_continuation_cannot_be_made() -> None:
    endpoint = Endpoint.__new__(Endpoint)
    endpoint.max_length, endpoint.truncated = 10, 0
    assert endpoint.question([5], [6]) == Question((5, 6), 1)
    with pytest.raises(UnscorableError, match="An answer has no tokens of its own after its prompt"):
        endpoint.question([5], [])
    for start in (0, 2):
        with pytest.raises(ValueError, match=f"A question has 2 tokens and its continuation starts at {start}"):
            Question((5, 6), start)
