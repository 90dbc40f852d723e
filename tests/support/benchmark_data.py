"""Real benchmark rows for tests, laid out under the hub's names, so that `Folder` provides what lm-eval's tasks load.

The rows are shared data beside the checkout, or where QUANTGATE_BENCHMARK_DATA says; a test that needs them skips
where they are absent.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

VARIABLE = "QUANTGATE_BENCHMARK_DATA"
LETTERS = "ABCD"

AS_THEY_ARE = {
    "ai2_arc/ARC-Challenge/test": "allenai/ai2_arc/ARC-Challenge/test",
    "ai2_arc/ARC-Challenge/validation": "allenai/ai2_arc/ARC-Challenge/validation",
    "ai2_arc/ARC-Easy/test": "allenai/ai2_arc/ARC-Easy/test",
    "ai2_arc/ARC-Easy/validation": "allenai/ai2_arc/ARC-Easy/validation",
    "gsm8k/test": "openai/gsm8k/main/test",
    "gsm8k/train": "openai/gsm8k/main/train",
    "hellaswag/validation": "Rowan/hellaswag/default/validation",
    "humaneval/test": "openai/openai_humaneval/default/test",
    "ifeval/train": "google/IFEval/default/train",
    "truthfulqa/multiple_choice_validation": "truthfulqa/truthful_qa/multiple_choice/validation",
    "winogrande/validation": "allenai/winogrande/winogrande_xl/validation",
    "tiny/tinyArc": "tinyBenchmarks/tinyAI2_arc/ARC-Challenge/test",
    "tiny/tinyGSM8k": "tinyBenchmarks/tinyGSM8k/main/test",
    "tiny/tinyHellaswag": "tinyBenchmarks/tinyHellaswag/default/validation",
    "tiny/tinyTruthfulQA": "tinyBenchmarks/tinyTruthfulQA/multiple_choice/validation",
    "tiny/tinyWinogrande": "tinyBenchmarks/tinyWinogrande/winogrande_xl/validation",
}
"""Files that are copied, and the hub's names for them; tasks without a dataset_name read `default`."""

MBPP_FIRST = {"prompt": 1, "test": 11, "validation": 511, "train": 601}
"""The first task_id of each of the hub's splits."""


def shared_data() -> Path:
    """The folder with the shared rows; skips the test if it is missing."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get(VARIABLE) or beside)
    if not (folder / "SHA256SUMS").is_file():
        pytest.skip(f"needs real benchmark rows: set {VARIABLE} to the folder that has them")
    return folder


def laid_out(factory: pytest.TempPathFactory) -> Path:
    """The folder that `lay_out` writes, once per session."""
    folder = factory.getbasetemp() / "benchmark-data"
    if not folder.exists():
        data = shared_data()
        partial = factory.mktemp("laid-out")
        lay_out(partial, data)
        partial.rename(folder)
    return folder


def lay_out(folder: Path, data: Path) -> None:
    """Write the shared rows as `folder`/NAME/SPLIT.jsonl, under the hub's names.

    The six tiny sets have no training split, except tinyGSM8k, which has GSM8K's.
    """
    for source, stem in AS_THEY_ARE.items():
        copy(data / f"{source}.jsonl", folder, stem)
    copy(data / "gsm8k/train.jsonl", folder, "tinyBenchmarks/tinyGSM8k/main/train")
    for split in ("test", "dev", "validation"):
        for subject, lines in by_subject(data / f"mmlu/{split}.jsonl").items():
            write(folder, f"cais/mmlu/{subject}/{split}", lines)
    for split, lines in mbpp_splits(data / "mbpp/mbpp.jsonl").items():
        write(folder, f"google-research-datasets/mbpp/full/{split}", lines)
    pages = [json.dumps({"page": page}) for page in pages_of((data / "wikitext2/test.txt").read_bytes().decode())]
    write(folder, "EleutherAI/wikitext_document_level/wikitext-2-raw-v1/test", pages)
    write(folder, "tinyBenchmarks/tinyMMLU/all/test", [json.dumps(row) for row in tiny_mmlu(data)])


def copy(source: Path, folder: Path, stem: str) -> None:
    target = folder / f"{stem}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def write(folder: Path, stem: str, lines: Iterable[str]) -> None:
    target = folder / f"{stem}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def lines_of(path: Path) -> list[str]:
    """The lines of a JSON lines file; not splitlines, which cuts at characters that JSON leaves as they are."""
    return path.read_bytes().decode().rstrip("\n").split("\n")


def by_subject(path: Path) -> dict[str, list[str]]:
    """MMLU's lines by their subject, in their order."""
    lines = defaultdict(list)
    for line in lines_of(path):
        lines[json.loads(line)["subject"]].append(line)
    return lines


def mbpp_splits(path: Path) -> dict[str, list[str]]:
    """MBPP's lines by split, which the task_id says."""
    lines = defaultdict(list)
    for line in lines_of(path):
        task_id = json.loads(line)["task_id"]
        lines[max(MBPP_FIRST, key=lambda split: (MBPP_FIRST[split] <= task_id, MBPP_FIRST[split]))].append(line)
    return lines


def pages_of(text: str) -> list[str]:
    """The text's documents: each begins with a heading of the first level, ` = Title = `.

    It is the rule of the set that lm-eval reads, with its flaw: two formulas of one article look like headings too,
    so the 60 articles of the test split become 62 pages.
    Source: https://huggingface.co/datasets/EleutherAI/wikitext_document_level
    """
    pages: list[list[str]] = [[]]
    for line in text.split("\n"):
        bare = line.replace("= = =", "===").replace("= =", "==").strip()
        if bare.startswith("= ") and bare.endswith(" ="):
            pages.append([])
        pages[-1].append(line)
    joined = ["\n".join(lines) for lines in pages]
    return [page for page in joined if page.strip()]


def tiny_mmlu(data: Path) -> Iterable[dict[str, object]]:
    """tinyMMLU's rows with `input_formatted`: lm-eval's own text for MMLU with the subject's five dev rows before."""
    dev = {
        subject: [json.loads(line) for line in lines] for subject, lines in by_subject(data / "mmlu/dev.jsonl").items()
    }
    for line in lines_of(data / "tiny/tinyMMLU.jsonl"):
        row = json.loads(line)
        subject = row["subject"]
        head = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        shots = "".join(f"{question_text(shot)} {LETTERS[shot['answer']]}\n\n" for shot in dev[subject])
        yield {**row, "input_formatted": head + shots + question_text(row)}


def question_text(row: dict[str, object]) -> str:
    """The question as mmlu's `doc_to_text` writes it."""
    choices = row["choices"]
    assert isinstance(choices, list)
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return "\n".join([str(row["question"]).strip(), *lines, "Answer:"])
