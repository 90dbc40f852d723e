"""A lease: a file that lives as long as the process that holds it.

The holder keeps an exclusive flock on the file. The kernel releases it when the holder ends, whatever ended it
(SIGKILL included), so a guard that can take the lock knows that its owner is gone. The file names its holder, so that
a guard does not take the next holder for its owner. No clock and no process id is involved: a laptop may sleep and a
process id may be reused.
"""

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import PrerequisiteError


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lease at `path` for the time of the block; raises PrerequisiteError when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrerequisiteError(
                f"{path.parent} belongs to a run that is still going on. Wait for it, or choose another --out."
            ) from None
        file.truncate(0)
        file.write(uuid.uuid4().hex)
        file.flush()
        yield


def holder(path: Path) -> str:
    """The name of who holds the lease at `path`; "" when nobody does, as when the file is missing."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ""
    except BlockingIOError:
        return path.read_text(encoding="utf-8")
    return ""
