"""The API keys of servers, and whether the process that answers at a server's address is the one that we started.

Each start of a server gets a fresh key, which it demands of every request. vLLM reads it from $VLLM_API_KEY, so that no
list of processes shows it. On this machine the run's other steps read it from a file that only this account may read;
on a cluster they compute it, see start_key.py. A server that was started elsewhere gets the user's key.
"""

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from quantgate.components.run.artifacts import Server
from quantgate.components.servers.start_key import start_key

KEY_VARIABLE = "VLLM_API_KEY"
"""From this variable vLLM reads the key that it demands."""
USER_KEYS = (KEY_VARIABLE, "OPENAI_API_KEY")
"""The variables with the user's key for a server that was started elsewhere; the first that is set counts."""
REFUSED = (401, 403)


def new_key(file: Path) -> str:
    """A fresh key, written to `file`, which only this account may read."""
    key = secrets.token_urlsafe(32)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as key_file:
        key_file.write(key)
    return key


def key_of(server: Server) -> str:
    """The key that this server demands; "" without one. A server of ours never gets the user's key."""
    if not server.started_by_run:
        return user_key()
    if server.key_secret:
        return start_key(server.key_secret)
    file = Path(server.key_file)
    return file.read_text(encoding="utf-8") if server.key_file and file.exists() else ""


def user_key(environment: Mapping[str, str] = os.environ) -> str:
    """The user's key for a server that was started elsewhere; "" when none is set."""
    return next((environment[name] for name in USER_KEYS if environment.get(name)), "")


def sets_key(options: Iterable[str], variables: Iterable[str]) -> bool:
    """Whether vLLM would get an API key from these options, which precede its variable, or from these variables."""
    return KEY_VARIABLE in variables or any(option.partition("=")[0] == "--api-key" for option in options)


def headers(key: str) -> dict[str, str]:
    """The HTTP headers with which a request carries the key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def key_hint(status: int) -> str:
    """What to do when a server refuses a request for its key; "" for any other status."""
    if status not in REFUSED:
        return ""
    sent = next((name for name in USER_KEYS if os.environ.get(name)), "")
    fix = f"refuses the key in ${sent}. Correct it" if sent else "demands an API key. Set $OPENAI_API_KEY"
    return f"The server {fix}"


def port_of(server: Server) -> int:
    """The port in the server's address."""
    return int(server.url.rsplit(":", 1)[1].partition("/")[0])


@dataclass(frozen=True)
class Listener:
    """A process and its socket that listens on a port; as long as it is open, no other account gets the port."""

    descriptor: Path
    """The open file in /proc; where there is no /proc, one that does not exist."""
    socket: str
    """What that file is, with the number that the kernel gave the socket."""
    process: psutil.Process
    port: int

    def listens(self) -> bool:
        """Whether the socket is still open: a look at one link, as /proc's list of all connections takes 30 ms."""
        if not self.socket:
            return listening_descriptor(self.process, self.port) is not None
        return link_target(self.descriptor) == self.socket


def listener(pid: int, port: int) -> Listener | None:
    """The listening socket of that port, if this process or one of its descendants has it."""
    try:
        process = psutil.Process(pid)
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return None
    for member in family:
        number = listening_descriptor(member, port)
        if number is not None:
            descriptor = Path(f"/proc/{member.pid}/fd/{number}")
            return Listener(descriptor, link_target(descriptor), member, port)
    return None


def listening_descriptor(process: psutil.Process, port: int) -> int | None:
    """The number of the process's open file that listens on the port; None without one."""
    try:
        sockets = process.net_connections(kind="tcp")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return next(
        (
            candidate.fd
            for candidate in sockets
            if candidate.status == psutil.CONN_LISTEN and candidate.laddr.port == port
        ),
        None,
    )


def link_target(file: Path) -> str:
    """What the symbolic link points to; "" without one that this account may read."""
    try:
        return str(file.readlink())
    except OSError:
        return ""
