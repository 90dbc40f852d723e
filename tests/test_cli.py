"""The command line, as a person types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fake_vllm import serving_python


def quantgate(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"COLUMNS": "100", "QUANTGATE_SERVING_PYTHON": "/nowhere/python"} | settings
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("option", "value", "names"),
    [
        ("--variants", "int8,int3", "bf16, int8, int4-g128, int4-g64"),
        ("--suite", "mmlu", "demo, quick"),
        ("--use-case", "poetry", "code, general-chat, math-tutoring, summarization"),
    ],
)
def test_an_unknown_name_is_answered_with_the_valid_ones_before_anything_starts(
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
        (("--use-case", "math-tutoring"), "gsm8k"),
        (("--model", "file:/nowhere"), "/nowhere"),
        (("--model", "ftp://x"), "ftp"),
        (("--tracking-uri", "http://127.0.0.1:9"), "http://127.0.0.1:9"),
        ((), "There is no environment for vLLM at /nowhere/python"),
    ],
)
def test_what_a_user_can_fix_is_one_message_without_a_traceback(
    tmp_path: Path, arguments: tuple[str, ...], what: str
) -> None:
    answer = quantgate("run", *arguments, "--out", str(tmp_path / "run"))
    assert answer.returncode == 2
    assert answer.stderr.startswith("quantgate: ")
    assert what in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    python = serving_python(tmp_path / "python")
    (tmp_path / "thesis" / "logs").mkdir(parents=True)
    answer = quantgate("run", "--out", str(tmp_path / "thesis"), QUANTGATE_SERVING_PYTHON=str(python))
    assert answer.returncode == 2
    assert "holds something else than a run" in answer.stderr
    assert [each.name for each in (tmp_path / "thesis").iterdir()] == ["logs"]


def test_an_unknown_option_exits_with_2() -> None:
    assert quantgate("run", "--speed").returncode == 2


def test_help_names_what_can_be_chosen() -> None:
    told = " ".join(quantgate("run", "--help").stdout.split())
    for word in ("int4-g128", "general-chat", "demo", "pypi:", "hf:", "s3://"):
        assert word in told


def test_compile_writes_yaml_that_kfp_loads(tmp_path: Path) -> None:
    from kfp import components

    file = tmp_path / "new" / "pipeline.yaml"
    answer = quantgate("compile", "-o", str(file), "--image", "registry.example/quantgate-python:1.2.3")
    assert (answer.returncode, answer.stdout) == (0, f"Wrote {file}\n")
    assert components.load_component_from_file(str(file)).name == "quantgate-ship"
    executors = yaml.safe_load(file.read_text())["deploymentSpec"]["executors"].values()
    assert {each["container"]["image"] for each in executors} == {"registry.example/quantgate-python:1.2.3"}


def test_compile_refuses_another_kind_of_file(tmp_path: Path) -> None:
    answer = quantgate("compile", "-o", str(tmp_path / "pipeline.json"))
    assert answer.returncode == 2
    assert "ends in .yaml" in answer.stderr
