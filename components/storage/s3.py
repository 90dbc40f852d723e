"""The store in S3: boto3 with its transfer manager, on AWS or on any server with the S3 API.

Every upload is compared with the server's SHA-256: of the whole object or, for a multipart upload, of its parts'
digests. From a server without SHA-256 the bytes are read again, and so are they with
AWS_REQUEST_CHECKSUM_CALCULATION=when_required, which some servers need: no checksum is sent then.
Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
"""

import base64
import contextlib
import hashlib
import json
import posixpath
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.hashing import sha256s
from quantgate.components.storage.s3_advice import advice_on
from quantgate.components.storage.store import (
    BLOCK_BYTES,
    MARKER,
    Check,
    Marker,
    StoredFile,
    checked_name,
    disk_room,
    files_of,
    is_unchanged,
    made_once,
    read_marker,
    staged,
)

MULTIPART_BYTES = 8 << 20
MOST_PARTS = 10_000
THREADS = 4
FOLDERS, WITHOUT_WEIGHTS, PLAIN = "s3-folders", "s3-without-weights", "s3-plain"
"""The cache's folders. Below them a hash of the address is the name, so no bucket or prefix can choose a path."""
ABSENT = ("NoSuchKey", "404", "NotFound")
TAKEN = ("PreconditionFailed", "412", "ConditionalRequestConflict")
"""The answers to a text that is to be created: there is one, or another is being created."""


@dataclass(frozen=True)
class LocalFile:
    """A file to upload, with the two SHA-256 values that S3 may return."""

    path: Path
    size_bytes: int
    part_bytes: int
    whole: bytes
    of_parts: bytes
    """SHA-256 over the parts' SHA-256 values, S3's COMPOSITE checksum."""

    @property
    def stored(self) -> StoredFile:
        """The file's entry in the marker."""
        return StoredFile(sha256=self.whole.hex(), size_bytes=self.size_bytes)


@dataclass(frozen=True)
class StoredObject:
    """An object in the bucket, as a list shows it."""

    size_bytes: int
    etag: str
    modified: datetime


class S3Store:
    """The store at `s3://bucket/prefix`; endpoint, region and credentials come from the usual AWS variables."""

    def __init__(self, location: str) -> None:
        self.bucket, _, prefix = location.removeprefix("s3://").partition("/")
        self.prefix = prefix.strip("/")
        if not self.bucket:
            raise PrerequisiteError(f"No bucket in {location!r}. Give s3://bucket/prefix.")
        self._client = s3_client()
        self.endpoint: str = self._client.meta.endpoint_url
        required_only = self._client.meta.config.request_checksum_calculation == "when_required"
        self._checksum = {} if required_only else {"ChecksumAlgorithm": "SHA256"}

    def put_folder(self, folder: Path, name: str, digest: str, only: Collection[str] | None = None) -> str:
        if self.has_folder(name, digest):
            return self.uri(name)
        files = {file_name: measured(path) for file_name, path in files_of(folder, only).items()}
        with self._errors():
            self._client.delete_object(Bucket=self.bucket, Key=self._key(name, MARKER))
            for stale in self.listing(name).keys() - files.keys() - {MARKER}:
                self._client.delete_object(Bucket=self.bucket, Key=self._key(name, stale))
            for file_name, file in files.items():
                self._upload(file, self._key(name, file_name))
            marker = Marker(digest=digest, files={file_name: file.stored for file_name, file in files.items()})
            self.put_text(marker.model_dump_json(indent=2) + "\n", f"{name}/{MARKER}")
        return self.uri(name)

    def get_folder(self, name: str, cache: Path, *, weights: bool = True, check: Check | None = None) -> Path:
        marker = self._wanted(name, check)
        key = hashlib.sha256(self.uri(name).encode()).hexdigest()
        target = cache / FOLDERS / key
        if not weights and read_marker(target) != marker:  # a separate folder: it is not complete
            marker, target = marker.without_weights(), cache / WITHOUT_WEIGHTS / key
        if is_unchanged(target, marker, cache, weights=weights):
            return target
        with staged(target, sum(marker.sizes.values())) as partial:
            self.download(name, marker.files, partial)
            hashes = sha256s({file_name: partial / file_name for file_name in marker.files})
            self._compare(name, marker, hashes)
            marker.write(partial / MARKER)
        return target

    def check_folder(self, name: str, cache: Path, check: Check) -> None:  # noqa: ARG002 - the bucket's bytes count
        marker = self._wanted(name, check)
        stored = self.listing(name).keys() - {MARKER}
        changes = [f"{file_name} is missing" for file_name in marker.files.keys() - stored]
        changes += [f"{file_name} was added" for file_name in stored - marker.files.keys()]
        if changes:
            raise PrerequisiteError(
                f"{self.uri(name)} is not what was stored: {', '.join(sorted(changes))}. Delete that model from the "
                "bucket and run again."
            )
        with self._errors(), ThreadPoolExecutor(THREADS) as threads:
            read = threads.map(lambda file_name: self._reread(self._key(name, file_name)).hex(), marker.files)
            self._compare(name, marker, dict(zip(marker.files, read, strict=True)))

    def _wanted(self, name: str, check: Check | None) -> Marker:
        marker = self.marker(name)
        if marker is None:
            raise PrerequisiteError(f"No complete model at {self.uri(name)}: {MARKER} is missing. Store it again.")
        if check:
            check(marker)
        return marker

    def _compare(self, name: str, marker: Marker, hashes: dict[str, str]) -> None:
        for file_name, stored in marker.files.items():
            if hashes[file_name] != stored.sha256:
                raise PrerequisiteError(
                    f"{self.uri(name)}/{file_name} has changed since it was stored: its sha256 is not "
                    f"{stored.sha256}. Delete that model from the bucket and run again."
                )

    def has_folder(self, name: str, digest: str) -> bool:
        marker = self.marker(name)
        if marker is None or marker.digest != digest:
            return False
        stored = {file_name: size_bytes for file_name, (size_bytes, _) in self.listing(name).items()}
        return stored.items() >= marker.sizes.items()

    def put_file(self, path: Path, name: str) -> str:
        with self._errors():
            self._upload(measured(path), self._key(name))
        return self.uri(name)

    def get_file(self, name: str, path: Path) -> bool:
        with self._errors():
            try:
                size = self._client.head_object(Bucket=self.bucket, Key=self._key(name))["ContentLength"]
                with disk_room(path.parent, size):
                    self._client.download_file(self.bucket, self._key(name), str(path))
            except ClientError as error:
                if error.response["Error"]["Code"] in ABSENT:
                    return False
                raise
        return True

    def put_text(self, text: str, name: str) -> str:
        body, key = text.encode(), self._key(name)
        with self._errors():
            self._client.put_object(Bucket=self.bucket, Key=key, Body=body, **self._checksum)
            self._require_stored(key, len(body), hashlib.sha256(body).digest())
        return self.uri(name)

    def create_text(self, text: str, name: str) -> bool:
        body, key = text.encode(), self._key(name)
        with self._errors():
            try:
                self._client.put_object(Bucket=self.bucket, Key=key, Body=body, IfNoneMatch="*", **self._checksum)
            except ClientError as error:
                if error.response["Error"]["Code"] in TAKEN:
                    return False
                raise
        return self.get_text(name) == text  # a server that ignores the condition has kept the later text

    def get_text(self, name: str) -> str | None:
        with self._errors():
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=self._key(name))
            except ClientError as error:
                if error.response["Error"]["Code"] in ABSENT:
                    return None
                raise
            text: str = answer["Body"].read().decode("utf-8")
        return text

    def remove(self, name: str) -> None:
        """Remove the object, if it exists."""
        with self._errors():
            self._client.delete_object(Bucket=self.bucket, Key=self._key(name))

    def uri(self, name: str) -> str:
        """The s3:// address of `name`."""
        return f"s3://{self.bucket}/{self._key(name)}"

    def state(self, name: str) -> str:
        objects = self.objects(name)
        return json.dumps([(key, stored.etag, stored.modified.isoformat()) for key, stored in objects.items()])

    def marker(self, name: str) -> Marker | None:
        """The marker of the folder `name`; None when it is missing or unreadable."""
        text = self.get_text(f"{name}/{MARKER}")
        try:
            return None if text is None else Marker.model_validate_json(text)
        except ValidationError:
            return None

    def listing(self, name: str) -> dict[str, tuple[int, str]]:
        """Size in bytes and ETag of every object below `name`, by sorted relative name."""
        return {key: (stored.size_bytes, stored.etag) for key, stored in self.objects(name).items()}

    def objects(self, name: str) -> dict[str, StoredObject]:
        """Every object below `name`, or of the whole store for "", by sorted relative name."""
        prefix = f"{self._key(name)}/" if name else f"{self.prefix}/" * bool(self.prefix)
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            objects = [item for page in pages for item in page.get("Contents", ())]
        listed = {
            item["Key"].removeprefix(prefix): StoredObject(int(item["Size"]), str(item["ETag"]), item["LastModified"])
            for item in objects
        }
        return {name: listed[name] for name in sorted(listed) if name and not name.endswith("/")}

    def download(self, name: str, files: Collection[str], folder: Path) -> None:
        """Download these objects below `name` into `folder`, without checking their content."""
        for file_name in files:
            path = folder / checked_name(file_name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._errors():
                self._client.download_file(self.bucket, self._key(name, file_name), str(path), Config=transfer())

    def _key(self, *names: str) -> str:
        return posixpath.join(self.prefix, *map(checked_name, names))

    def _upload(self, file: LocalFile, key: str) -> None:
        self._client.upload_file(
            str(file.path),
            self.bucket,
            key,
            ExtraArgs={**self._checksum, "Metadata": {"sha256": file.whole.hex()}},
            Config=transfer(file.part_bytes),
        )
        self._require_stored(key, file.size_bytes, file.whole, file.of_parts)

    def _require_stored(self, key: str, size_bytes: int, whole: bytes, of_parts: bytes = b"") -> None:
        head = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        value, composite, _ = str(head.get("ChecksumSHA256", "")).partition("-")
        stored = base64.b64decode(value) if value else self._reread(key)
        if head["ContentLength"] != size_bytes or stored != (of_parts if composite else whole):
            self._client.delete_object(Bucket=self.bucket, Key=key)
            raise PrerequisiteError(
                f"{self.endpoint} stored s3://{self.bucket}/{key} with another size or SHA-256 than was sent; the "
                "object is removed. Run again, or check that server's disks."
            )

    def _reread(self, key: str) -> bytes:
        hasher = hashlib.sha256()
        for block in self._client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(BLOCK_BYTES):
            hasher.update(block)
        return hasher.digest()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn an error that a user can fix into a PrerequisiteError with the bucket, the endpoint and the advice."""
        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error) as error:
            advice = advice_on(error)
            if advice is None:
                raise
            message = f"s3://{self.bucket} at {self.endpoint}: {str(error).rstrip('.')}. {advice}"
            raise PrerequisiteError(message) from error


def s3_client() -> BaseClient:
    """boto3's S3 client; a server other than AWS is addressed by path, since it seldom has a DNS name per bucket."""
    config = Config(connect_timeout=10, retries={"mode": "standard", "total_max_attempts": 4})
    try:
        session = boto3.session.Session()  # boto3.client's shared session keeps its first credentials
        client = session.client("s3", config=config)
        if "amazonaws.com" in (urlsplit(client.meta.endpoint_url).hostname or ""):
            return client
        return session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"})))
    except (BotoCoreError, ValueError) as error:
        advice = "Check AWS_ENDPOINT_URL, AWS_PROFILE and AWS_REGION."
        raise PrerequisiteError(f"S3 is unavailable: {str(error).rstrip('.')}. {advice}") from error


def transfer(part_bytes: int = MULTIPART_BYTES) -> TransferConfig:
    """boto3's transfer manager with a fixed part size, so that the composite checksum is known in advance."""
    return TransferConfig(
        multipart_threshold=MULTIPART_BYTES, multipart_chunksize=part_bytes, preferred_transfer_client="classic"
    )


def measured(path: Path) -> LocalFile:
    """The file's size and SHA-256 values, read once."""
    size_bytes = path.stat().st_size
    part_bytes = max(MULTIPART_BYTES, -(-size_bytes // MOST_PARTS // BLOCK_BYTES) * BLOCK_BYTES)
    whole, of_parts = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as source:
        for start in range(0, size_bytes, part_bytes):
            part = hashlib.sha256()
            for _ in range(start, min(start + part_bytes, size_bytes), BLOCK_BYTES):
                block = source.read(BLOCK_BYTES)
                whole.update(block)
                part.update(block)
            of_parts.update(part.digest())
    return LocalFile(path, size_bytes, part_bytes, whole.digest(), of_parts.digest())


def plain_folder(
    uri: str, choose: Callable[[Collection[str], Callable[[str], str]], Collection[str]], cache: Path
) -> Path:
    """A local copy of the objects below `uri` that `choose` selects by name, or raises an error for.

    `choose` also gets a function that returns the text of one object. The cache key is the objects' names, sizes and
    ETags, so an unchanged prefix is downloaded once.
    """
    bucket, _, name = uri.removeprefix("s3://").rstrip("/").partition("/")
    store = S3Store(f"s3://{bucket}")
    listing = store.listing(name)
    names = choose(listing, lambda file_name: store.get_text(f"{name}/{file_name}") or "")
    chosen = {file_name: listing[file_name] for file_name in names}
    key = hashlib.sha256(json.dumps([store.endpoint, uri, chosen]).encode()).hexdigest()
    size_bytes = sum(size_bytes for size_bytes, _ in chosen.values())
    return made_once(cache / PLAIN / key, cache, size_bytes, lambda folder: store.download(name, chosen, folder))
