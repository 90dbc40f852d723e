"""A mirror of benchmark rows: one Parquet file a split and a manifest, in a folder or below an s3:// prefix.

With a mirror, a machine without the hub evaluates on the same rows: a reader checks every file against the manifest's
sha256. The manifest is written last, so an interrupted mirror has none. The files written until then are listed in a
journal beside it, and the next call continues from there.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError, field_validator

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.artifact import Artifact
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.location import open_store
from quantgate.components.storage.store import FolderStore, Store, checked_name, disk_room

if TYPE_CHECKING:
    from quantgate.components.benchmarks.splits import Rows, Source, Split

MANIFEST = "manifest.json"
JOURNAL = "manifest.partial.json"
FORM: Literal[1] = 1


class MirrorFile(Artifact):
    """The expected content of one split's Parquet file, and the origin of its rows."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: int
    rows: int
    of: str
    """The hub's commit, or the local file."""


class Manifest(Artifact):
    """manifest.json: the files of a mirror by name, and the splits that its origin does not have."""

    form: Literal[1] = FORM
    made_by: str
    files: dict[str, MirrorFile] = {}
    missing: tuple[str, ...] = ()

    @field_validator("files")
    @classmethod
    def _names_stay_inside(cls, files: dict[str, MirrorFile]) -> dict[str, MirrorFile]:
        return {checked_name(name): files[name] for name in sorted(files)}

    @property
    def text(self) -> str:
        """The manifest as it is written: the same text for the same files."""
        return self.model_dump_json(indent=2) + "\n"

    @property
    def sha256(self) -> str:
        """The hex sha256 of `text`."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def make(
    wanted: Sequence["Split"], origin: "Source", location: str, on_file: Callable[[str, int, int], None]
) -> Manifest:
    """Add these splits of the origin to the mirror at `location`, and return its manifest.

    A file that is there with the right sha256 is not read from the origin again. `on_file` is called with each file's
    name, its number (from 1) and the number of files. Raises PrerequisiteError for a full disk, missing rights and
    anything that the origin cannot read; the next call continues.
    """
    store = open_store(location)
    journal = known_so_far(location, JOURNAL)
    known = known_so_far(location, MANIFEST).files | journal.files
    splits = {split.file: split for split in wanted}
    files: dict[str, MirrorFile] = {}
    for number, (name, split) in enumerate(splits.items(), 1):
        if name in known and not trouble_at(store, location, name, known[name]):
            files[name] = known[name]
        elif rows := origin.split(split):
            files[name] = put(store, name, rows)
            journal = joined(journal, {name: files[name]})
            store.put_text(journal.text, JOURNAL)
        on_file(name, number, len(splits))
    # Read the manifest again: another suite may have been added in the meantime.
    manifest = joined(known_so_far(location, MANIFEST), files, [name for name in splits if name not in files])
    store.put_text(manifest.text, MANIFEST)
    unlisted = {name: file for name, file in journal.files.items() if name not in manifest.files}
    store.put_text(Manifest(made_by=maker(), files=unlisted).text, JOURNAL)
    return manifest


def read_manifest(location: str) -> Manifest:
    """The manifest at `location`; raises PrerequisiteError when there is none or it cannot be used."""
    text = text_at(location, MANIFEST)
    if text is None:
        raise PrerequisiteError(f"No mirror at {location}: it has no {MANIFEST}. {advice(location, 'Make')}")
    return parsed(text, location)


def check(location: str) -> list[str]:
    """Read and hash every file of the mirror; returns one fault for each damaged file, none for a complete mirror."""
    store = open_store(location)
    files = read_manifest(location).files
    troubles = {name: trouble_at(store, location, name, file) for name, file in files.items()}
    return [f"{name} {trouble}" for name, trouble in troubles.items() if trouble]


def advice(location: str, verb: str = "Make again") -> str:
    """What to do about a mirror that cannot be used."""
    how = {"Make": "Make it", "Make again": "Make the mirror again", "Add": "Add it"}[verb]
    return f"{how} where the hub is reachable: quantgate mirror SUITE {location}"


def trouble_with(path: Path, file: MirrorFile) -> str:
    """How the file at `path` differs from its entry in the manifest; empty when it does not."""
    if not path.is_file():
        return "is missing"
    if (size_bytes := path.stat().st_size) != file.bytes:
        return f"has {size_bytes} bytes and not the manifest's {file.bytes}"
    return "" if sha256_of(path) == file.sha256 else f"was changed: its sha256 is not the manifest's {file.sha256}"


def trouble_at(store: Store, location: str, name: str, file: MirrorFile) -> str:
    """`trouble_with` the file kept under `name`; it is downloaded where the store is not a folder."""
    with reading(location, name), tempfile.TemporaryDirectory(prefix="quantgate-") as scratch:
        if isinstance(store, FolderStore):
            return trouble_with(store.root / name, file)
        copy = Path(scratch) / "rows.parquet"
        store.get_file(name, copy)
        return trouble_with(copy, file)


def put(store: Store, name: str, rows: "Rows") -> MirrorFile:
    """Write the rows under `name`; returns their entry for the manifest."""
    try:
        content = parquet_of(rows.dataset)
    except pa.ArrowNotImplementedError as error:
        raise PrerequisiteError(
            f"{name}: Parquet cannot hold these rows: {error}. Correct them at {rows.of}."
        ) from error
    with tempfile.TemporaryDirectory(prefix="quantgate-") as scratch:
        path = Path(scratch) / "rows.parquet"
        with disk_room(path.parent, len(content)):
            path.write_bytes(content)
        store.put_file(path, name)
    digest = hashlib.sha256(content).hexdigest()
    return MirrorFile(sha256=digest, bytes=len(content), rows=len(rows.dataset), of=rows.of)


def parquet_of(dataset: datasets.Dataset) -> bytes:
    """The rows as one Parquet file that carries their features; with one pyarrow, the same bytes for the same rows."""
    table = dataset.with_format("arrow")[:].replace_schema_metadata(dataset.features.arrow_schema.metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="zstd")  # chunks would show in the pages
    content: bytes = sink.getvalue().to_pybytes()
    return content


def known_so_far(location: str, name: str) -> Manifest:
    """The manifest or journal at `location`; an empty one when it is missing or unusable."""
    text = text_at(location, name)
    with contextlib.suppress(PrerequisiteError):
        if text is not None:
            return parsed(text, location)
    return Manifest(made_by=maker())


def joined(manifest: Manifest, files: dict[str, MirrorFile], missing: Sequence[str] = ()) -> Manifest:
    """The manifest with these files and these missing splits added."""
    present = {name: file for name, file in (manifest.files | files).items() if name not in missing}
    lacking = sorted({*manifest.missing, *missing} - present.keys())
    return Manifest(made_by=maker(), files=present, missing=tuple(lacking))


def parsed(text: str, location: str) -> Manifest:
    """Parse a manifest; raises PrerequisiteError when it is incomplete or has another form."""
    try:
        form = json.loads(text)["form"]
        if form != FORM:
            raise PrerequisiteError(
                f"{location}/{MANIFEST} is of form {form!r}, and this quantgate reads form {FORM}. {advice(location)}"
            )
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__} {error}"
    raise PrerequisiteError(f"{location}/{MANIFEST} is not whole: {what}. {advice(location)}")


def text_at(location: str, name: str) -> str | None:
    """The text of the file `name` at `location`; None when it is missing, "" when it is not text."""
    try:
        with reading(location, name):
            return open_store(location).get_text(name)
    except UnicodeDecodeError:
        return ""


@contextlib.contextmanager
def reading(location: str, name: str) -> Iterator[None]:
    """Turn an OSError into a PrerequisiteError that names the file."""
    try:
        yield
    except OSError as error:
        raise PrerequisiteError(f"{location}/{name} cannot be read: {error}. Fix its rights, or the disk.") from error


def maker() -> str:
    """The program and version that write the manifest."""
    try:
        return f"quantgate {version('quantgate')}"
    except PackageNotFoundError:
        return "quantgate"
