"""Scratch folders: no temporary file stays behind, whoever is killed."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.processes import lease, scratch
from quantgate.components.servers import local_server

LITTER = """
import os, pathlib, subprocess, sys, tempfile, time, uuid
subprocess.run(["mktemp", "-d"], check=True, stdout=subprocess.DEVNULL)  # as kfp's local runner does
tempfile.mkdtemp(prefix="kfp-workspace-")
pathlib.Path(tempfile.gettempdir(), str(uuid.uuid4())).touch()  # as vLLM does with its sockets
print(tempfile.gettempdir(), flush=True)
"""
WAITING = f"{LITTER}\ntime.sleep(600)"
OWN = "from quantgate.components.processes.scratch import use_own_folder\nuse_own_folder()\n"
ROOT = Path(__file__).parents[1]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that only this test uses, with a short path for sockets."""
    with tempfile.TemporaryDirectory(prefix="quantgate-test-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


Process: TypeAlias = "subprocess.Popen[str]"


@contextlib.contextmanager
def started(*command: str) -> Iterator[Process]:
    """The command in a process of its own, which is killed at the end."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def guard(folder: Path, code: str) -> contextlib.AbstractContextManager[Process]:
    options = ["--lease", str(folder / "lease"), "--log", str(folder / "log"), "--", sys.executable, "-c", code]
    return started("-m", "quantgate.components.processes.guard", *options)


def first_line(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.fault("machine", "a step or a server leaves temporary files", "the guard removes them at its end")
@pytest.mark.slow
def test_what_a_command_leaves_is_removed_with_its_guard(temporary: Path, tmp_path: Path) -> None:
    with lease.hold(tmp_path / "lease"), guard(tmp_path, LITTER) as process:
        assert process.wait(20) == 0
    used = Path((tmp_path / "log").read_text().strip())
    assert used.parent == temporary
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.fault("machine", "the run is killed by SIGKILL", "the guard removes its temporary files all the same")
def test_the_guard_removes_temporary_files_after_the_owner_was_killed(temporary: Path, tmp_path: Path) -> None:
    holder = (
        "import pathlib, sys, time; from quantgate.components.processes import lease\n"
        "with lease.hold(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    )
    with started("-c", holder, str(tmp_path / "lease")) as owner:
        assert first_line(owner) == "held"
        with guard(tmp_path, WAITING) as process:
            while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text():
                assert process.poll() is None
            owner.kill()
            process.wait(20)
    assert list(temporary.iterdir()) == []


@pytest.mark.fault("machine", "a command is killed by SIGKILL", "the next one removes its temporary files")
def test_the_next_owner_removes_the_folder_of_a_killed_one_and_no_other(temporary: Path) -> None:
    (temporary / "quantgate-of-somebody").mkdir()
    with started("-c", OWN + WAITING) as killed, started("-c", OWN + WAITING) as running:
        folders = [Path(first_line(process)) for process in (killed, running)]
        killed.kill()
        killed.wait()
        assert folders[0].exists()
        with scratch.scratch_folder() as own:
            assert sorted(temporary.iterdir()) == sorted([own, folders[1], temporary / "quantgate-of-somebody"])


def test_a_process_removes_its_folder_at_its_exit_after_what_libraries_remove(temporary: Path) -> None:
    library = (
        "import atexit, os, tempfile; folder = tempfile.mkdtemp(prefix='hf_datasets-')\n"
        "atexit.register(lambda: print(os.path.exists(folder)))"
    )
    with started("-c", f"{OWN}{library}") as process:
        assert process.communicate(timeout=20)[0] == "True\n"
    assert list(temporary.iterdir()) == []


def test_scratch_folders_lie_side_by_side(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's must not lie in the pipeline's, which ends before the server does."""
    with scratch.scratch_folder() as outer:
        monkeypatch.setenv("TMPDIR", str(outer))
        monkeypatch.setattr(tempfile, "tempdir", None)
        with scratch.scratch_folder() as inner:
            assert (outer.parent, inner.parent) == (temporary, temporary)


def test_a_link_in_place_of_a_scratch_folder_is_not_followed(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    (temporary / f"{scratch.PREFIX}link").symlink_to(tmp_path)
    scratch.remove_abandoned(temporary)
    assert (tmp_path / "kept").exists()


def test_a_socket_of_vllm_fits_into_the_folders_path(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for length in (30, 60, 120):
        folder = temporary / ("x" * length)
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        longest = scratch.parent_folder() / f"{scratch.PREFIX}12345678" / ("0" * scratch.UUID)
        assert len(str(longest)) <= scratch.LONGEST_SOCKET


def test_no_folder_for_temporary_files_is_said(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_usable() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    with pytest.raises(PrerequisiteError, match=r"No usable temporary directory.*Set TMPDIR to a folder"):
        scratch.parent_folder()


@pytest.mark.parametrize(
    ("set_to", "used"), [("", "kept"), ("{temporary}/torchinductor_root", "kept"), ("/my/own", "/my/own")]
)
def test_what_pytorch_compiles_for_vllm_is_kept_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, set_to: str, used: str
) -> None:
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", set_to.format(temporary=tempfile.gettempdir()))
    expected = used.replace("kept", str(tmp_path / "torchinductor"))
    assert local_server.environment({})["TORCHINDUCTOR_CACHE_DIR"] == expected


@pytest.mark.slow
def test_a_command_line_in_a_process_of_its_own_leaves_nothing(temporary: Path) -> None:
    with started("-m", "quantgate.pipelines.cli", "suites") as process:
        assert "quick" in process.communicate(timeout=60)[0]
    assert (process.returncode, list(temporary.iterdir())) == (0, [])
