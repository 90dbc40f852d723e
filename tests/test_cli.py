"""The command line, called as a user types it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from quantgate.components.models.variants import VARIANTS
from quantgate.components.processes import lease
from quantgate.components.run.artifacts import Scores, Server
from quantgate.components.servers import access, local_server, local_vllm
from tests.support.command import Done, quantgate
from tests.support.fake_vllm import serving_python

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without vLLM and without access to the hub."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("QUANTGATE_SERVING_PYTHON", "/nowhere/python")
    for module in ("huggingface_hub.constants", "datasets.config"):  # which read the environment once
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("option", "value", "names"),
    [
        ("--variants", "int8,int3", ", ".join(VARIANTS)),
        (
            "--suite",
            "mmlu",
            "demo, quick, tiny, openllm, code, instructions, perplexity, leaderboard2, math, long-context, arm",
        ),
        (
            "--use-case",
            "poetry",
            "code, code-strict, demo, general-chat, math-tutoring, math-tutoring-strict, summarization",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_valid_names_before_anything_starts(
    tmp_path: Path, option: str, value: str, names: str
) -> None:
    answer = quantgate("run", option, value, "--out", str(tmp_path / "run"))
    assert answer.returncode == 2
    assert f"Choose from: {names}." in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--variants", " , "), "--variants names no variant"),
        (("--use-case", "math-tutoring"), "Choose a suite with gsm8k (openllm)"),
        (("--custom", "/nowhere/set"), "/nowhere/set"),
        pytest.param(
            ("--suite", "openllm"), "Make a mirror where it is: quantgate mirror SUITE DIR", marks=pytest.mark.slow
        ),
        (("--model", "file:/nowhere"), "/nowhere"),
        (("--model", "ftp://x"), "ftp"),
        (("--tracking-uri", "http://127.0.0.1:9"), "http://127.0.0.1:9"),
        ((), "There is no environment for vLLM at /nowhere/python"),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_message_without_a_traceback(
    tmp_path: Path, arguments: tuple[str, ...], what: str
) -> None:
    answer = quantgate("run", *arguments, "--out", str(tmp_path / "run"))
    assert answer.returncode == 2
    assert answer.stderr.startswith("quantgate: ")
    assert what in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_folder_with_other_files_is_left_unchanged(tmp_path: Path) -> None:
    python = serving_python(tmp_path / "python")
    (tmp_path / "thesis" / "logs").mkdir(parents=True)
    answer = quantgate("run", "--out", str(tmp_path / "thesis"), QUANTGATE_SERVING_PYTHON=str(python))
    assert answer.returncode == 2
    assert "contains files that are not a run's" in answer.stderr
    assert [file.name for file in (tmp_path / "thesis").iterdir()] == ["logs"]


def test_an_unknown_option_exits_with_2() -> None:
    assert quantgate("run", "--speed").returncode == 2


def test_help_lists_the_valid_choices() -> None:
    help_text = " ".join(quantgate("run", "--help").stdout.split())
    for word in ("int4-g128", "general-chat", "demo", "pypi:", "hf:", "s3://"):
        assert word in help_text


def test_compile_writes_yaml_that_kfp_loads(tmp_path: Path) -> None:
    from kfp import components

    file = tmp_path / "new" / "pipeline.yaml"
    images = ("registry.example/quantgate:1.2.3", "registry.example/quantgate-quantize:1.2.3")
    answer = quantgate("compile", "-o", str(file), "--image", images[0], "--quantize-image", images[1])
    assert (answer.returncode, answer.stdout) == (0, f"Wrote {file}\n")
    assert components.load_component_from_file(str(file)).name == "quantgate-ship"
    spec, _ = yaml.safe_load_all(file.read_text())
    executors = spec["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == set(images)


def test_compile_refuses_another_kind_of_file(tmp_path: Path) -> None:
    answer = quantgate("compile", "-o", str(tmp_path / "pipeline.json"))
    assert answer.returncode == 2
    assert "ends in .yaml" in answer.stderr


@pytest.fixture
def served(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """A served model; the test's parameter sets the fake server's behaviour."""
    monkeypatch.setenv("QUANTGATE_SERVING_PYTHON", str(serving_python(tmp_path / "serving-python")))
    monkeypatch.setenv("VLLM_FAKE", getattr(request, "param", "ok"))
    with lease.hold(tmp_path / "lease"):
        started = local_vllm.deploy("bf16", tiny_model, tmp_path)
        assert started.failure == ""
        yield started
        local_server.undeploy(started)


def evaluated(served: Server, out: Path, *options: str) -> Done:
    at = ("--endpoint", served.url, "--model", served.served_name, "--tokenizer", served.model_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", access.key_of(served))
        return quantgate("eval", *at, "--out", str(out), *options)


@pytest.mark.slow
def test_eval_tests_a_served_model_and_gate_judges_its_results(served: Server, tmp_path: Path) -> None:
    one = evaluated(served, tmp_path / "one", "--suite", "quick", "--custom", "canopy", "--limit", "6")
    other = evaluated(served, tmp_path / "other", "--suite", "quick", "--custom", "canopy", "--limit", "6")
    assert (one.returncode, other.returncode) == (0, 0), one.stdout + one.stderr
    scores = Scores.read(tmp_path / "one" / "full.json")
    assert [(task.task, task.items) for task in scores.tasks] == [
        ("arc_easy", 6),
        ("hellaswag", 6),
        ("piqa", 6),
        ("canopy", 6),
    ]
    folders = ("--baseline", str(tmp_path / "one"), "--variant", str(tmp_path / "other"))
    judged = quantgate("gate", *folders, "--json", "--no-check-power")
    assert json.loads(judged.stdout)[1]["average_drop"] == 0.0, judged.stderr
    (summary,) = (tmp_path / "one").glob("20*.json")
    assert summary.name.endswith("_local_quantgate-bf16_arc_easy-hellaswag-piqa-canopy.json")
    (second,) = (tmp_path / "other").glob("20*.json")
    beside = quantgate("compare", str(summary), str(second))
    assert beside.returncode == 0
    assert "canopy" in beside.stdout


@pytest.mark.slow
def test_eval_leaves_out_what_does_not_fit_the_servers_window_and_says_so(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTGATE_SERVING_PYTHON", str(serving_python(tmp_path / "serving-python")))
    monkeypatch.setenv("VLLM_FAKE", "ok")
    with lease.hold(tmp_path / "lease"):
        server = local_vllm.deploy("bf16", tiny_model, tmp_path, window=475)
        done = evaluated(server, tmp_path / "one", "--suite", "quick", "--limit", "6")
        local_server.undeploy(server)
    assert done.returncode == 0, done.stderr
    scores = Scores.read(tmp_path / "one" / "full.json")
    assert {task.task: task.items for task in scores.tasks} == {"arc_easy": 6, "hellaswag": 3, "piqa": 5}
    assert "Too long for the server's window and left out: 3 of hellaswag, 1 of piqa\n" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("served", ["text-only"], indirect=True)
def test_a_server_without_an_ability_that_a_task_needs_is_refused_with_the_reason(
    served: Server, tmp_path: Path
) -> None:
    answer = evaluated(served, tmp_path / "out", "--suite", "quick")
    assert answer.returncode == 2
    assert "offers none of the ways to score prompts" in answer.stderr
    assert "logprobs are not supported" in answer.stderr
    assert not (tmp_path / "out" / "full.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("eval", "--endpoint", "http://127.0.0.1:9"), "No OpenAI-compatible server answers"),
        (("eval", "--endpoint", "http://127.0.0.1:9", "--irt-parameters", "/nowhere"), "/nowhere"),
        (("mirror", "demmo", "/nowhere"), "Unknown suite 'demmo'"),
        (("mirror", "openllm", "OUT"), "is not reachable"),
        (("mirror", "openllm", "OUT", "--from", "/nowhere"), "/nowhere"),
        (("mirror", "openllm", "OUT", "--check"), "No mirror at"),
        (("compare", "/nowhere/a.json", "/nowhere/b.json"), "/nowhere/a.json"),
    ],
)
def test_a_mistake_in_a_benchmark_command_is_one_message(tmp_path: Path, arguments: tuple[str, ...], what: str) -> None:
    answer = quantgate(*(str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments))
    assert answer.returncode == 2
    assert what in answer.stderr
    assert "Traceback" not in answer.stderr
