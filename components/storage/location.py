"""Where things are kept, by their address: a folder, or S3."""

from pathlib import Path

from components.errors import PrerequisiteError
from components.storage.store import FolderStore, Store


def open_store(location: str) -> Store:
    """The store at a path, `file:path` or `s3://bucket/prefix` (endpoint and credentials from the AWS variables)."""
    if location.startswith("s3://"):
        return _s3_store(location)
    path = location.removeprefix("file:")
    if not path or "://" in location:
        raise PrerequisiteError(f"No store at {location!r}. Give a path, file:path or s3://bucket/prefix.")
    return FolderStore(Path(path))


def split_uri(uri: str) -> tuple[Store, str]:
    """The store and the name under which `fetch` reopens what `put_folder` returned as `uri`."""
    if uri.startswith("s3://"):
        bucket, _, name = uri.removeprefix("s3://").partition("/")
        if not name.strip("/"):
            raise PrerequisiteError(f"{uri!r} names a whole bucket. Name a model in it: s3://bucket/prefix.")
        return _s3_store(f"s3://{bucket}"), name.rstrip("/")
    path = Path(uri.removeprefix("file:")).expanduser().absolute()
    return FolderStore(path.parent), path.name


def fetch(uri: str, cache: Path, *, weights: bool = True) -> Path:
    """A local, checked folder with the content of a uri that `put_folder` returned, from `cache` where it can be.

    Without `weights` it may lack the files that hold them.
    """
    store, name = split_uri(uri)
    return store.get_folder(name, cache, weights=weights)


def _s3_store(location: str) -> Store:
    try:
        from components.storage.s3 import S3Store
    except ModuleNotFoundError as error:
        if error.name not in ("boto3", "botocore", "s3transfer"):
            raise
        raise PrerequisiteError(f"{location} needs boto3, which is not installed: pip install boto3") from error
    return S3Store(location)


def local_file(location: str, scratch: Path) -> Path:
    """The file as a local one: itself, or its copy in `scratch`."""
    if "://" not in location:
        return Path(location.removeprefix("file:"))
    prefix, _, name = location.rpartition("/")
    if not open_store(prefix).get_file(name, scratch / name):
        raise PrerequisiteError(f"There is no {location}.")
    return scratch / name
