"""The digest that identifies a model, and the size of its weights."""

import hashlib
from collections.abc import Collection
from pathlib import Path

from components.storage.store import MARKER, files_of, sha256_of

WEIGHTS = ".safetensors"
MODEL_SUFFIXES = (WEIGHTS, ".json", ".txt", ".model", ".jinja", ".tiktoken")


def model_files(names: Collection[str]) -> list[str]:
    """The sorted names of a model's files: top-level weights, configuration and tokenizer; no pickles."""
    return sorted(name for name in names if "/" not in name and name.endswith(MODEL_SUFFIXES) and name != MARKER)


def digest_of(folder: Path) -> str:
    """The model's digest: sha256 over its files' names and sha256 values, in the order of the names."""
    files = files_of(folder)
    lines = (f"{name}\0{sha256_of(files[name])}\n" for name in model_files(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weights_size(folder: Path) -> int:
    """Total size of the model's *.safetensors files, in bytes."""
    return sum(path.stat().st_size for path in folder.glob(f"*{WEIGHTS}"))
