"""The files of a model beside its weights and configuration: its tokenizer and what belongs to it."""

import hashlib
import json
import shutil
from pathlib import Path

from quantgate.components.models.content import INDEX, beside_weights
from quantgate.components.models.window import model_config
from quantgate.components.storage.hashing import sha256s
from quantgate.components.storage.store import files_of

GENERATION_CONFIG = "generation_config.json"
NOT_THE_TOKENIZERS = ("config.json", GENERATION_CONFIG, INDEX)


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """The model's files without weights, their index and the two configurations, by name."""
    files = files_of(folder)
    return {name: files[name] for name in beside_weights(files) if name not in NOT_THE_TOKENIZERS}


def tokenizer_digest(folder: Path) -> str:
    """The digest of these files and of the kind of model, by which transformers chooses a tokenizer's class."""
    hashes = sha256s(tokenizer_files(folder))
    content = json.dumps([model_config(folder).get("model_type"), hashes], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def copy_beside_weights(model: Path, out: Path) -> None:
    """Give a checkpoint the model's own tokenizer and generation settings, unchanged; none where the model has none.

    Every variant then reads a text as the baseline does, and stops at the same tokens. transformers loads generation
    settings that it refuses to save, e.g. `do_sample: false` with a temperature.
    """
    files = tokenizer_files(model)
    (out / GENERATION_CONFIG).unlink(missing_ok=True)
    if (model / GENERATION_CONFIG).exists():
        files[GENERATION_CONFIG] = model / GENERATION_CONFIG
    for name, path in files.items():
        shutil.copyfile(path, out / name)
