"""Made rows for the suite `openllm`, as many and about as long as the real ones, and a tokenizer of their words.

Lengths are those of the real benchmarks in tokens of SmolLM2's tokenizer, rounded.
"""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import datasets
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from quantgate.components.benchmarks.splits import Rows, Split
from quantgate.components.benchmarks.suites import SUITES
from quantgate.components.benchmarks.tasks import definitions

WORDS = tuple(f"word{number}" for number in range(5000))
SIGNS = (*"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!()[]#<>-'\"_$%&*/+=", "Question", "Answer", "Q", "The")
SHOTS = 64
"""Rows of a split that only gives shots."""


def text(source: random.Random, words: int) -> str:
    """About so many words."""
    return " ".join(source.choices(WORDS, k=max(1, source.randint(words // 2, words + words // 2))))


def knowledge(source: random.Random) -> dict[str, Any]:
    choices = [text(source, 12) for _ in range(4)]
    return {"question": text(source, 55), "subject": "made", "choices": choices, "answer": source.randrange(4)}


def ending(source: random.Random) -> dict[str, Any]:
    endings = [text(source, 26) for _ in range(4)]
    begun = {"activity_label": "Made", "ctx_a": text(source, 35), "ctx_b": text(source, 8)}
    return {**begun, "endings": endings, "label": str(source.randrange(4))}


def science(source: random.Random) -> dict[str, Any]:
    choices = {"text": [text(source, 6) for _ in range(4)], "label": list("ABCD")}
    return {"question": text(source, 27), "choices": choices, "answerKey": source.choice("ABCD")}


def pronoun(source: random.Random) -> dict[str, Any]:
    sentence = f"{text(source, 14)} because _ {text(source, 6)}"
    return {"sentence": sentence, "option1": text(source, 1), "option2": text(source, 1), "answer": "1"}


def word_problem(source: random.Random) -> dict[str, Any]:
    return {"question": text(source, 60), "answer": f"{text(source, 110)}\n#### {source.randrange(100)}"}


def truth(source: random.Random) -> dict[str, Any]:
    count = source.randint(4, 10)
    targets = {"choices": [text(source, 11) for _ in range(count)], "labels": [1, *[0] * (count - 1)]}
    return {"question": text(source, 13), "mc1_targets": targets, "mc2_targets": targets}


SHAPES: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "cais/mmlu": knowledge,
    "Rowan/hellaswag": ending,
    "allenai/ai2_arc": science,
    "allenai/winogrande": pronoun,
    "openai/gsm8k": word_problem,
    "gsm8k": word_problem,
    "truthfulqa/truthful_qa": truth,
}


@cache
def scored_rows() -> dict[tuple[str, str], int]:
    """The number of rows of each scored split, by data set and configuration; a group's are divided evenly."""
    counts = {}
    for row in SUITES["openllm"].tasks:
        leaves = definitions(row.task, row.own)
        for number, leaf in enumerate(leaves):
            place = str(leaf["dataset_path"]), str(leaf.get("dataset_name") or "")
            counts[place] = row.full // len(leaves) + (number < row.full % len(leaves))
    return counts


class MadeRows:
    """A source with made rows for every split of the suite."""

    description = "made rows"

    def split(self, wanted: Split) -> Rows | None:
        """The rows of one split, always the same."""
        scored = wanted.split in ("test", "validation")
        count = scored_rows()[wanted.path, wanted.name] if scored else SHOTS
        source = random.Random(wanted.stem)
        rows = [SHAPES[wanted.path](source) for _ in range(count)]
        return Rows(datasets.Dataset.from_list(rows), wanted.split.ljust(64, "0"), "made rows")


def save_tokenizer(folder: Path) -> None:
    """Save a tokenizer of which each of the words is a token."""
    vocabulary = {token: number for number, token in enumerate(("<unknown>", "<end>", *SIGNS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
