"""The digest that identifies a model, its comparison with the stored bytes, and the size of the weights."""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.content import chosen_files, reader
from quantgate.components.storage.hashing import sha256s
from quantgate.components.storage.location import fetch, split_uri
from quantgate.components.storage.store import WEIGHT_FILES, Marker, files_of

UNREAD = ("recipe.yaml",)
"""What an earlier version stored beside a variant, and no loader reads. Any other file that is more is another model:
transformers takes chat templates from a folder, vLLM a tokenizer from tokenizer.model.v3."""


def model_files(folder: Path) -> dict[str, Path]:
    """The model's own files in `folder`, by sorted name; see `content.chosen_files`."""
    files = files_of(folder)
    return {name: files[name] for name in chosen_files(files, reader(files))}


def digest_of(folder: Path) -> str:
    """The model's digest: sha256 over its files' names and sha256 values, in the order of the names."""
    return combined(sha256s(model_files(folder)))


def combined(hashes: Mapping[str, str]) -> str:
    """The digest of a model whose files have these sha256 values, by name."""
    return hashlib.sha256("".join(f"{name}\0{hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()


def fetch_model(uri: str, digest: str, cache: Path, *, weights: bool = True) -> Path:
    """A local folder with the model at `uri`, whose bytes have `digest`; raises PrerequisiteError otherwise.

    Without `weights` the folder may lack the weights, and their bytes are not read.
    """
    return fetch(uri, cache, weights=weights, check=partial(_require_digest, uri, digest))


def check_stored(uri: str, digest: str, cache: Path) -> None:
    """Raise PrerequisiteError unless the bytes stored at `uri` have `digest`; reads them from S3, not from a copy."""
    store, name = split_uri(uri)
    store.check_folder(name, cache, partial(_require_digest, uri, digest))


def stored_state(uri: str) -> str:
    """A text that is another one once a file of the model at `uri` was written, added or removed."""
    store, name = split_uri(uri)
    return hashlib.sha256(store.state(name).encode()).hexdigest()


def _require_digest(uri: str, digest: str, marker: Marker) -> None:
    stored = combined({name: file.sha256 for name, file in marker.files.items() if name not in UNREAD})
    if stored != digest:
        raise PrerequisiteError(
            f"The model at {uri} is another one: its files have the digest {stored}, and the run has {digest}. "
            "Delete it and run again."
        )


def weights_size(folder: Path) -> int:
    """Total size of the model's own weight files, in bytes."""
    return sum(path.stat().st_size for name, path in model_files(folder).items() if name.endswith(WEIGHT_FILES))
