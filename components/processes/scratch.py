"""A scratch folder: the temporary files of a process, and of all that it starts, in one folder that does not stay.

Libraries leave files in the system's temporary folder: kfp's runner a folder a step, vLLM its sockets. They follow
$TMPDIR, so they go where it leads, and the owner removes the folder. An owner that is killed removes nothing. So it
holds a lock on the folder, which the kernel then releases, and the next owner removes every folder without one.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from quantgate.components.errors import PrerequisiteError

PREFIX = "quantgate-tmp-"
LONGEST_SOCKET, UUID = 107, 36
"""Bytes in the path of a Unix socket; vLLM names its sockets by a UUID."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for temporary files, removed at the end; folders whose owner was killed are removed first."""
    parent = parent_folder()
    remove_abandoned(parent)
    folder, lock = locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def use_own_folder() -> None:
    """Put the temporary files of this process and of all that it starts into a folder that is removed at its exit.

    Call it first: what is registered later is called earlier at the exit, as by libraries that remove their own files.
    """
    stack = contextlib.ExitStack()
    tempfile.tempdir = os.environ["TMPDIR"] = str(stack.enter_context(scratch_folder()))
    atexit.register(stack.close)


def parent_folder() -> Path:
    """Where scratch folders lie: side by side, because a server may outlive the process that started it.

    Raises PrerequisiteError when no folder for temporary files can be written.
    """
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise PrerequisiteError(f"{error.strerror} Set TMPDIR to a folder that can be written.") from None
    parent = folder.parent if folder.name.startswith(PREFIX) else folder
    fits = len(os.fsencode(parent / f"{PREFIX}12345678")) + 1 + UUID <= LONGEST_SOCKET
    return parent if fits or not os.access("/tmp", os.W_OK) else Path("/tmp")


def locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and the file descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process removed it before it was locked
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def remove_abandoned(parent: Path) -> None:
    """Remove this user's scratch folders that no process holds."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # held, another user's, or already removed by another process
            if folder.lstat().st_uid == os.geteuid():
                remove_if_abandoned(folder)


def remove_if_abandoned(folder: Path) -> None:
    """Remove the folder; raises BlockingIOError when its owner holds it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
