"""The store of models and results: a folder, or S3, behind one small interface.

Each folder in a store has a marker, the file COMPLETE.json, written last: the folder's digest, and every file's sha256
and size. A folder without the marker is not read, so a half-written model never reaches a server.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import ValidationError, field_validator

from components.errors import PrerequisiteError
from components.storage.artifact import Artifact, write_text

MARKER = "COMPLETE.json"
BLOCK_BYTES = 1 << 20
ABANDONED_AFTER_S = 24 * 3600
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class StoredFile(Artifact):
    """The expected sha256 and size of one file."""

    sha256: str
    size_bytes: int


class Marker(Artifact):
    """COMPLETE.json: the digest and the files of a complete folder in the store."""

    digest: str
    files: dict[str, StoredFile]

    @field_validator("files")
    @classmethod
    def _names_stay_inside(cls, files: dict[str, StoredFile]) -> dict[str, StoredFile]:
        for name in files:
            checked_name(name)
        return files

    def without_weights(self) -> "Marker":
        """The marker without the files of the weights."""
        others = {name: file for name, file in self.files.items() if not name.endswith(".safetensors")}
        return self.model_copy(update={"files": others})

    @property
    def sizes(self) -> dict[str, int]:
        """Each file's size in bytes."""
        return {name: file.size_bytes for name, file in self.files.items()}


class Store(Protocol):
    """Stores folders and small results under names such as `models/<digest>`.

    Every method raises PrerequisiteError for errors that a user can fix: a full disk, missing rights, an S3 that does
    not answer.
    """

    def put_folder(self, folder: Path, name: str, digest: str, only: Collection[str] | None = None) -> str:
        """Store a complete, checked copy of `folder`; returns its uri. Copies nothing when `name` has that digest.

        `only` restricts the copy to these names; hidden files are always left out.
        """

    def get_folder(self, name: str, cache: Path, *, weights: bool = True) -> Path:
        """A local, checked folder with the content of `name`; PrerequisiteError when it is missing or incomplete.

        Without `weights` the folder may have only the configuration and the tokenizer.
        """

    def has_folder(self, name: str, digest: str) -> bool:
        """True when `name` is a complete folder with that digest."""

    def put_file(self, path: Path, name: str) -> str:
        """Store a checked copy of the file at `path` atomically; returns its uri."""

    def get_file(self, name: str, path: Path) -> bool:
        """Copy the file stored under `name` to `path`; False when there is none."""

    def put_text(self, text: str, name: str) -> str:
        """Store the text atomically; returns its uri."""

    def get_text(self, name: str) -> str | None:
        """The text stored under `name`, or None."""


class FolderStore:
    """The store in a folder, for a local run and for a cluster with a shared volume."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    def put_folder(self, folder: Path, name: str, digest: str, only: Collection[str] | None = None) -> str:
        target = self._path(name)
        if self.has_folder(name, digest):
            return str(target)
        files = files_of(folder, only)
        with staged(target, sum(path.stat().st_size for path in files.values())) as partial:
            stored = {file_name: copy_hashed(path, partial / file_name) for file_name, path in files.items()}
            Marker(digest=digest, files=stored).write(partial / MARKER)
            require_whole(partial)
        return str(target)

    def get_folder(self, name: str, cache: Path, *, weights: bool = True) -> Path:  # noqa: ARG002 - read in place
        target = self._path(name)
        require_whole(target)
        return target

    def has_folder(self, name: str, digest: str) -> bool:
        marker = read_marker(self._path(name))
        return marker is not None and marker.digest == digest and _is_complete(self._path(name), marker)

    def put_file(self, path: Path, name: str) -> str:
        target = self._path(name)
        with disk_room(target.parent, path.stat().st_size):
            partial = partial_of(target)
            try:
                copy_hashed(path, partial)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        return str(target)

    def get_file(self, name: str, path: Path) -> bool:
        source = self._path(name)
        if not source.exists():
            return False
        with disk_room(path.parent, source.stat().st_size):
            copy_hashed(source, path)
        return True

    def put_text(self, text: str, name: str) -> str:
        target = self._path(name)
        with disk_room(target.parent, len(text.encode())):
            write_text(target, text)
        return str(target)

    def get_text(self, name: str) -> str | None:
        try:
            return self._path(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def _path(self, name: str) -> Path:
        return self.root / checked_name(name)


def checked_name(name: str) -> str:
    """`name` itself, when it is relative and stays inside the store; raises ValueError otherwise."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a valid name in a store: it must be relative, without '..'")
    return name


def files_of(folder: Path, only: Collection[str] | None = None) -> dict[str, Path]:
    """The regular files below `folder` by sorted relative name, without hidden files and the store's marker."""
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    return {name: files[name] for name in sorted(files) if name != MARKER and (only is None or name in only)}


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file's bytes."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def copy_hashed(source: Path, target: Path) -> StoredFile:
    """Copy a file and hash its bytes; the copy gets the process's default mode, not the source's."""
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher = hashlib.sha256()
    size_bytes = 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(BLOCK_BYTES):
            hasher.update(block)
            size_bytes += writer.write(block)
    return StoredFile(sha256=hasher.hexdigest(), size_bytes=size_bytes)


def read_marker(folder: Path) -> Marker | None:
    """The folder's marker, or None when it is missing or unreadable."""
    try:
        return Marker.read(folder / MARKER)
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def require_whole(folder: Path) -> Marker:
    """The marker of a folder that has every file in its full size; raises PrerequisiteError otherwise."""
    marker = read_marker(folder)
    if marker is None:
        raise PrerequisiteError(
            f"No complete model at {folder}: {MARKER} is missing. Run the step that writes it again."
        )
    if not _is_complete(folder, marker):
        raise PrerequisiteError(f"Files in {folder} are missing or changed. Delete the folder and run again.")
    return marker


def _is_complete(folder: Path, marker: Marker) -> bool:
    paths = {name: folder / name for name in marker.files}
    return all(path.is_file() and path.stat().st_size == marker.sizes[name] for name, path in paths.items())


def partial_of(target: Path) -> Path:
    """A unique hidden path beside `target`, which no other process writes and no reader opens."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")


@contextlib.contextmanager
def staged(target: Path, needed_bytes: int) -> Iterator[Path]:
    """An empty folder that becomes `target` when the block succeeds, and is removed when it fails.

    An existing `target` loses its marker first. If another process completes the same folder meanwhile, its copy stays.
    Partial folders of killed processes are removed after a day.
    """
    with disk_room(target.parent, needed_bytes):
        _sweep(target.parent)
        partial = partial_of(target)
        partial.mkdir()
        try:
            yield partial
            (target / MARKER).unlink(missing_ok=True)
            if target.exists():
                shutil.rmtree(target)
            try:
                partial.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _sweep(folder: Path) -> None:
    for partial in folder.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


@contextlib.contextmanager
def disk_room(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Create `folder` and run the block; a full disk or missing rights become a PrerequisiteError with the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except OSError as error:
        if error.errno in NOT_WRITABLE:
            raise PrerequisiteError(f"Cannot write to {folder}: {error}. Fix its rights or give another.") from error
        if error.errno not in DISK_FULL:
            raise
        raise PrerequisiteError(
            f"The disk of {folder} is full: {needed_bytes} bytes are needed and {shutil.disk_usage(folder).free} are "
            "free. Make room, or give a folder on another disk."
        ) from error
