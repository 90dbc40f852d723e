"""The sources of a benchmark's rows: the hub, a mirror of it, or plain local files.

A source returns None only for a split that it does not have. Every failure raises PrerequisiteError, so that an
unreachable hub never looks like a benchmark without a training split.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import httpx
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from datasets.inspect import SplitsNotFoundError
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from quantgate.components.benchmarks.mirror import (
    Manifest,
    MirrorFile,
    advice,
    parquet_of,
    read_manifest,
    reading,
    trouble_with,
)
from quantgate.components.benchmarks.splits import Rows, Split
from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.location import open_store
from quantgate.components.storage.store import FolderStore, Store, disk_room, partial_of

HUB_TIMEOUT_S = 5
SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Mirror:
    """A mirror at a path, `file:path` or s3://, as mirror.py writes it: needs no hub; every file is checked.

    A folder is read in place. Files in a bucket are copied to the cache under their sha256.
    """

    location: str
    cache: Path

    @property
    def description(self) -> str:
        where = self._store.root if isinstance(self._store, FolderStore) else self.location
        return f"mirror {where}, manifest sha256 {self.manifest.sha256[:16]}"

    @functools.cached_property
    def manifest(self) -> Manifest:
        """The mirror's manifest, read once."""
        return read_manifest(self.location)

    def split(self, wanted: Split) -> Rows | None:
        file = self.manifest.files.get(wanted.file)
        if file is None and wanted.file in self.manifest.missing:
            return None
        if file is None:
            add = advice(self.location, "Add")
            raise PrerequisiteError(f"The mirror at {self.location} was made without {wanted.file}. {add}")
        with reading(self.location, wanted.file):
            path = self._checked(wanted.file, file)
            return Rows(datasets.Dataset(parquet_table(path)), file.sha256, file.of)

    @functools.cached_property
    def _store(self) -> Store:
        return open_store(self.location)

    def _checked(self, name: str, file: MirrorFile) -> Path:
        if isinstance(self._store, FolderStore):
            path = self._store.root / name
            self._require_same(path, name, file)
            return path
        path = self.cache / "mirror" / f"{file.sha256}.parquet"
        if not trouble(path, file):
            return path
        with disk_room(path.parent, file.bytes):
            partial = partial_of(path)
            try:
                self._store.get_file(name, partial)
                self._require_same(partial, name, file)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return path

    def _require_same(self, path: Path, name: str, file: MirrorFile) -> None:
        if what := trouble(path, file):
            raise PrerequisiteError(f"{self.location}/{name} {what}. {advice(self.location)}")


@dataclass(frozen=True)
class Folder:
    """Plain files `NAME/SPLIT.jsonl`, `.json` or `.parquet` below a path, with the hub's names: a mirror's origin."""

    path: Path

    @property
    def description(self) -> str:
        return f"folder {self.path.absolute()}"

    def split(self, wanted: Split) -> Rows | None:
        folder = (self.path / wanted.stem).parent
        if not folder.is_dir():
            raise PrerequisiteError(
                f"{folder} is not a directory. Put {wanted.path}'s files there, as {wanted.split}.jsonl."
            )
        files = [path for suffix in SUFFIXES if (path := folder / f"{wanted.split}{suffix}").is_file()]
        if len(files) > 1:
            names = " and ".join(path.name for path in files)
            raise PrerequisiteError(f"{folder} has the split {wanted.split} twice, as {names}. Keep one of them.")
        if not files:
            return None
        with reading(str(folder), files[0].name):
            return Rows(read_rows(files[0]), sha256_of(files[0]), str(files[0].absolute()))


class Hub:
    """The Hugging Face hub; all splits of a data set come from its commit at the time of the first request."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache / "datasets"
        self._infos: dict[str, huggingface_hub.DatasetInfo] = {}

    @property
    def description(self) -> str:
        return f"hub {huggingface_hub.constants.ENDPOINT}"

    def split(self, wanted: Split) -> Rows | None:
        info = self._info(wanted.path)
        with self._reading(wanted, info), disk_room(self.cache, needed_bytes=0):
            dataset = self._load(wanted, info)
        if dataset is None:
            return None
        digest = hashlib.sha256(parquet_of(dataset)).hexdigest()
        return Rows(dataset, digest, str(info.sha))

    def first_rows(self, wanted: Split, count: int) -> tuple[list[dict[str, Any]], str]:
        """The split's first rows, and the commit; reads no more of the split than it must."""
        info = self._info(wanted.path)
        with self._reading(wanted, info):
            name, splits = self._splits(wanted, info)
            if wanted.split not in splits:
                raise PrerequisiteError(f"{wanted.path} has no split {wanted.split}. Name one of {', '.join(splits)}.")
            rows = datasets.load_dataset(wanted.path, name, split=wanted.split, revision=info.sha, streaming=True)
            return list(rows.take(count)), str(info.sha)

    def _info(self, path: str) -> huggingface_hub.DatasetInfo:
        if path not in self._infos:
            self._infos[path] = hub_info(path)
        return self._infos[path]

    @contextlib.contextmanager
    def _reading(self, wanted: Split, info: huggingface_hub.DatasetInfo) -> Iterator[None]:
        try:
            yield
        except (DatasetsError, SplitsNotFoundError, httpx.HTTPError, ConnectionError, FileNotFoundError) as error:
            if info.gated and isinstance(error, GatedRepoError | DatasetNotFoundError):
                raise gated(wanted.path) from error
            why = f"{error} {error.__cause__ or ''}".strip().rstrip(".")
            raise PrerequisiteError(
                f"{wanted.file} could not be read from the hub: {why}. Check the network and run again."
            ) from error

    def _load(self, wanted: Split, info: huggingface_hub.DatasetInfo) -> datasets.Dataset | None:
        name, splits = self._splits(wanted, info)
        if wanted.split not in splits:
            return None
        return datasets.load_dataset(
            wanted.path, name, split=wanted.split, revision=info.sha, cache_dir=str(self.cache)
        )

    def _splits(self, wanted: Split, info: huggingface_hub.DatasetInfo) -> tuple[str, list[str]]:
        """The configuration and its splits."""
        datasets.disable_progress_bars()
        names = datasets.get_dataset_config_names(wanted.path, revision=info.sha)
        name = wanted.name or datasets.get_dataset_default_config_name(wanted.path, revision=info.sha)
        if name not in names:
            which = f"no configuration {name!r}" if name else "no default configuration"
            raise PrerequisiteError(f"{wanted.path} has {which}. Name one of {', '.join(names)}.")
        return str(name), datasets.get_dataset_split_names(wanted.path, name, revision=info.sha)


def hub_info(path: str) -> huggingface_hub.DatasetInfo:
    """The data set's commit and whether it is gated, from one short request; raises PrerequisiteError on failure."""
    try:
        info = huggingface_hub.HfApi().dataset_info(path, timeout=HUB_TIMEOUT_S)
    except GatedRepoError as error:
        raise gated(path) from error
    except RepositoryNotFoundError as error:
        raise PrerequisiteError(
            f"The hub has no data set {path}, or it is private. Check the name, or set HF_TOKEN to a token that may "
            "read it."
        ) from error
    except HFValidationError as error:
        raise PrerequisiteError(f"{path} is not a valid data set name: {error}") from error
    except (OfflineModeIsEnabled, httpx.HTTPError) as error:
        raise PrerequisiteError(
            f"The hub {huggingface_hub.constants.ENDPOINT} is not reachable ({str(error).rstrip('.')}). Make a mirror "
            "where it is: quantgate mirror SUITE DIR, and run here with --data DIR"
        ) from error
    if not info.sha:
        raise PrerequisiteError(f"The hub names no commit of {path}, so its rows cannot be pinned. Try again later.")
    return info


def gated(path: str) -> PrerequisiteError:
    """The error for a data set whose licence must be accepted first."""
    return PrerequisiteError(
        f"The data set {path} is gated. Accept its licence on its page, then set HF_TOKEN to a token of that account."
    )


def trouble(path: Path, file: MirrorFile) -> str:
    """`trouble_with`, but a process hashes an unchanged file only once."""
    if not path.is_file():
        return trouble_with(path, file)
    stat = path.stat()
    return _cached_trouble(path, file, stat.st_ino, stat.st_mtime_ns)


@functools.cache
def _cached_trouble(path: Path, file: MirrorFile, _inode: int, _mtime_ns: int) -> str:
    return trouble_with(path, file)


def read_rows(path: Path) -> datasets.Dataset:
    """The rows of a .jsonl, .json (a list of objects) or .parquet file; raises PrerequisiteError for other content."""
    try:
        if path.suffix == ".parquet":
            return datasets.Dataset(parquet_table(path))
        return dataset_of(objects_in(path))
    except (pa.ArrowException, OverflowError) as error:
        raise PrerequisiteError(f"{path}: its rows are not a table: {error}. Correct the file.") from error


def parquet_table(path: Path) -> pa.Table:
    """The whole table of one Parquet file, with the features in its schema."""
    with pq.ParquetFile(path) as file:
        return file.read()


def dataset_of(rows: list[dict[str, Any]]) -> datasets.Dataset:
    """The rows as a data set: types are inferred from all rows, and a missing key becomes None.

    Dataset.from_list would use the first row's columns for all rows.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return datasets.Dataset(pa.table({column: [row.get(column) for row in rows] for column in columns}))


def objects_in(path: Path) -> list[dict[str, Any]]:
    """The file's JSON objects, one a line or in one list; raises PrerequisiteError with the line for other content."""
    rows: Any = []
    line = 0
    try:
        if path.suffix == ".json":
            rows = json.loads(path.read_bytes())
        else:
            with path.open("rb") as lines:
                for text in lines:
                    line += 1
                    rows += [json.loads(text)] if text.strip() else []
    except ValueError as error:
        where = f"{path}, line {line}" if line else str(path)
        raise PrerequisiteError(f"{where}: this is not JSON: {error}. Correct the file.") from error
    if not rows or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PrerequisiteError(f"{path} has no rows, or rows that are not JSON objects. Correct the file.")
    return rows
