"""Run one program and its judge in a sandbox, stop them at their limits, and report how the program ended.

judging_process.py sets the kernel's limits for memory, processor time and the size of files. The limits that the kernel
does not have are polled here: wall time, output, threads and the number of files.
"""

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import psutil

from quantgate.components.errors import PrerequisiteError
from quantgate.components.sandbox.containment import ENVIRONMENT, Containment, Limits, Program, command
from quantgate.components.sandbox.judging_process import ENDED, INVALID, PASSED, PATIENCE, RAISED, READY, UNSENT

POLL_S = 0.05
START_S = 60.0
"""Deadline for Python to start; a program's own time begins after that."""
GRACE_S = 0.3
"""How long a process may take to end by itself."""


@dataclass
class Run:
    """A running program, its judge and their state."""

    process: subprocess.Popen[bytes]
    channel: int
    """The pipe from the judge."""
    limits: Limits
    containment: Containment
    started: float = field(default_factory=time.monotonic)
    ready: float | None = None
    """When judging_process.py reported that the program's time begins."""
    received: bytes = b""
    """From the channel."""
    output: bytes = b""
    stopped: str = ""
    """The reason for which it was stopped."""
    worker: psutil.Process | None = None

    def follow(self) -> None:
        """Read the judge's messages and the output until there is a verdict, or they end or exceed a limit."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            selector.register(self.channel, selectors.EVENT_READ)
            while not self.stopped and not self.verdict:
                if not selector.get_map():  # a judge that is killed closes both
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.process.wait(POLL_S)
                        break
                for key, _ in selector.select(POLL_S) if selector.get_map() else ():
                    self.read(key.fd, selector)
                self.stopped = self.exceeded_limit()
            for key, _ in selector.select(0) if selector.get_map() else ():  # what it printed before the verdict
                self.read(key.fd, selector)

    def read(self, number: int, selector: selectors.BaseSelector) -> None:
        """Read what that file descriptor has, or stop watching it at its end."""
        chunk = os.read(number, 1 << 16)
        if not chunk:
            selector.unregister(number)
        elif number != self.channel:
            self.output += chunk
        else:
            self.received += chunk
            if self.ready is None and self.received.startswith(READY):
                self.ready = time.monotonic()

    def exceeded_limit(self) -> str:
        """The limit that it exceeded; empty if none."""
        if self.ready is None:
            return "" if time.monotonic() < self.started + START_S else "it took too long"
        if len(self.output) > self.limits.output_bytes:
            return f"over {size(self.limits.output_bytes)} of output"
        if self.verdict:
            return ""
        if time.monotonic() > self.ready + PATIENCE * self.limits.seconds:
            return timed_out(PATIENCE * self.limits.seconds)
        return self.too_many() if time.monotonic() > self.ready + POLL_S else ""

    def too_many(self) -> str:
        """The limit of threads or files that it exceeded; empty if none."""
        try:
            if self.worker is None:
                family = psutil.Process(self.process.pid).children(recursive=True)
                self.worker = family[-1] if family else psutil.Process(self.process.pid)
            if self.worker.num_threads() > self.limits.threads:
                return f"over {self.limits.threads} threads"
            if self.containment is Containment.POD:
                return ""
            # The program's own /tmp, through /proc: bubblewrap limits the size of a tmpfs, not the number of its files.
            disk = os.statvfs(f"/proc/{self.worker.pid}/root/tmp")
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            return ""  # it has just ended
        files = disk.f_files - disk.f_ffree
        return f"over {self.limits.scratch_files} files" if files > self.limits.scratch_files else ""

    @property
    def verdict(self) -> list[str]:
        """The words of the line that followed READY; empty until it is complete."""
        line, end, _ = self.received.removeprefix(READY).partition(b"\n")
        return line.decode().split() if self.ready is not None and end else []

    @property
    def killed(self) -> bool:
        """Whether something else killed it, as the kernel does when the machine has no memory left."""
        if self.stopped or (self.verdict and self.verdict[0] != ENDED):
            return False
        return self.status in (-signal.SIGKILL, 128 + signal.SIGKILL)

    @property
    def status(self) -> int:
        """The exit status of the program, or of a judge that ended without a verdict; negative for a signal."""
        return int(self.verdict[1]) if self.verdict else self.process.returncode

    def reason(self) -> str:
        """Why it failed, empty if it passed; raises PrerequisiteError if it did not start or cannot be judged."""
        if self.ready is None:
            last = self.output.decode(errors="replace").strip()[-500:]
            raise PrerequisiteError(f"The sandbox did not start a program: {last or self.stopped or 'it died'}")
        if self.stopped:
            return self.stopped
        match self.verdict:
            case [word] if word == PASSED:
                return ""
            case [word] if word == INVALID:
                return "its result is too large, or not a value"
            case [word, name] if word == UNSENT:
                raise PrerequisiteError(
                    f"The tests of a program pass it a {name} of their own, which cannot be sent to its process."
                )
            case [word, name] if word == RAISED:
                return f"over {size(self.limits.memory_bytes)} of memory" if name == MemoryError.__name__ else name
        return ended(self.status, self.limits)


def ended(status: int, limits: Limits) -> str:
    """How a program ended by itself; bubblewrap's exit status for a signal is 128 + its number."""
    number = -status if status < 0 else status - 128
    if number == signal.SIGXCPU:
        return timed_out(limits.seconds)
    if number in list(signal.Signals):
        return f"killed by {signal.Signals(number).name}"
    return f"exit status {status} before its tests ended"


def timed_out(seconds: float) -> str:
    """The reason for a program that took too long."""
    return f"timed out after {seconds:g} s"


def size(count: int) -> str:
    """`64 KiB` for 65536."""
    return f"{count / (1 << 20):g} MiB" if count >= 1 << 20 else f"{count / (1 << 10):g} KiB"


def run_contained(program: Program, limits: Limits, containment: Containment) -> Run:
    """Run the program and its tests to their end; none of their processes is left."""
    channel, judge_end = os.pipe()
    with os.fdopen(channel), scratch(containment) as folder, job(program, limits, folder) as job_file:
        with os.fdopen(judge_end, "wb"):  # closed here, else the end of the process would not close the channel
            process = subprocess.Popen(
                command(judge_end, limits, containment),
                stdin=job_file,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
                cwd=folder or "/",
                pass_fds=(judge_end,),
                start_new_session=True,
            )
        run = Run(process, channel, limits, containment)
        with process:
            try:
                run.follow()
            finally:
                stop(process, 0 if run.stopped else GRACE_S)
    return run


@contextlib.contextmanager
def job(program: Program, limits: Limits, folder: str) -> Iterator[IO[bytes]]:
    """The file that judging_process.py reads: the program, its tests and its limits."""
    with tempfile.TemporaryFile() as file:
        content = {
            "program": program.source,
            "tests": program.tests,
            "scratch": folder,
            "limits": {
                "seconds": math.ceil(limits.seconds),
                "memory_bytes": limits.memory_bytes,
                "file_bytes": limits.scratch_bytes,
            },
        }
        file.write(json.dumps(content).encode())
        file.seek(0)
        yield file


@contextlib.contextmanager
def scratch(containment: Containment) -> Iterator[str]:
    """A pod's folder for one program, removed afterwards; empty for bubblewrap, which has its own."""
    if containment is Containment.BUBBLEWRAP:
        yield ""
        return
    folder = tempfile.mkdtemp(prefix="program-")
    try:
        yield folder
    finally:
        # A program can nest folders deeper than shutil.rmtree recurses.
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)


def stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Kill the processes that are left after that time, the program before its judge, and wait for their end.

    bubblewrap ends after the last process inside, and the judge after its program.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        for member in reversed([psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
                return
    process.wait()
