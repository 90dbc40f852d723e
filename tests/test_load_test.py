"""The load test of a server: what is asked of vLLM's `bench serve`, what becomes of its results, and what may fail.

Server and load test are fakes at the process edge; the fake saves what the real one saved. The real one is in
tests/e2e/test_exactness.py.
"""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.evaluate.load_test import after_full_stage
from quantgate.components.gate.results_files import read_load_tests
from quantgate.components.processes import lease
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.run.load_results import ON_CPU, ON_GPU, LoadSettings, LoadTest, load_settings
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.run.results import RunResults
from quantgate.components.servers import local_server, local_vllm
from quantgate.components.servers.access import key_of
from quantgate.components.servers.bench_command import runs
from quantgate.components.servers.bench_serve import load_test
from tests.e2e.started import processes_of
from tests.support.fake_vllm import serving_python

pytestmark = pytest.mark.slow  # each load test is a process
FEW = LoadSettings((1, 4), prompt_tokens=16, answer_tokens=8, least_requests=2, requests_each=1)


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("load") / "run"
    with pytest.MonkeyPatch.context() as patch, lease.hold(folder / "lease"):
        patch.setenv("QUANTGATE_SERVING_PYTHON", str(serving_python(folder / "serving-python")))
        started = local_vllm.deploy("int8", tiny_model, folder)
        assert started.failure == ""
        yield started
        local_server.undeploy(started)


def folder_of(server: Server) -> str:
    return str(Path(server.log).parents[1])


@pytest.mark.parametrize(
    ("speed", "on_cpu", "settings"),
    [
        ("off", True, None),
        ("quick", True, ON_CPU["quick"]),
        ("full", False, ON_GPU["full"]),
        ("16, 1", False, LoadSettings((1, 16), 1024, 128, 32, 4)),
        ("1024", True, LoadSettings((1024,), 256, 64, 16, 4)),
    ],
)
def test_the_option_names_settings_or_the_numbers_of_requests_at_a_time(
    speed: str, on_cpu: bool, settings: LoadSettings | None
) -> None:
    assert load_settings(speed, on_cpu=on_cpu) == settings


@pytest.mark.parametrize("speed", ["", "fast", "0", "1025", "1,1", "1,", "1.5", "-1", "1" * 5000])
def test_an_unknown_load_test_is_refused_with_the_choices(speed: str) -> None:
    with pytest.raises(PrerequisiteError, match="Choose off, quick or full, or give different numbers of requests"):
        load_settings(speed, on_cpu=True)


def test_prompts_and_answers_fit_the_window() -> None:
    full = ON_GPU["full"]
    assert full.within(4096) == full
    assert (full.within(512).prompt_tokens, full.within(512).answer_tokens) == (512 - 128 - 8, 128)
    assert (full.within(24).prompt_tokens, full.within(24).answer_tokens, full.within(24).fits) == (4, 12, False)


def test_every_variant_gets_the_same_prompts_and_no_prompt_twice() -> None:
    server = Server(variant="int8", url="http://127.0.0.1:1/v1", served_name="quantgate-int8", model_path="weights")
    options = [dict(itertools.pairwise(run)) for run in runs(server, FEW, "saved")]
    asked = [(run["--seed"], run["--max-concurrency"], run["--num-prompts"]) for run in options]
    assert asked == [("0", "4", "4"), ("1", "1", "2"), ("4", "4", "4")]  # the first warms the server up
    assert {run["--base-url"] + run["--endpoint"] for run in options} == {"http://127.0.0.1:1/v1/completions"}


def test_a_load_test_has_the_numbers_that_vllm_saved(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_FAKE_SPEEDUP", "2")
    test = load_test(server, FEW, folder_of(server))
    assert (test.failure, test.prompt_tokens, test.answer_tokens) == ("", 16, 8)
    assert [(level.concurrency, level.requests, level.failed) for level in test.levels] == [(1, 2, 0), (4, 4, 0)]
    saved = json.loads((Path(__file__).parent / "support" / "bench_serve_saved.json").read_text(encoding="utf-8"))
    assert test.levels[1].output_tokens_per_s == 2 * saved["output_throughput"]
    assert test.levels[1].first_token_ms == saved["median_ttft_ms"]
    assert test.levels[1].first_token_p95_ms == saved["p95_ttft_ms"]
    assert test.levels[1].between_tokens_ms == saved["median_itl_ms"]
    assert test.levels[1].between_tokens_p95_ms == saved["p95_itl_ms"]
    assert test.memory_bytes > 5_000_000  # the fake's Python
    assert key_of(server)


def test_requests_that_failed_are_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_FAKE_BENCH", "some")
    assert [level.failed for level in load_test(server, FEW, folder_of(server)).levels] == [1, 1]


@pytest.mark.fault(
    "servers", "a load test dies, saves nothing or nonsense", "a row with the reason and without a speed"
)
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("dies", "ended with exit status 1: ValueError: the tokenizer of the load test is missing Its log: "),
        ("fails", "All 2 requests failed, 1 at a time."),
        ("empty", "ended with exit status 1: FileNotFoundError: [Errno 2] No such file"),
        ("damaged", "vLLM's results at concurrency 1 are invalid: 1 validation error for LoadLevel"),
    ],
)
def test_a_failed_load_test_has_its_reason_and_no_speed(
    server: Server, monkeypatch: pytest.MonkeyPatch, mode: str, reason: str
) -> None:
    monkeypatch.setenv("VLLM_FAKE_BENCH", mode)
    test = load_test(server, FEW, folder_of(server))
    assert reason in test.failure
    assert test.levels == ()


def test_a_load_test_that_hangs_is_ended(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_FAKE_BENCH", "hangs")
    test = load_test(server, FEW, folder_of(server), within_s=0.1)
    assert test.failure.startswith("The load test took more than 0.1 s. Its log: ")
    assert processes_of(RunResults(folder_of(server)).log("speed-int8")) == []  # the guard's, and its children


def test_a_window_that_is_too_small_is_named(server: Server) -> None:
    narrow = server.model_copy(update={"max_model_len": 24})
    failure = load_test(narrow, ON_CPU["quick"], folder_of(server)).failure
    assert failure == "A window of 24 tokens is too small for a load test: raise --max-model-len."


def test_the_step_tests_a_server_only_if_asked_and_not_after_a_failed_evaluation(tmp_path: Path) -> None:
    scores = Scores(variant="bf16", suite="demo", stage="full")
    dead, file = Server(variant="bf16", failure="It died."), RunResults(str(tmp_path)).load_test("bf16")

    def saved(speed: str, failure: str) -> LoadTest | None:
        plan = EvaluationPlan(variants=("bf16",), store="", results=str(tmp_path), speed=speed)
        after_full_stage(dead, scores.model_copy(update={"failure": failure}), plan)
        return file.read(LoadTest)

    assert saved("off", "") is None
    assert saved("quick", "lm-eval failed") is None
    failed = saved("quick", "")
    assert failed
    assert time.time() - 60 < failed.ended_at <= time.time()
    assert failed.device == "", "it never ran"
    assert failed.model_copy(update={"ended_at": 0.0}) == LoadTest(
        variant="bf16", failure="Its server did not start: It died."
    )


def test_the_gate_refuses_a_damaged_load_test_and_names_the_file(tmp_path: Path) -> None:
    scores = Scores(variant="bf16", suite="demo", stage="full")
    file = RunResults(str(tmp_path)).load_test("bf16")
    assert read_load_tests([scores], str(tmp_path)) == ()
    for text in ('{"variant": "bf16"}', '{"variant": "bf16", "levels": [{"concurrency": 0}]}', "{"):
        file.put_text(text)
        with pytest.raises(PrerequisiteError, match=r"speed\.json is damaged: .* Run it again\."):
            read_load_tests([scores], str(tmp_path))
