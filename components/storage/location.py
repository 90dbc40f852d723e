"""Open a store or fetch a file by its location: a folder, or S3."""

from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.store import Check, FolderStore, Store


def open_store(location: str) -> Store:
    """The store at a path, `file:path` or `s3://bucket/prefix`; S3 uses the AWS variables."""
    if location.startswith("s3://"):
        return _s3_store(location)
    path = location.removeprefix("file:")
    if not path or "://" in location:
        raise PrerequisiteError(f"No store at {location!r}. Give a path, file:path or s3://bucket/prefix.")
    return FolderStore(Path(path))


def split_uri(uri: str) -> tuple[Store, str]:
    """The store and the name in it, of a `uri` that `put_folder` returned."""
    if uri.startswith("s3://"):
        bucket, _, name = uri.removeprefix("s3://").partition("/")
        if not name.strip("/"):
            raise PrerequisiteError(f"{uri!r} is a whole bucket. Give a model in the bucket: s3://bucket/prefix.")
        return _s3_store(f"s3://{bucket}"), name.rstrip("/")
    path = Path(uri.removeprefix("file:")).expanduser().absolute()
    return FolderStore(path.parent), path.name


def fetch(uri: str, cache: Path, *, weights: bool = True, check: Check | None = None) -> Path:
    """A local, checked folder with the content of a uri that `put_folder` returned; see `Store.get_folder`."""
    store, name = split_uri(uri)
    return store.get_folder(name, cache, weights=weights, check=check)


def _s3_store(location: str) -> Store:
    try:
        from quantgate.components.storage.s3 import S3Store
    except ModuleNotFoundError as error:
        if error.name not in ("boto3", "botocore", "s3transfer"):
            raise
        raise PrerequisiteError(f"{location} needs boto3, which is not installed: pip install boto3") from error
    return S3Store(location)


def local_file(location: str, scratch: Path) -> Path:
    """The local path of a file: its own path, or that of its copy from S3 in `scratch`."""
    if "://" not in location:
        return Path(location.removeprefix("file:")).expanduser()
    prefix, _, name = location.rpartition("/")
    if not open_store(prefix).get_file(name, scratch / name):
        raise PrerequisiteError(f"There is no file {location}.")
    return scratch / name
