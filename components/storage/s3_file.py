"""One object of S3 as a file of this machine."""

import hashlib
import json
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.s3 import PLAIN, S3Store
from quantgate.components.storage.store import made_once


def local_copy(uri: str, cache: Path) -> Path:
    """A copy of the object, downloaded once for each size and ETag; raises PrerequisiteError if there is none."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    above, _, name = key.rpartition("/")
    store = S3Store(f"s3://{bucket}")
    stored = store.objects(above).get(name)
    if stored is None:
        raise PrerequisiteError(f"There is no object {uri} at {store.endpoint}. Upload it, or correct the address.")
    content = [store.endpoint, uri, stored.size_bytes, stored.etag]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def download(folder: Path) -> None:
        store.get_file(key, folder / name)

    return made_once(cache / PLAIN / digest, cache, stored.size_bytes, download) / name
