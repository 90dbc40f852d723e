"""GGUF files as variants: read, compared with the model, and served by a real llama.cpp."""

import importlib.metadata
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from quantgate.components.benchmarks.suites import Suite, SuiteTask
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.evaluation import Evaluation
from quantgate.components.evaluate.tested_model import TestedModel
from quantgate.components.models import own_checkpoint
from quantgate.components.models.content import GGUF
from quantgate.components.models.gguf_file import GgufFile, check_of_model
from quantgate.components.models.recipe_file import all_variants
from quantgate.components.models.sources import resolve
from quantgate.components.models.variants import Variant
from quantgate.components.processes import lease
from quantgate.components.quantize.quantization import given_weights
from quantgate.components.run import records
from quantgate.components.run.artifacts import Server, Weights
from quantgate.components.run.checkpoint import Checkpoint
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.progress import Step
from quantgate.components.servers import access, lifecycle, local_llama, local_server
from quantgate.components.servers.abilities import abilities
from quantgate.components.servers.client import Client, client_of
from quantgate.components.servers.llama_server import FILE, chat_template
from quantgate.components.servers.scoring_requests import Ask, Kind, Question
from quantgate.components.servers.scoring_ways import (
    WAYS,
    WHOLE_VOCABULARY,
    BadAnswerError,
    PartOfCharacterError,
    score,
)
from quantgate.components.storage.location import open_store
from tests.support.gguf_model import write_gguf
from tests.support.prompted import questions_on
from tests.test_evaluate import Few

pytestmark = pytest.mark.slow  # imports PyTorch and starts llama.cpp


PARTS = tuple(range(130, 140))
"""The tokens of bytes with which a character of several bytes begins: C5 to CE."""


def stored(tiny_model: Path, folder: Path, weights: str) -> tuple[Checkpoint, Weights]:
    """The tiny model as a GGUF file in a run's store."""
    file, store = write_gguf(tiny_model, folder / f"tiny-{weights}.gguf", weights), open_store(str(folder / "store"))
    model = resolve(f"file:{tiny_model}", store, folder / "cache")
    checkpoint = own_checkpoint.stored(f"file:{file}", Path(model.uri), store, folder / "cache")
    return checkpoint, given_weights(checkpoint, Variant("mine", scheme="", algorithm="", checkpoint=str(file)), model)


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """llama.cpp with the tiny model in 32 bits: it computes what transformers does."""
    folder = tmp_path_factory.mktemp("llama")
    _, weights = stored(tiny_model, folder, "F32")
    with lease.hold(folder / "run" / "lease"):
        started = lifecycle.deploy(weights, Path(weights.uri), str(folder / "run"), 512)
        assert started.failure == ""
        yield started
        local_server.undeploy(started)


def test_a_stored_file_says_what_it_is_and_has_the_models_own_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    checkpoint, weights = stored(tiny_model, tmp_path, "Q8_0")
    assert (checkpoint.scheme, checkpoint.method, checkpoint.stored_bits) == ("Q8_0", "gguf", 8.5)
    assert (weights.size_bytes, weights.algorithm) == ((tmp_path / "tiny-Q8_0.gguf").stat().st_size, "gguf")
    files = {file.name for file in Path(weights.uri).iterdir()}
    assert FILE == GGUF, "what the server looks for is what the store holds"
    assert {"model.gguf", "config.json", "tokenizer.json", "tokenizer_config.json"} <= files
    assert "model.safetensors" not in files


def expected(tiny_model: Path, question: Question) -> tuple[float, bool]:
    """The question's log-likelihood by transformers in 32 bits, and whether each token is the likeliest."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([question.tokens])).logits[0]
    scored = [torch.log_softmax(logits[at - 1], -1) for at in range(question.start, len(question.tokens))]
    own = question.tokens[question.start :]
    logliks = [float(row[token]) for row, token in zip(scored, own, strict=True)]
    return math.fsum(logliks), all(int(row.argmax()) == token for row, token in zip(scored, own, strict=True))


def test_its_scores_are_the_models_own(tiny_model: Path, server: Server) -> None:
    """Several continuations of one context, one token and several, one of which begins another."""
    context = tuple(b % 250 for b in b"What does a server of its own answer here?")
    questions = [Question(context + end, len(context)) for end in ((7,), (7, 8), (7, 9, 30), (200,), PARTS)]
    model = TestedModel(client_of(server))
    assert model.kinds == {Kind.FORCED}
    scores: dict[Question, Any] = {}
    model.run(model.scoring_jobs(questions, lambda question, answer: scores.update({question: answer})))
    for question in questions:
        loglik, greedy = expected(tiny_model, question)
        assert scores[question].loglik == pytest.approx(loglik, abs=2e-3)
        assert scores[question].greedy is greedy


def test_the_likeliest_token_is_greedy(tiny_model: Path, server: Server) -> None:
    """Continue with what transformers finds likeliest, so that at least one answer is greedy."""
    import torch
    from transformers import AutoModelForCausalLM

    context = tuple(range(20, 60))
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)(torch.tensor([context])).logits
    question, model, answers = Question((*context, int(logits[0, -1].argmax())), 40), TestedModel(client_of(server)), []
    model.run(model.scoring_jobs([question], lambda _question, answer: answers.append(answer)))
    assert [answer.greedy for answer in answers] == [True]


def test_its_server_demands_a_key_and_says_what_it_is(server: Server) -> None:
    assert httpx.get(f"{server.url}/models").status_code == 401
    assert access.key_of(server) not in server.command
    found = abilities(client_of(server))
    assert (found.package, found.max_model_len, server.engine_name) == ("llama.cpp", 512, "llama.cpp")
    assert [(way.kind, bool(way.trouble)) for way in found.tried][:2] == [(Kind.FORCED, False), (Kind.BATCH, True)]
    assert "scored more slowly, with forced and not batch: llama.cpp does not offer it" in found.why_slow
    assert server.engine == f"llama.cpp (xllamacpp {importlib.metadata.version('xllamacpp')})"
    assert server.identity == local_llama.identity_here(server.identity.weights if server.identity else "", 512)
    assert server.identity
    assert server.identity.on_cpu


def test_a_variant_is_evaluated_on_choices_and_on_generated_texts(
    tiny_model: Path, server: Server, tmp_path: Path
) -> None:
    choices = Suite("small", "For tests.", (SuiteTask("piqa", "acc", shots=0, chance=0.5, tiny=2, full=3),))
    asked = questions_on(choices, Few(6), tiny_model, tmp_path / "prompts.parquet")
    step = Step(tmp_path / "progress.jsonl", "tiny", "mine")
    scores = Evaluation(server, asked, "tiny", step).run(tmp_path / "records.parquet")
    assert (scores.failure, scores.tasks[0].items) == ("", 2)
    assert scores.engine.startswith("llama.cpp (xllamacpp ")
    assert len(records.read(tmp_path / "records.parquet")) == 2
    model, texts = TestedModel(client_of(server)), {}
    greedy = {"max_tokens": 5, "temperature": 0, "stop": []}
    sampled = {"max_tokens": 5, "temperature": 0.7, "seed": 3, "stop": []}
    requests = [(list(range(20, 40)), greedy), (list(range(20, 40)), sampled)]
    model.run(model.generating_jobs(requests, lambda number, text: texts.update({number: text})))
    assert [texts[number].tokens for number in (0, 1)] == [5, 5]


def test_a_chat_is_sent_as_the_token_ids_that_the_run_prepared(server: Server) -> None:
    """Asked with messages, llama.cpp repeats the beginning of an answer, and splits off what it takes for thinking."""
    model = TestedModel(client_of(server))
    chat = {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": False, "temperature": 0}
    sent = model.payload([5, 6], chat | {"continue_final_message": True})
    assert sent == {"model": "quantgate-mine", "prompt": [[5, 6]], "top_k": 0, "min_p": 0, "repeat_penalty": 1} | {
        "temperature": 0
    }


def test_its_client_waits_in_no_long_queue_and_overrules_the_files_sampling(server: Server) -> None:
    client = client_of(server)
    assert (client.concurrency, client.neutral) == (2, {"top_k": 0, "min_p": 0, "repeat_penalty": 1})
    outside = Client(server.url, server.served_name)
    outside.key = access.key_of(server)
    abilities(outside)
    assert (outside.concurrency, outside.neutral) == (2, client.neutral)


def test_chats_have_the_models_template_and_not_the_files(tiny_model: Path, tmp_path: Path) -> None:
    """The settings of the tokenizer hold it, or a file beside them."""
    assert chat_template(tiny_model) == ""
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text('{"chat_template": "{{ messages }}"}')
    assert chat_template(tmp_path) == "{{ messages }}"
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "chats"}]
    settings.write_text(json.dumps({"chat_template": several}))
    assert chat_template(tmp_path) == "chats"
    (tmp_path / "chat_template.jinja").write_text("{{ 1 }}")
    assert chat_template(tmp_path) == "{{ 1 }}"


def test_a_server_that_cannot_read_its_file_is_reported_with_its_log(tiny_model: Path, tmp_path: Path) -> None:
    _, weights = stored(tiny_model, tmp_path, "Q8_0")
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "model.gguf").write_bytes((Path(weights.uri) / "model.gguf").read_bytes()[:3000])
    with lease.hold(tmp_path / "run" / "lease"):
        server = local_llama.deploy("mine", folder, tmp_path / "run", "digest", 512)
    assert server.failure.startswith("llama.cpp ended (")
    assert "before it was ready" in server.failure
    assert "llama_server.py" in server.failure
    assert not (tmp_path / "run" / "mine" / "server.key").exists()


def test_added_tokens_are_compared_as_the_converter_writes_them(tiny_model: Path, tmp_path: Path) -> None:
    """Gemma's added tokens of several spaces are ▁▁ for transformers, and two spaces in the file."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["▁▁"])
    tokenizer.save_pretrained(tmp_path / "model")
    shutil.copy(tiny_model / "config.json", tmp_path / "model")
    shutil.copy(tiny_model / "model.safetensors", tmp_path / "model")
    names = tokenizer.convert_ids_to_tokens([*range(len(tokenizer))])
    file = GgufFile(write_gguf(tmp_path / "model", tmp_path / "m.gguf", tokens=[*names[:-1], "  ", "[PAD258]"]))
    check_of_model(file, tmp_path / "model")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"tokens": ["<eos>", *map(str, range(256))]},
            r"\d+ tokens of the vocabulary differ, as token 1: '0', the",
        ),
        ({"end": 5}, "its end of text is token 5, the model's 0"),
        ({"width": 32}, "embedding_length is 32, and the model's hidden_size 64"),
        ({"parts": 3}, "is one of 3 parts of a model. Put them together first"),
    ],
)
def test_a_file_of_another_model_is_refused(
    tiny_model: Path, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    file = write_gguf(tiny_model, tmp_path / "other.gguf", **changed)
    with pytest.raises(PrerequisiteError, match=message):
        own_checkpoint.stored(f"file:{file}", tiny_model, open_store(str(tmp_path / "store")), tmp_path)


def plan(source: str, *variants: str) -> EvaluationPlan:
    return EvaluationPlan(variants=variants, variant=(f"mine={source}",), suite="quick", store="", results="")


def test_what_is_no_gguf_file_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.gguf").write_text("<html>")
    for source, message in (
        (f"file:{tmp_path}/page.gguf", "is not a GGUF file: it does not begin with GGUF"),
        (f"file:{tmp_path}/none.gguf", "There is no file"),
        ("hf:org/model.gguf", "a GGUF file is taken from this machine or from S3. Download it"),
    ):
        with pytest.raises(PrerequisiteError, match=message):
            all_variants(plan(source))
    (tmp_path / "good.gguf").write_bytes(b"GGUF")
    assert all_variants(plan(f"file:{tmp_path}/good.gguf")) == ("bf16", "mine")
    with pytest.raises(PrerequisiteError, match=r"mine\.kv-fp8: only vLLM keeps keys and values in FP8"):
        all_variants(plan(f"file:{tmp_path}/good.gguf", "mine.kv-fp8"))
    monkeypatch.setattr(local_llama, "PACKAGE", "no-such-package")
    with pytest.raises(PrerequisiteError, match=r"pip install 'quantgate\[gguf\]'"):
        local_llama.check_installed([f"mine=file:{tmp_path}/good.gguf"])
    local_llama.check_installed(["mine=hf:org/name"])


def test_a_server_that_generates_another_token_gives_no_score() -> None:
    ask = Ask(Kind.FORCED, (1, 2, 3), 2, (3,))
    top = [{"logprob": -0.5}]
    answer = {"choices": [{"logprobs": {"content": [{"id": 3, "logprob": -1.5, "top_logprobs": top}]}}]}
    assert score(WAYS[Kind.FORCED], [ask], answer)[0].at(2, 3) == (-1.5, False)
    answer["choices"][0]["logprobs"]["content"][0]["id"] = 4
    with pytest.raises(BadAnswerError, match="generated token 4 and not 3"):
        score(WAYS[Kind.FORCED], [ask], answer)
    with pytest.raises(PartOfCharacterError, match="no log-probability of token 3"):
        score(WAYS[Kind.FORCED], [ask], {"choices": [{"logprobs": None}]})
    ranked = [{"id": 9, "logprob": -0.5}, {"id": 3, "logprob": -2.5}]
    answer = {"choices": [{"logprobs": {"content": [{"id": 9, "logprob": -0.5, "top_logprobs": ranked}]}}]}
    assert score(WHOLE_VOCABULARY, [ask], answer)[0].at(2, 3) == (-2.5, False)
    ranked[1]["logprob"] = -3.4028234663852886e38
    with pytest.raises(BadAnswerError, match=r"gave -3\.4\S+ as a log-probability"):
        score(WHOLE_VOCABULARY, [ask], answer)
    with pytest.raises(BadAnswerError, match="says nothing of token 4"):
        score(WHOLE_VOCABULARY, [Ask(Kind.FORCED, (1, 2, 4), 2, (4,))], answer)
