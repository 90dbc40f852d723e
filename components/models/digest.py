"""The digest that names a model everywhere, and the size of its weights."""

import hashlib
from collections.abc import Collection
from pathlib import Path

from components.storage.store import MARKER, files_of, sha256_of

WEIGHTS = ".safetensors"
MODEL_SUFFIXES = (WEIGHTS, ".json", ".txt", ".model", ".jinja", ".tiktoken")


def model_files(names: Collection[str]) -> list[str]:
    """The names, sorted, that make up a model: top-level weights, configuration and tokenizer; no pickles."""
    return sorted(name for name in names if "/" not in name and name.endswith(MODEL_SUFFIXES) and name != MARKER)


def digest_of(folder: Path) -> str:
    """The model's name everywhere: sha256 over its files' names and sha256 values, in the order of the names."""
    files = files_of(folder)
    lines = (f"{name}\0{sha256_of(files[name])}\n" for name in model_files(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weights_size(folder: Path) -> int:
    """Bytes of the model's *.safetensors files."""
    return sum(path.stat().st_size for path in folder.glob(f"*{WEIGHTS}"))
