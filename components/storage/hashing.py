"""The sha256 of files, read from the disk once per arrival.

A digest is a name for bytes. So the bytes of a stored folder are hashed when they arrive, and the result is recorded in
the user's own cache, with each file's device, inode, size, mtime and ctime. A file in the same state is not read again;
a file that was overwritten, replaced or touched since is.

This finds every change that goes through the file system, also one that sets the mtime back: nobody but the kernel sets
a ctime. It does not find what changes below the file system after the first reading (a failing disk, a write to the raw
device), a clock that was set back, or a change between this check and the reading by another program. Who can write to
the cache, or is the machine's administrator, can forge the record.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from quantgate.components.storage.artifact import Artifact

RECORDS = "hashed"
"""The cache's folder of records."""
MOST_THREADS = 8
TICK_NS = 20_000_000
"""Longer than the step of a file system's clock: a file that is younger may change without a new time."""


class HashedFile(Artifact):
    """A file's sha256, and the state in which it was read."""

    sha256: str
    state: tuple[int, ...]
    """Device, inode, size in bytes, mtime and ctime in nanoseconds."""


class HashedFiles(Artifact):
    """The record of one folder, by file name."""

    files: dict[str, HashedFile]


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file's bytes."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def sha256s(paths: Mapping[str, Path]) -> dict[str, str]:
    """The hex sha256 of each file, by name; several threads read at a time, the largest files first."""
    largest_first = sorted(paths, key=lambda name: -paths[name].stat().st_size)
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as threads:
        hashes = threads.map(sha256_of, (paths[name] for name in largest_first))
        return dict(zip(largest_first, hashes, strict=True))


def recorded_sha256s(folder: Path, paths: Mapping[str, Path], cache: Path) -> dict[str, str]:
    """The hex sha256 of each file of `folder`, from the record in `cache` where the file's state is unchanged."""
    key = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()
    record = cache / RECORDS / f"{key}.json"
    known = _read(record).files
    states = {name: state_of(path) for name, path in paths.items()}
    trusted = {name: known[name] for name in paths if name in known and known[name].state == states[name]}
    read = sha256s({name: path for name, path in paths.items() if name not in trusted})
    settled = time.time_ns() - TICK_NS
    new = {
        name: HashedFile(sha256=sha256, state=states[name])
        for name, sha256 in read.items()
        if states[name] == state_of(paths[name]) and max(states[name][-2:]) < settled
    }
    if new:
        with contextlib.suppress(OSError):  # without a record the files are read again
            HashedFiles(files=known | new).write(record)
    return {name: file.sha256 for name, file in trusted.items()} | read


def state_of(path: Path) -> tuple[int, ...]:
    """The file's device, inode, size in bytes, mtime and ctime in nanoseconds."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(record: Path) -> HashedFiles:
    try:
        return HashedFiles.read(record)
    except (OSError, ValidationError):
        return HashedFiles(files={})
