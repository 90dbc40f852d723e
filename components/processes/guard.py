"""A guard runs one command in its own session and ends it, with all its children, when the command's owner ends.

    python -m quantgate.components.processes.guard --lease FILE --log FILE -- COMMAND...

The owner is the holder of the lease. The guard also ends the command on SIGTERM, SIGINT and SIGHUP. It exits with the
command's exit status. If the guard is killed, the kernel kills the command (Linux: PR_SET_PDEATHSIG).

The command's temporary files lie in a scratch folder, which the guard removes at the end.
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

from quantgate.components.processes.lease import holder
from quantgate.components.processes.scratch import scratch_folder

POLL_S = 0.5
GRACE_S = 5.0
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the command of the command line; returns the guard's exit status."""
    options = parse()
    owner = holder(options.lease)
    stop_signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: stop_signals.append(received))
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder() as scratch:
        with options.log.open("ab") as log:
            command = subprocess.Popen(
                options.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"TMPDIR": str(scratch)},
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - it has one thread
            )
        family: dict[int, psutil.Process] = {}
        while command.poll() is None:
            remember_children(command.pid, family)
            if stop_signals or not owner or holder(options.lease) != owner:
                break
            time.sleep(POLL_S)
        stop(command, family)
    return command.returncode if command.returncode >= 0 else 128 - command.returncode


def parse() -> argparse.Namespace:
    """The guard's options; `command` is everything after `--`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lease", type=Path, required=True, help="file whose lock the owner holds")
    parser.add_argument("--log", type=Path, required=True, help="file that takes the command's output")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="command to run, after --")
    options = parser.parse_args()
    options.command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not options.command:
        parser.error("no command given after --")
    return options


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def remember_children(pid: int, family: dict[int, psutil.Process]) -> None:
    """Add the running descendants of `pid` to `family`: psutil no longer finds them once their parent has ended."""
    try:
        family.update((child.pid, child) for child in psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return


def stop(command: subprocess.Popen[bytes], family: dict[int, psutil.Process]) -> None:
    """End the command's process group and every descendant: with SIGTERM, after GRACE_S with SIGKILL."""
    remember_children(command.pid, family)
    end_all(command.pid, family, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and (
        command.poll() is None or any(is_alive(process) for process in family.values())
    ):
        time.sleep(0.1)
    end_all(command.pid, family, signal.SIGKILL)
    command.wait()


def end_all(group: int, family: dict[int, psutil.Process], number: signal.Signals) -> None:
    """Send the signal to the process group and to the descendants that left it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
    for process in family.values():
        try:
            process.send_signal(number)  # psutil checks that the process id was not reused
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
