"""The first commands: `quantgate` without arguments, shell completion, and an installation without extras."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.utils import get_environ_proxies

from quantgate.pipelines.cli.app import FIRST_COMMANDS, spare_this_machine
from tests.support.command import quantgate

ROOT = Path(__file__).parents[1]


def test_quantgate_without_arguments_lists_five_commands_and_how_to_list_the_others() -> None:
    answer = quantgate()
    assert answer.returncode == 2
    assert answer.stdout == ""
    lines = answer.stderr.splitlines()
    named = [line.split()[1] for line in lines if line.startswith("  quantgate ")]
    assert named == list(FIRST_COMMANDS) == ["setup", "run", "gate", "promote", "submit"]
    assert all(len(line) <= 80 for line in lines if line.startswith("  "))
    assert lines[-1] == "All commands: quantgate --help"


@pytest.mark.parametrize("command", FIRST_COMMANDS)
def test_a_first_command_has_the_same_line_as_in_the_full_list(command: str) -> None:
    (line,) = [line for line in quantgate().stderr.splitlines() if line.startswith(f"  quantgate {command} ")]
    assert line.removeprefix(f"  quantgate {command} ").strip() in quantgate("--help").stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("quantgate se", {"setup"}),
        ("quantgate s", {"setup", "suites", "submit", "schedule", "schema"}),
        ("quantgate setup --acc", {"--accelerator"}),
        ("quantgate setup --accelerator c", {"cpu", "cuda"}),
        ("quantgate run --use", {"--use-case"}),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, offered: set[str]) -> None:
    variables = {"_QUANTGATE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    answer = quantgate(**variables)
    assert answer.returncode == 0
    assert set(answer.stdout.split()) == offered


def test_quantgate_starts_without_the_packages_of_its_extras() -> None:
    extras = "accelerate aiohttp boto3 compressed_tensors datasets gguf llmcompressor lm_eval mlflow numpy pyarrow"
    code = f"""if True:
        import sys
        for name in "{extras} safetensors scipy torch transformers".split():
            sys.modules[name] = None
        import quantgate.pipelines.cli.app
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_installation_without_extras_is_reported_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llmcompressor", None)
    answer = quantgate("run")
    assert answer.returncode == 2
    assert "These packages are missing: llmcompressor. " in answer.stderr
    assert "[all]" in answer.stderr


@pytest.mark.fault(
    "machine",
    "a proxy is set, and MLflow or S3 runs on this machine",
    "no library asks the proxy for it; the user's own exceptions stay",
)
@pytest.mark.parametrize("exceptions", ["", "no_proxy", "NO_PROXY"])
def test_no_library_asks_a_proxy_for_a_server_on_this_machine(exceptions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # so that they are restored
        monkeypatch.delenv(name)
    spare_this_machine()
    assert "no_proxy" not in os.environ
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    if exceptions:
        monkeypatch.setenv(exceptions, "mlflow.corp")
    spare_this_machine()
    asked = {host: get_environ_proxies(f"http://{host}:5000") for host in ("127.0.0.1", "localhost", "mlflow.corp")}
    assert asked["127.0.0.1"] == asked["localhost"] == {}
    assert bool(asked["mlflow.corp"]) is not bool(exceptions)
