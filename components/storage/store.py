"""The store of models and results: a folder, or S3, behind one small interface.

Each folder in a store has a marker, the file COMPLETE.json, written last: the folder's digest, and every file's sha256
and size. A folder without the marker is not read, so a half-written model never reaches a server.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import ValidationError, field_validator

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.artifact import Artifact, write_text
from quantgate.components.storage.hashing import recorded_sha256s, sha256s, state_of

MARKER = "COMPLETE.json"
WEIGHT_FILES = (".safetensors", ".gguf")
"""How the names of a model's weight files end."""
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
        others = {name: file for name, file in self.files.items() if not name.endswith(WEIGHT_FILES)}
        return self.model_copy(update={"files": others})

    @property
    def sizes(self) -> dict[str, int]:
        """Each file's size in bytes."""
        return {name: file.size_bytes for name, file in self.files.items()}


Check = Callable[[Marker], None]
"""Raises PrerequisiteError for the marker of other files than the caller wants."""


class Store(Protocol):
    """Stores folders and small results under names such as `models/<digest>`.

    Every method raises PrerequisiteError for errors that a user can fix: a full disk, missing rights, an S3 that does
    not answer.
    """

    def put_folder(self, folder: Path, name: str, digest: str, only: Collection[str] | None = None) -> str:
        """Store a complete, checked copy of `folder`; returns its uri. Copies nothing when `name` has that digest.

        `only` restricts the copy to these names; hidden files are always left out.
        """

    def get_folder(self, name: str, cache: Path, *, weights: bool = True, check: Check | None = None) -> Path:
        """A local folder with the content of `name`, whose bytes have the sha256 values of the marker.

        Without `weights` the folder may have only the configuration and the tokenizer. Raises PrerequisiteError, with
        the names, when files are missing, changed or added; and what `check` raises for the marker, before any file is
        read.
        """

    def check_folder(self, name: str, cache: Path, check: Check) -> None:
        """Read every stored byte of `name`, wherever it lies, and raise PrerequisiteError as `get_folder` does."""

    def state(self, name: str) -> str:
        """A text that is another one once a file of `name` was written, added or removed; reads no content."""

    def uri(self, name: str) -> str:
        """The address of `name`: a path, or s3://BUCKET/PREFIX."""

    def has_folder(self, name: str, digest: str) -> bool:
        """True when `name` is a complete folder with that digest."""

    def put_file(self, path: Path, name: str) -> str:
        """Store a checked copy of the file at `path` atomically; returns its uri."""

    def get_file(self, name: str, path: Path) -> bool:
        """Copy the file stored under `name` to `path`; False when there is none."""

    def put_text(self, text: str, name: str) -> str:
        """Store the text atomically; returns its uri."""

    def create_text(self, text: str, name: str) -> bool:
        """Store the text atomically unless `name` exists; returns whether it did not."""

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

    def get_folder(self, name: str, cache: Path, *, weights: bool = True, check: Check | None = None) -> Path:
        target = self._path(name)
        marker = require_whole(target)
        if check:
            check(marker)
        require_unchanged(target, marker, cache, weights=weights)
        return target

    def check_folder(self, name: str, cache: Path, check: Check) -> None:
        self.get_folder(name, cache, check=check)

    def state(self, name: str) -> str:
        return json.dumps([(file, state_of(path)) for file, path in files_of(self._path(name)).items()])

    def uri(self, name: str) -> str:
        return str(self._path(name))

    def has_folder(self, name: str, digest: str) -> bool:
        marker = read_marker(self._path(name))
        return marker is not None and marker.digest == digest and not _damaged(self._path(name), marker)

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

    def create_text(self, text: str, name: str) -> bool:
        target = self._path(name)
        with disk_room(target.parent, len(text.encode())):
            partial = partial_of(target)
            try:
                partial.write_text(text, encoding="utf-8")
                target.hardlink_to(partial)
            except FileExistsError:
                return False
            finally:
                partial.unlink(missing_ok=True)
        return True

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
    """The regular files below `folder` by sorted relative name, without hidden files and the store's marker.

    Raises PrerequisiteError for a symbolic link that leaves the folder, since its target would be copied and served.
    """
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    chosen = {name: files[name] for name in sorted(files) if name != MARKER and (only is None or name in only)}
    for path in chosen.values():
        _require_inside(path, folder.resolve())
    return chosen


def _require_inside(path: Path, folder: Path) -> None:
    """Accept the hub cache's own layout, too: links from snapshots/COMMIT to the blobs of the same repository."""
    target = path.resolve()
    blobs = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else folder
    if not target.is_relative_to(folder) and target.parent != blobs:
        raise PrerequisiteError(
            f"{path} is a symbolic link to {target}, outside the folder, and is not followed. Put a copy of the file in"
            " its place, or remove the link."
        )


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
    if damaged := _damaged(folder, marker):
        raise PrerequisiteError(f"{folder} is not what was stored: {', '.join(damaged)}. Delete it and run again.")
    return marker


def require_unchanged(folder: Path, marker: Marker, cache: Path, *, weights: bool = True) -> None:
    """Raise PrerequisiteError, with the names, unless the folder has exactly the marker's files with their bytes.

    Without `weights` the bytes of the weights are not read. What the record in `cache` protects against: `hashing.py`.
    """
    files = files_of(folder)
    wanted = marker if weights else marker.without_weights()
    hashes = recorded_sha256s(folder, {name: files[name] for name in wanted.files if name in files}, cache)
    changes = [f"{name} has other bytes" for name in wanted.files if hashes.get(name) != wanted.files[name].sha256]
    linked = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() and path.is_dir()]
    changes += [f"{name} was added" for name in [*(files.keys() - marker.files.keys()), *linked]]
    if changes:
        raise PrerequisiteError(
            f"{folder} is not what was stored: {', '.join(sorted(changes))}. Delete that folder and run again."
        )


def is_unchanged(folder: Path, marker: Marker, cache: Path, *, weights: bool = True) -> bool:
    """Whether the folder has exactly this marker, and its files with their bytes."""
    if read_marker(folder) != marker:
        return False
    try:
        require_unchanged(folder, marker, cache, weights=weights)
    except PrerequisiteError:
        return False
    return True


def made_once(target: Path, cache: Path, needed_bytes: int, make: Callable[[Path], object]) -> Path:
    """The folder `target` of the cache, which `make` fills when it is missing or its bytes have changed."""
    marker = read_marker(target)
    if marker is None or not is_unchanged(target, marker, cache):
        with staged(target, needed_bytes) as partial:
            make(partial)
            files = files_of(partial)
            hashes = sha256s(files)
            stored = {
                name: StoredFile(sha256=hashes[name], size_bytes=path.stat().st_size) for name, path in files.items()
            }
            Marker(digest="", files=stored).write(partial / MARKER)
    return target


def _damaged(folder: Path, marker: Marker) -> list[str]:
    paths = {name: folder / name for name in marker.files}
    missing = [f"{name} is missing" for name, path in paths.items() if not path.is_file()]
    cut = [name for name, path in paths.items() if path.is_file() and path.stat().st_size != marker.sizes[name]]
    return missing + [f"{name} has another size" for name in cut]


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
