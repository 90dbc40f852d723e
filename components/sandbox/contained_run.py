"""Run one program in its sandbox, stop it at its limits, and report how it ended.

inside.py sets the kernel's limits for memory, processor time and the size of files. The limits that the kernel does not
have are polled here: wall time, output, threads and the number of files.
"""

import contextlib
import json
import math
import os
import secrets
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import psutil

from components.errors import PrerequisiteError
from components.sandbox.containment import ENVIRONMENT, Containment, Limits, command
from components.sandbox.inside import PATIENCE, RAISED, READY, SECRET_BYTES

POLL_S = 0.05
START_S = 60.0
"""Deadline for Python to start; a program's own time begins after that."""
GRACE_S, STOP_S = 0.3, 10.0
"""How long a process may take to end by itself, and after it is killed."""
LONGEST_MESSAGE = 1000
"""Bytes on the channel: the messages of inside.py are shorter."""


@dataclass
class Run:
    """A running program and its state."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    limits: Limits
    containment: Containment
    answer: bytes
    """The message of a program that reached its last statement."""
    started: float = field(default_factory=time.monotonic)
    ready: float | None = None
    """When inside.py reported that the program's time begins."""
    received: bytes = b""
    """From the channel."""
    output: bytes = b""
    stopped: str = ""
    """The reason for which it was stopped."""
    worker: psutil.Process | None = None

    def follow(self) -> None:
        """Read its messages and output until it sends its answer, ends or exceeds a limit."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            selector.register(self.channel, selectors.EVENT_READ)
            while not self.stopped and self.verdict != self.answer:
                if not selector.get_map():  # a program can close both and run on
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.process.wait(POLL_S)
                        return
                for key, _ in selector.select(POLL_S) if selector.get_map() else ():
                    self.read(key.fd, selector)
                self.stopped = self.exceeded_limit()

    def read(self, number: int, selector: selectors.BaseSelector) -> None:
        """Read what that file descriptor has, or stop watching it at its end."""
        try:
            chunk = os.read(number, 1 << 16)
        except ConnectionResetError:  # it ended without reading the secret
            chunk = b""
        if not chunk:
            selector.unregister(number)
        elif number != self.channel.fileno():
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
        if len(self.received) > LONGEST_MESSAGE:
            return "wrote to the result's channel"
        if self.verdict == self.answer:
            return ""
        if time.monotonic() > self.ready + PATIENCE * self.limits.seconds:
            return timed_out(PATIENCE * self.limits.seconds)
        return self.too_many()

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
    def verdict(self) -> bytes:
        """The message that followed READY."""
        return self.received.removeprefix(READY)

    @property
    def killed(self) -> bool:
        """Whether something else killed it, as the kernel does when the machine has no memory left."""
        killed = self.process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        return killed and not self.stopped and self.verdict != self.answer

    def reason(self) -> str:
        """Why it failed, empty if it passed; raises PrerequisiteError if the program did not start."""
        if self.ready is None:
            last = self.output.decode(errors="replace").strip()[-500:]
            raise PrerequisiteError(f"The sandbox did not start a program: {last or self.stopped or 'it died'}")
        if self.stopped or self.verdict == self.answer:
            return self.stopped
        if self.verdict.startswith(RAISED):
            name = self.verdict.removeprefix(RAISED).decode(errors="replace")
            if name == MemoryError.__name__:
                return f"over {size(self.limits.memory_bytes)} of memory"
            return name if name.isidentifier() else "an exception"
        return "wrote to the result's channel" if self.verdict else ended(self.process.returncode, self.limits)


def ended(status: int, limits: Limits) -> str:
    """How a program without a message ended; bubblewrap's exit status for a signal is 128 + its number."""
    number = -status if status < 0 else status - 128
    if number == signal.SIGXCPU:
        return timed_out(limits.seconds)
    if number in list(signal.Signals):
        return f"killed by {signal.Signals(number).name}"
    return f"exit status {status} before its last statement"


def timed_out(seconds: float) -> str:
    """The reason for a program that took too long."""
    return f"timed out after {seconds:g} s"


def size(count: int) -> str:
    """`64 KiB` for 65536."""
    return f"{count / (1 << 20):g} MiB" if count >= 1 << 20 else f"{count / (1 << 10):g} KiB"


def run_contained(program: str, limits: Limits, containment: Containment) -> Run:
    """Run the program to its end; none of its processes is left."""
    owner_end, program_end = socket.socketpair()
    secret, key = secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(SECRET_BYTES)
    with owner_end, program_end, scratch(containment) as folder, job(program, key, limits) as job_file:
        owner_end.sendall(secret)
        process = subprocess.Popen(
            command(program_end.fileno(), limits, containment),
            stdin=job_file,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd=folder,
            pass_fds=(program_end.fileno(),),
            start_new_session=True,
        )
        program_end.close()  # else the end of the process would not close the channel
        run = Run(process, owner_end, limits, containment, key + secret)
        with process:
            try:
                run.follow()
            finally:
                stop(process)
    return run


@contextlib.contextmanager
def job(program: str, key: bytes, limits: Limits) -> Iterator[IO[bytes]]:
    """The file that inside.py reads: the program and its limits."""
    with tempfile.TemporaryFile() as file:
        content = {
            "program": program,
            "key": key.hex(),
            "seconds": math.ceil(limits.seconds),
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.scratch_bytes,
        }
        file.write(json.dumps(content).encode())
        file.seek(0)
        yield file


@contextlib.contextmanager
def scratch(containment: Containment) -> Iterator[str]:
    """The folder to start in, removed afterwards; bubblewrap has its own."""
    if containment is Containment.BUBBLEWRAP:
        yield "/"
        return
    folder = tempfile.mkdtemp(prefix="program-")
    try:
        yield folder
    finally:
        # A program can nest folders deeper than shutil.rmtree recurses.
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill the processes that are left, and wait for their end: bubblewrap ends after the last process inside."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        for member in family or [psutil.Process(process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
