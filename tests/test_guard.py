"""Leases and guards, with real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from quantgate.components.errors import PrerequisiteError
from quantgate.components.processes import lease

# a server with a child process that ignores SIGTERM: the hardest to stop
STUBBORN = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(600)
"""
HOLDER = """
import sys, time
from pathlib import Path
from quantgate.components.processes import lease
with lease.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lease")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def start_guard(folder: Path, *command: str) -> "subprocess.Popen[bytes]":
    options = ["--lease", str(folder / "lease"), "--log", str(folder / "server.log"), "--", *command]
    return subprocess.Popen([sys.executable, "-m", "quantgate.components.processes.guard", *options])


def stubborn_family(folder: Path) -> list[int]:
    """The process ids of the stubborn server and its child, once both run."""
    file = folder / "pids"
    within(10, lambda: file.exists() and len(file.read_text().split()) == 2)
    return [int(pid) for pid in file.read_text().split()]


def within(seconds: float, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def all_gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def test_a_lease_is_held_as_long_as_its_holder_lives(tmp_path: Path, owner: "subprocess.Popen[str]") -> None:
    assert lease.holder(tmp_path / "lease")
    owner.kill()
    owner.wait()
    assert lease.holder(tmp_path / "lease") == ""


def test_a_missing_lease_has_no_holder(tmp_path: Path) -> None:
    assert lease.holder(tmp_path / "nothing") == ""


def test_the_next_holder_has_another_name(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        with lease.hold(tmp_path / "lease"):
            names.append(lease.holder(tmp_path / "lease"))
    assert len(set(names)) == 2
    assert "" not in names


def test_a_guard_does_not_mistake_the_next_holder_for_its_owner(tmp_path: Path) -> None:
    with lease.hold(tmp_path / "lease"):
        guard = start_guard(tmp_path, sys.executable, "-c", "import time; time.sleep(600)")
        within(10, lambda: (tmp_path / "server.log").exists())
    with lease.hold(tmp_path / "lease"):
        guard.wait(15)


def test_a_second_holder_has_to_wait(tmp_path: Path, owner: "subprocess.Popen[str]") -> None:
    with pytest.raises(PrerequisiteError, match="still running"), lease.hold(tmp_path / "lease"):
        pass


@pytest.mark.slow
def test_a_guard_exits_with_its_commands_status_and_passes_its_output_on(
    tmp_path: Path, owner: "subprocess.Popen[str]"
) -> None:
    guard = start_guard(tmp_path, sys.executable, "-c", "print('hello'); raise SystemExit(7)")
    assert guard.wait(10) == 7
    assert (tmp_path / "server.log").read_text() == "hello\n"


@pytest.mark.slow
def test_a_guard_ends_all_processes_when_its_owner_is_killed(tmp_path: Path, owner: "subprocess.Popen[str]") -> None:
    guard = start_guard(tmp_path, sys.executable, "-c", STUBBORN, str(tmp_path / "pids"))
    pids = stubborn_family(tmp_path)
    owner.send_signal(signal.SIGKILL)
    guard.wait(15)
    assert all_gone(pids)


@pytest.mark.slow
def test_a_guard_that_is_terminated_ends_all_processes(tmp_path: Path, owner: "subprocess.Popen[str]") -> None:
    guard = start_guard(tmp_path, sys.executable, "-c", STUBBORN, str(tmp_path / "pids"))
    pids = stubborn_family(tmp_path)
    guard.terminate()
    guard.wait(15)
    assert all_gone(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_command_dies_with_a_guard_that_is_killed(tmp_path: Path, owner: "subprocess.Popen[str]") -> None:
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    guard = start_guard(tmp_path, sys.executable, "-c", code, str(tmp_path / "pid"))
    within(10, lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    os.kill(guard.pid, signal.SIGKILL)
    guard.wait()
    within(5, lambda: all_gone([pid]))
