"""The lm-eval model on a fake server: the numbers of lm-eval's own client, in every way, whatever the server does."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.models.openai_completions import LocalCompletionsAPI
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from quantgate.components.benchmarks.encoder import Encoder, generation_request
from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.endpoint import NAME, Endpoint, UnscorableError
from quantgate.components.evaluate.ledger import Ledger
from quantgate.components.evaluate.tested_model import LedgerModel, TestedModel
from quantgate.components.processes import lease
from quantgate.components.run.artifacts import Server
from quantgate.components.servers import access, client, local_server, local_vllm
from quantgate.components.servers.abilities import Abilities, abilities
from quantgate.components.servers.client import Client, ServerFailedError, Text
from quantgate.components.servers.scoring_requests import OF_VLLM, Ask, Kind, Loglik, Question
from quantgate.components.servers.scoring_ways import WAYS, BadAnswerError, score
from tests.support.fake_vllm import serving_python

pytestmark = pytest.mark.slow
PROBES = 2 * (1 + 6 + 1 + 1) + 1 + 1
"""Calls that show what the server can do: an echo, six reads, a suffix, a batch, each twice; and the last two again."""
PROBE_PROMPTS = PROBES + 2
"""Two of the batches have two prompts."""

PAIRS = [
    ("Question: what?\nAnswer:", " this"),
    ("Question: what?\nAnswer:", " that one"),
    ("Question: what?\nAnswer:", " t"),
    ("Question: what?\nAnswer: ", "trailing space"),
    ("the same", " x"),
    ("the same", " y"),
    ("the same", " z"),
    ("joined wo", "rds move the boundary"),
    ("", "no context"),
    ("long " * 60, " and cut"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with lease.hold(tmp_path / "run" / "lease"):
        yield tmp_path / "run"


@pytest.fixture
def serve(folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a fake server of a mode."""
    started: list[Server] = []

    def start(mode: str, probes: int = 0) -> Any:
        monkeypatch.setenv("QUANTGATE_SERVING_PYTHON", str(serving_python(folder / "serving-python")))
        monkeypatch.setenv("VLLM_FAKE", mode)
        monkeypatch.setenv("VLLM_FAKE_PROBES", str(probes))
        monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.05)
        started.append(local_vllm.deploy(f"v{len(started)}", tiny_model, folder))
        assert started[-1].failure == ""
        monkeypatch.setenv("OPENAI_API_KEY", access.key_of(started[-1]))  # what lm-eval sends too
        return started[-1]

    yield start
    for server in started:
        local_server.undeploy(server)


def endpoint(server: Any, **settings: Any) -> Endpoint:
    return Endpoint(server.url, server.served_name, server.model_path, 128, **settings)


def theirs(server: Any) -> LocalCompletionsAPI:
    return LocalCompletionsAPI(
        base_url=f"{server.url}/completions",
        model=server.served_name,
        tokenizer=server.model_path,
        tokenizer_backend="huggingface",
        num_concurrent=2,
        max_length=128,
    )


def requests(pairs: list[tuple[Any, ...]]) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in pairs]


def questions(ours: Endpoint) -> list[Question]:
    """The distinct questions of PAIRS."""
    asked_for = [ours.question(*ids) for ids in ours.encoder.encode_pairs(PAIRS)]
    return list(dict.fromkeys(question for question in asked_for if question))


def texts(ours: Endpoint, prompts: list[tuple[str, dict[str, Any]]]) -> list[Text]:
    """The texts that are generated after the prompts, each with whether it was cut."""
    texts: dict[int, Text] = {}
    sent = [ours.generation(ours.encoder.encode([prompt])[0], settings) for prompt, settings in prompts]
    ours.tested.run(ours.tested.generating_jobs(sent, texts.__setitem__))
    return [texts[number] for number in range(len(prompts))]


def same(scores: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> bool:
    """Whether the log-likelihoods agree but for the order of their sums, and the greedy flags."""
    assert [loglik for loglik, _ in scores] == pytest.approx([loglik for loglik, _ in expected], abs=1e-9)
    return [greedy for _, greedy in scores] == [greedy for _, greedy in expected]


def prompts_scored(server: Any) -> int:
    with urllib.request.urlopen(server.url.removesuffix("/v1") + "/asked") as answer:
        return int(json.loads(answer.read()))


@pytest.mark.parametrize(("mode", "way"), [*(("ok", way) for way in ("", *OF_VLLM)), ("left-out", "suffix")])
def test_every_way_gives_the_results_of_lm_evals_own_client(serve: Any, mode: str, way: str) -> None:
    server = serve(mode)
    ours = endpoint(server, way=way)
    expected = theirs(server).loglikelihood(requests(PAIRS), disable_tqdm=True)
    scores = ours.loglikelihood(requests(PAIRS))
    assert same(scores, expected)
    assert ours.truncated == 1


def test_bos_is_part_of_the_prompt_only_when_the_tokenizer_adds_it(serve: Any, tiny_model: Path) -> None:
    server = serve("ok")
    plain = endpoint(server).loglikelihood(requests(PAIRS))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model)
    tokenizer.bos_token = "<eos>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    folder = Path(server.model_path).parent / "with-bos"
    tokenizer.save_pretrained(folder)
    scores = Endpoint(server.url, server.served_name, str(folder), 128).loglikelihood(requests(PAIRS))
    own = theirs(server.model_copy(update={"model_path": str(folder)}))
    own.add_bos_token = True
    expected = own.loglikelihood(requests(PAIRS), disable_tqdm=True)
    assert same(scores, expected)
    assert scores != plain


def test_rolling_windows_equal_lm_evals(serve: Any) -> None:
    server = serve("ok")
    texts = requests([("abc def " * 80,), ("short",)])
    expected = theirs(server).loglikelihood_rolling(texts, disable_tqdm=True)
    for way in OF_VLLM:
        assert endpoint(server, way=way).loglikelihood_rolling(texts) == pytest.approx(expected, abs=1e-9)


def test_generation_sends_the_requests_of_lm_eval(serve: Any, tmp_path: Path) -> None:
    server = serve("ok")
    settings = {"until": ["\n", "Q:"], "max_gen_toks": 16, "do_sample": False, "temperature": 0.0}
    prompts = requests(
        [("Say it", settings), ("long " * 60, settings), ("Say it all", {"until": ["."], "max_gen_toks": 9})]
    )
    expected = theirs(server).generate_until(prompts, disable_tqdm=True)
    kept = {"ledger": str(tmp_path / "ledger.sqlite"), "model_digest": "tiny"}
    ours = endpoint(server, **kept)
    before = prompts_scored(server)
    assert ours.generate_until(prompts) == expected
    assert ours.truncated == 1
    assert prompts_scored(server) - before == 3
    again = endpoint(server, **kept)
    before = prompts_scored(server)
    assert again.generate_until(prompts) == expected
    assert (prompts_scored(server) - before, again.tested.reused) == (0, 3)


def test_an_older_server_is_scored_by_echo(serve: Any) -> None:
    server = serve("echo-only")
    ours = endpoint(server)
    assert ours.tested.kinds == {Kind.ECHO}
    assert {way.kind for way in ours.tested.server.tried if way.trouble} == set(OF_VLLM) - {Kind.ECHO}
    assert same(ours.loglikelihood(requests(PAIRS)), theirs(server).loglikelihood(requests(PAIRS), disable_tqdm=True))


def test_every_way_is_detected_and_the_suffix_only_if_cached_rows_are_marked(serve: Any) -> None:
    assert endpoint(serve("ok")).tested.kinds == set(OF_VLLM)
    assert endpoint(serve("left-out")).tested.kinds == set(OF_VLLM) - {Kind.BATCH}  # an older plugin
    unmarked = endpoint(serve("unmarked"))
    assert unmarked.tested.kinds == {Kind.READ, Kind.ECHO}
    assert "does not mark" in next(way.trouble for way in unmarked.tested.server.tried if way.kind is Kind.SUFFIX)


@pytest.mark.parametrize(
    ("rows", "trouble"),
    [
        ([None, {"5": -1.0}, {"6": -2.0}, {"7": -3.0}], ""),
        ([None, {"6": -2.0}, {"7": -3.0}], ""),  # the second token came from the cache
        ([None, {"7": -3.0}], "came from the prefix cache"),
        ([None, {"5": -1.0}, {"6": -2.0}], "not the prompt's last ones"),  # the last row is missing, not the first
        ([], "scored 0 tokens where 4"),
        ([None, *[{"5": -1.0}] * 4], "scored 5 tokens where 4"),
    ],
)
def test_a_suffix_is_read_from_the_last_rows_of_the_prompt(rows: list[Any], trouble: str) -> None:
    ask = Ask(Kind.SUFFIX, (4, 5, 6, 7), start=2)
    given = [row and {token: {"logprob": value} for token, value in row.items()} for row in rows]
    if trouble:
        with pytest.raises(BadAnswerError, match=trouble):
            score(WAYS[Kind.SUFFIX], [ask], {"prompt_logprobs": given})
    else:
        (scored,) = score(WAYS[Kind.SUFFIX], [ask], {"prompt_logprobs": given})
        assert scored.positions == {2: ({6: -2.0}, -2.0), 3: ({7: -3.0}, -3.0)}


def test_doctor_shows_which_ways_work_and_why_the_others_do_not(serve: Any) -> None:
    server = serve("echo-only")
    command = [sys.executable, "-m", "quantgate.pipelines.cli", "doctor", "--endpoint", server.url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "serves quantgate-v0 (vLLM 0.0.fake, 2048 tokens)" in output
    assert "✔ echo" in output
    assert "✘ suffix" in output
    assert "HTTP 404" in output
    assert "--enable-scale-out" in output
    assert "Used: echo" in output
    wrong = subprocess.run([*command, "--model", "llama"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "not 'llama'" in wrong.stderr


def test_lm_eval_finds_the_model_by_its_name(serve: Any, tmp_path: Path) -> None:
    server = serve("ok")
    (tmp_path / "letters.jsonl").write_text('{"q": "What comes after A?", "a": 0}\n' * 3)
    (tmp_path / "letters.yaml").write_text(
        "task: letters\ndataset_path: json\noutput_type: multiple_choice\n"
        f"dataset_kwargs: {{data_files: {{validation: {tmp_path / 'letters.jsonl'}}}}}\n"
        "validation_split: validation\ndoc_to_text: '{{q}}'\ndoc_to_target: a\ndoc_to_choice: [' B', ' no']\n"
    )
    arguments = f"base_url={server.url},model={server.served_name},tokenizer={server.model_path},max_length=128"
    command = [
        sys.executable,
        "-m",
        "quantgate.pipelines.cli",
        "lm-eval",
        "run",
        "--model",
        NAME,
        "--model_args",
        arguments,
    ]
    command += ["--tasks", "letters", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    (results,) = (tmp_path / "out").glob("**/results_*.json")
    assert 0 <= json.loads(results.read_text())["results"]["letters"]["acc,none"] <= 1


def test_a_model_that_is_not_served_is_reported_with_the_served_ones(serve: Any) -> None:
    server = serve("ok")
    with pytest.raises(PrerequisiteError, match="serves quantgate-v0, not 'llama'"):
        abilities(Client(server.url, "llama"))
    assert abilities(Client(server.url, "")).max_model_len == 2048
    with pytest.raises(PrerequisiteError, match="No OpenAI-compatible server answers"):
        abilities(Client("http://127.0.0.1:9/v1", ""))


def test_requests_are_repeated_to_a_server_that_often_fails_and_the_scores_stay_the_same(serve: Any) -> None:
    calm = endpoint(serve("ok")).loglikelihood(requests(PAIRS))
    flaky = endpoint(serve("flaky", probes=100), num_concurrent=3)
    for way in OF_VLLM:
        flaky.way = way
        assert same(flaky.loglikelihood(requests(PAIRS)), calm)


@pytest.mark.parametrize("mode", ["mortal", "500", "429", "garbage", "short"])
def test_a_server_that_fails_for_good_is_an_error_and_its_answers_are_kept(
    serve: Any, mode: str, tmp_path: Path
) -> None:
    server = serve(mode, probes=PROBES + 3)
    file = tmp_path / "ledger.sqlite"
    ours = endpoint(server, way="suffix", num_concurrent=1, ledger=str(file), model_digest="tiny")
    with pytest.raises(ServerFailedError):
        ours.loglikelihood(requests(PAIRS))
    assert ours.tested.ledger
    with closing(Ledger(file, ours.tested.ledger.identity)) as ledger:
        assert 0 < ledger.count() < len(PAIRS)


def test_an_interrupted_evaluation_repeats_no_request_and_loses_no_answer(serve: Any, tmp_path: Path) -> None:
    class BrokenOffError(Exception):
        pass

    answered: list[Question] = []

    def break_off(question: Question, _answer: Loglik) -> None:
        answered.append(question)
        if len(answered) == 5:
            raise BrokenOffError

    server = serve("ok", probes=PROBES)
    calm = endpoint(server).loglikelihood(requests(PAIRS))
    kept = {"ledger": str(tmp_path / "ledger.sqlite"), "model_digest": "tiny", "num_concurrent": 1, "way": "suffix"}
    first = endpoint(server, **kept)
    with pytest.raises(BrokenOffError):
        first.tested.run(first.tested.scoring_jobs(questions(first), break_off))
    second = endpoint(server, **kept)
    assert second.loglikelihood(requests(PAIRS)) == calm
    assert second.tested.reused == 5
    third = endpoint(server, **kept)
    before = prompts_scored(server)
    assert third.loglikelihood(requests(PAIRS)) == calm
    assert (prompts_scored(server), third.tested.reused) == (before, len(PAIRS))


EVALUATION = """
import sys
from tests import test_endpoint as t
from quantgate.components.evaluate.endpoint import Endpoint
url, name, model, file = sys.argv[1:]
ours = Endpoint(url, name, model, 128, ledger=file, model_digest="tiny", num_concurrent=1, way="suffix")
print("ready", flush=True)
ours.tested.run(ours.tested.scoring_jobs(t.questions(ours), lambda *_answer: print("answered", flush=True)))
"""


def test_a_killed_evaluation_resumes_where_it_stopped(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_FAKE_DELAY_S", "0.05")
    server = serve("ok", probes=PROBES)
    file = tmp_path / "ledger.sqlite"
    command = [sys.executable, "-c", EVALUATION, server.url, server.served_name, server.model_path, str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout as lines:
        for number, _line in enumerate(lines):  # the first one says that it is ready
            if number == 4:
                process.kill()
                break
    process.wait()
    before = prompts_scored(server)
    assert before <= 5  # one was on its way
    rest = endpoint(server, ledger=str(file), model_digest="tiny")
    scores = rest.loglikelihood(requests(PAIRS))
    assert rest.tested.reused >= 4
    assert prompts_scored(server) - PROBE_PROMPTS <= len(PAIRS) + 1
    assert scores == endpoint(server).loglikelihood(requests(PAIRS))


def test_stop_sequences_beyond_a_servers_limit_of_four_are_applied_by_the_client(serve: Any) -> None:
    """The fake refuses more than four and answers `N tokens, 99 more, until […]`."""
    settings = {"until": ["a1", "a2", "a3", "a4", " more"], "max_gen_toks": 99, "do_sample": False}
    ours = endpoint(serve("ok"))
    assert ours.generate_until([SimpleNamespace(args=("Say it", settings))]) == ["6 tokens, 99"]
    assert texts(ours, [("Say it", settings)]) == [Text("6 tokens, 99", cut=False)]


def test_an_answer_that_reached_the_token_limit_is_marked_as_cut(serve: Any, tmp_path: Path) -> None:
    """The fake says `length` where its text is longer than `max_tokens`."""
    prompts = [("Say it", {"until": ["#"], "max_gen_toks": most}) for most in (8, 90)]
    for _ in range(2):  # the second time from the ledger
        ours = endpoint(serve("ok"), ledger=str(tmp_path / "ledger.sqlite"), model_digest="tiny")
        assert [text.cut for text in texts(ours, prompts)] == [True, False]
    assert ours.tested.reused == 2


def test_a_server_without_log_probabilities_still_generates(serve: Any) -> None:
    ours = endpoint(serve("text-only"))
    assert ours.generate_until([SimpleNamespace(args=("Say it", {"until": ["#"], "max_gen_toks": 9}))])
    with pytest.raises(PrerequisiteError, match="offers none of the ways to score prompts"):
        ours.loglikelihood(requests(PAIRS))


def test_a_template_without_system_messages_is_used_without_one(serve: Any) -> None:
    ours = endpoint(serve("ok"))
    ours.tokenizer.chat_template = (
        "{% for each in messages %}{% if each.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ each.content }}>{% endfor %}"
    )
    said = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]
    assert ours.apply_chat_template(said) == "<Hello>"
    ours.tokenizer.chat_template = "{{ raise_exception('nothing at all') }}"
    with pytest.raises(PrerequisiteError, match="refuses a prompt: nothing at all. Run it with --no-chat-template"):
        ours.apply_chat_template(said)


def test_no_second_bos_is_added_to_a_template_with_one(serve: Any) -> None:
    ours = endpoint(serve("ok"))
    ours.tokenizer.bos_token = "<eos>"
    ours.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", ours.tokenizer.eos_token_id)]
    )
    ours.encoder = Encoder(ours.tokenizer)
    assert ours.tok_encode("<eos>Hello") == ours.tok_encode("Hello")
    assert ours.tok_encode(["<eos>Hello", "Hello"]) == [ours.tok_encode("Hello")] * 2


def test_a_continuation_that_a_token_joins_with_its_context_is_scored_by_itself(serve: Any, tmp_path: Path) -> None:
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<eos>"]
    )
    learnt.train_from_iterator([context + continuation for context, continuation in PAIRS] * 50, trainer)
    PreTrainedTokenizerFast(tokenizer_object=learnt, eos_token="<eos>").save_pretrained(tmp_path / "learnt")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "learnt")
    context, continuation = "joined wo", "rds move the boundary"
    assert (
        tokenizer(context).input_ids + tokenizer(continuation).input_ids != tokenizer(context + continuation).input_ids
    )
    server = serve("ok").model_copy(update={"model_path": str(tmp_path / "learnt")})
    joined = (context, continuation), tokenizer(context).input_ids, tokenizer(continuation).input_ids
    others = [pair for pair in PAIRS if pair != (context, continuation)]
    expected = theirs(server)._loglikelihood_tokens([joined], disable_tqdm=True)
    expected += theirs(server).loglikelihood(requests(others), disable_tqdm=True)
    for way in OF_VLLM:
        assert same(endpoint(server, way=way).loglikelihood(requests([joined[0], *others])), expected)


def test_identical_requests_are_sent_once_and_share_the_answer(serve: Any) -> None:
    server = serve("ok")
    ours = endpoint(server, way="suffix")
    before = prompts_scored(server)
    scores = ours.loglikelihood(requests([("the same", " word")] * 4))
    assert (len(scores), len(set(scores)), prompts_scored(server) - before) == (4, 1, 1)


def test_a_continuation_longer_than_the_window_is_an_error(serve: Any) -> None:
    ours = endpoint(serve("ok"))
    with pytest.raises(UnscorableError, match="larger --max-model-len"):
        ours.loglikelihood(requests([("a", " b" * 100)]))


def test_a_ledger_without_a_name_for_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model_digest"):
        Endpoint("http://127.0.0.1:9/v1", ledger=str(tmp_path / "ledger.sqlite"))


def test_two_evaluations_can_share_a_ledger(serve: Any, tmp_path: Path) -> None:
    server = serve("ok")
    kept = {"ledger": str(tmp_path / "ledger.sqlite"), "model_digest": "tiny"}
    calm = endpoint(server).loglikelihood(requests(PAIRS))
    scores: list[Any] = []
    both = [endpoint(server, **kept) for _ in range(2)]
    threads = [
        threading.Thread(target=lambda e=model: scores.append(e.loglikelihood(requests(PAIRS)))) for model in both
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores == [calm, calm]


@pytest.mark.fault(
    "numbers",
    "the model's generation_config has top_k, a repetition penalty or the like, and another server applies it",
    "each request carries neutral values; vLLM's own fields go only to vLLM",
)
@pytest.mark.parametrize(
    ("package", "version", "own"),
    [
        ("vLLM", "0.30.0", {"top_k": -1, "min_p": 0, "repetition_penalty": 1}),
        ("vLLM", "unknown", {}),
        ("llama.cpp", "b11549", {"top_k": 0, "min_p": 0, "repeat_penalty": 1}),
    ],
)
def test_neutral_values_are_sent_unless_the_task_has_its_own(package: str, version: str, own: dict[str, int]) -> None:
    model = TestedModel.__new__(TestedModel)
    model.client = Client("http://127.0.0.1:9", "it")
    model.neutral = Abilities(version, 0, (), package).neutral
    sent = model.payload([5], generation_request({"top_p": 0.9, "repetition_penalty": 1.1}))
    assert (sent["top_p"], sent["repetition_penalty"]) == (0.9, 1.1)
    sent = model.payload([5], generation_request({}))
    standard = {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
    lm_evals = {"model", "prompt", "max_tokens", "temperature", "stop", "seed"}
    assert {name: value for name, value in sent.items() if name not in lm_evals} == standard | own


def test_without_a_server_a_text_that_the_ledger_lacks_is_a_failure(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.sqlite", "it")) as book:
        model = LedgerModel(book)
        with pytest.raises(ServerFailedError, match="the ledger does not have all of the model's answers"):
            model.run(model.generating_jobs([([5], {"max_tokens": 1})], lambda *_: None))
