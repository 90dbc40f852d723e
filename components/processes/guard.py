"""A guard runs one command in a session of its own and ends it, with all its children, when its owner is gone.

    python -m components.processes.guard --lease FILE --log FILE -- COMMAND...

It ends the command when its owner, the holder of the lease, is gone, and on SIGTERM and SIGINT; it exits with the
command's own exit status. Should the guard itself be killed, the kernel kills the command (Linux: PR_SET_PDEATHSIG).
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from components.processes.lease import holder

POLL_S = 0.5
GRACE_S = 5.0
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the command of the command line under guard; returns the exit status to leave with."""
    options = parse()
    owner = holder(options.lease)
    asked_to_stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: asked_to_stop.append(received))
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with options.log.open("ab") as log:
        command = subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - the guard has one thread
        )
    family: dict[int, psutil.Process] = {}
    while command.poll() is None:
        remember_children(command.pid, family)
        if asked_to_stop or not owner or holder(options.lease) != owner:
            break
        time.sleep(POLL_S)
    stop(command, family)
    return command.returncode if command.returncode >= 0 else 128 - command.returncode


def parse() -> argparse.Namespace:
    """The guard's options, `command` being everything after `--`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lease", type=Path, required=True, help="file whose lock the owner holds")
    parser.add_argument("--log", type=Path, required=True, help="file that takes the command's output")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, after --")
    options = parser.parse_args()
    options.command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not options.command:
        parser.error("no command given after --")
    return options


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def remember_children(pid: int, family: dict[int, psutil.Process]) -> None:
    """Add the living descendants of `pid` to `family`: once their parent died they could not be found any more."""
    try:
        family.update((child.pid, child) for child in psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return


def stop(command: subprocess.Popen[bytes], family: dict[int, psutil.Process]) -> None:
    """End the command's process group and every descendant: first politely, after GRACE_S by force."""
    remember_children(command.pid, family)
    end_all(command.pid, family, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and (command.poll() is None or any(is_alive(each) for each in family.values())):
        time.sleep(0.1)
    end_all(command.pid, family, signal.SIGKILL)
    command.wait()


def end_all(group: int, family: dict[int, psutil.Process], number: signal.Signals) -> None:
    """Send the signal to the process group and to the descendants that left it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
    for each in family.values():
        try:
            each.send_signal(number)  # psutil checks that the process id was not reused
        except psutil.NoSuchProcess:
            continue


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    sys.exit(main())
