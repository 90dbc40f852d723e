"""Run one program in its sandbox, stop it at its limits, and say how it ended.

inside.py has the kernel limit memory, processor time and the size of files. What the kernel has no limit for is polled
here: the time that passes, the output, the threads and the number of files.
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
"""Python must have started by then; a program's own time begins after that."""
GRACE_S, STOP_S = 0.3, 10.0
"""How long it may take to end by itself, and when killed."""
LONGEST_TOLD = 1000


@dataclass
class Run:
    """A program under way, and what was seen of it."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    limits: Limits
    containment: Containment
    answer: bytes
    """What it tells when it reached its last statement."""
    started: float = field(default_factory=time.monotonic)
    ready: float | None = None
    """When inside.py said that the program's time begins."""
    told: bytes = b""
    output: bytes = b""
    stopped: str = ""
    """Why it was stopped."""
    worker: psutil.Process | None = None

    def follow(self) -> None:
        """Read what it writes until it told its answer, ended or went over a limit."""
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
                    self.hear(key.fd, selector)
                self.stopped = self.excess()

    def hear(self, number: int, selector: selectors.BaseSelector) -> None:
        """Take in what can be read from that file descriptor, or forget it at its end."""
        try:
            chunk = os.read(number, 1 << 16)
        except ConnectionResetError:  # it left the secret unread
            chunk = b""
        if not chunk:
            selector.unregister(number)
        elif number != self.channel.fileno():
            self.output += chunk
        else:
            self.told += chunk
            if self.ready is None and self.told.startswith(READY):
                self.ready = time.monotonic()

    def excess(self) -> str:
        """Which limit it is over, or nothing."""
        if self.ready is None:
            return "" if time.monotonic() < self.started + START_S else "it took too long"
        if len(self.output) > self.limits.output_bytes:
            return f"over {size(self.limits.output_bytes)} of output"
        if len(self.told) > LONGEST_TOLD:
            return "wrote to the result's channel"
        if self.verdict == self.answer:
            return ""
        if time.monotonic() > self.ready + PATIENCE * self.limits.seconds:
            return timed_out(PATIENCE * self.limits.seconds)
        return self.crowd()

    def crowd(self) -> str:
        """Whether it has more threads or files than it may."""
        try:
            if self.worker is None:
                family = psutil.Process(self.process.pid).children(recursive=True)
                self.worker = family[-1] if family else psutil.Process(self.process.pid)
            if self.worker.num_threads() > self.limits.threads:
                return f"over {self.limits.threads} threads"
            if self.containment is Containment.POD:
                return ""
            # Its own /tmp, seen from here: bubblewrap limits the size of a tmpfs, not the number of its files.
            disk = os.statvfs(f"/proc/{self.worker.pid}/root/tmp")
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            return ""  # it has just ended
        crowded = disk.f_files - disk.f_ffree > self.limits.scratch_files
        return f"over {self.limits.scratch_files} files" if crowded else ""

    @property
    def verdict(self) -> bytes:
        """What was told since it was ready."""
        return self.told.removeprefix(READY)

    @property
    def killed(self) -> bool:
        """Whether it was killed, and not by us: as the kernel does when the machine has no memory left."""
        killed = self.process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        return killed and not self.stopped and self.verdict != self.answer

    def reason(self) -> str:
        """Why it did not pass, or nothing where it did; PrerequisiteError where the program was not even begun."""
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
    """How a program that told nothing came to its end; bubblewrap's exit status for a signal is 128 + it."""
    number = -status if status < 0 else status - 128
    if number == signal.SIGXCPU:
        return timed_out(limits.seconds)
    if number in list(signal.Signals):
        return f"killed by {signal.Signals(number).name}"
    return f"exit status {status} before its last statement"


def timed_out(seconds: float) -> str:
    """That it took too long."""
    return f"timed out after {seconds:g} s"


def size(count: int) -> str:
    """`64 KiB` for 65536."""
    return f"{count / (1 << 20):g} MiB" if count >= 1 << 20 else f"{count / (1 << 10):g} KiB"


def run_contained(program: str, limits: Limits, containment: Containment) -> Run:
    """The program's finished run; no process of it is left."""
    ours, theirs = socket.socketpair()
    secret, key = secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(SECRET_BYTES)
    with ours, theirs, scratch(containment) as folder, job(program, key, limits) as wanted:
        ours.sendall(secret)
        process = subprocess.Popen(
            command(theirs.fileno(), limits, containment),
            stdin=wanted,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd=folder,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()  # else its end would not be heard
        run = Run(process, ours, limits, containment, key + secret)
        with process:
            try:
                run.follow()
            finally:
                stop(process)
    return run


@contextlib.contextmanager
def job(program: str, key: bytes, limits: Limits) -> Iterator[IO[bytes]]:
    """What inside.py reads."""
    with tempfile.TemporaryFile() as file:
        wanted = {
            "program": program,
            "key": key.hex(),
            "seconds": math.ceil(limits.seconds),
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.scratch_bytes,
        }
        file.write(json.dumps(wanted).encode())
        file.seek(0)
        yield file


@contextlib.contextmanager
def scratch(containment: Containment) -> Iterator[str]:
    """The folder to start in, which goes afterwards; bubblewrap brings its own."""
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
    """Kill what is left of it, and wait for that: bubblewrap ends after the last process inside has."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        for each in family or [psutil.Process(process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
