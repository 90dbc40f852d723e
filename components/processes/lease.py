"""A lease: a file that a process keeps locked until it ends.

The holder has an exclusive flock on the file. The kernel releases the lock when the holder ends, even by SIGKILL. So a
guard that gets the lock knows that its owner has ended. The file contains a unique name of its holder, so that a guard
does not mistake the next holder for its owner. A lease uses no clock and no process id, because a laptop may sleep and
a process id may be reused.
"""

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantgate.components.errors import PrerequisiteError


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lease at `path` while the block runs; raises PrerequisiteError when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrerequisiteError(
                f"{path.parent} belongs to a run that is still running. Wait for it, or choose another --out."
            ) from None
        file.truncate(0)
        file.write(uuid.uuid4().hex)
        file.flush()
        yield


def holder(path: Path) -> str:
    """The name of the process that holds the lease at `path`; "" when no process holds it or the file is missing."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ""
    except BlockingIOError:
        return path.read_text(encoding="utf-8")
    return ""
