"""A GGUF file of the user's own as a variant: what it says of itself, compared with the run's model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.window import model_config
from quantgate.components.storage.location import split_uri

SUFFIX = ".gguf"
IN_S3 = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]+/[^/].*")
MAGIC = b"GGUF"
SHAPE = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "expert_count": "num_experts",
}
"""GGUF's names of what config.json calls otherwise (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""
NOT_ON_KSERVE = (
    "A GGUF file is judged on llama.cpp, and quantgate writes services of vLLM for KServe. Give the file to your"
    " llama.cpp servers."
)
SPLIT = "split.count"
BITS = {"F32": 32, "F16": 16, "BF16": 16}
"""Tensors of these types are not quantized."""


def is_gguf(source: str) -> bool:
    """Whether a variant's source is a GGUF file."""
    return source.endswith(SUFFIX)


def check_source(source: str) -> None:
    """Raise PrerequisiteError when `source` cannot name a GGUF file; this uses no network."""
    if not IN_S3.fullmatch(source):
        check_format(path_of(source))


def fetched(source: str, cache: Path) -> Path:
    """The file that the source names, on this machine; raises PrerequisiteError if it is no GGUF file."""
    if IN_S3.fullmatch(source):
        split_uri(source)  # raises without boto3
        from quantgate.components.storage.s3_file import local_copy

        path = local_copy(source, cache)
    else:
        path = path_of(source)
    check_format(path)
    return path


def path_of(source: str) -> Path:
    """The path of a file of this machine; raises PrerequisiteError if the source names none."""
    scheme, colon, rest = source.partition(":")
    if scheme == "s3":
        raise PrerequisiteError(
            f"{source} is not the address of a GGUF file. Write it as s3://BUCKET/FOLDER/MODEL.gguf."
        )
    if colon and scheme != "file":
        raise PrerequisiteError(
            f"{source}: a GGUF file is taken from this machine or from S3. Download it, and give file:PATH, or upload"
            " it, and give s3://BUCKET/FOLDER/MODEL.gguf."
        )
    path = Path(rest if colon else source).expanduser().absolute()
    if not path.is_file():
        raise PrerequisiteError(f"There is no file {path}. Give the path of a GGUF file.")
    return path


def check_format(path: Path) -> None:
    """Raise PrerequisiteError unless the file begins as a GGUF file does."""
    try:
        with path.open("rb") as opened:
            magic = opened.read(len(MAGIC))
    except OSError as error:
        raise PrerequisiteError(f"{path} cannot be read: {error.strerror}.") from None
    if magic != MAGIC:
        raise PrerequisiteError(f"{path} is not a GGUF file: it does not begin with GGUF. Download it again.")


@dataclass(frozen=True)
class GgufFile:
    """The metadata of one file; its tensors are not read."""

    path: Path

    @cached_property
    def reader(self) -> Any:
        """The `gguf` package's reader; raises PrerequisiteError if the file is damaged or one of several."""
        from gguf import GGUFReader

        try:
            reader = GGUFReader(self.path)
        except (ValueError, KeyError, IndexError, OSError) as error:
            raise PrerequisiteError(
                f"{self.path} cannot be read ({error}). Download it again, or update the package gguf."
            ) from error
        count = reader.get_field(SPLIT)
        if count is not None and int(count.contents()) > 1:
            raise PrerequisiteError(
                f"{self.path} is one of {count.contents()} parts of a model. Put them together first:"
                " llama-gguf-split --merge FIRST-PART.gguf OUT.gguf"
            )
        return reader

    def value(self, name: str) -> Any:
        """A field's content; None if the file does not have it."""
        field = self.reader.get_field(name)
        return None if field is None else field.contents()

    @property
    def scheme(self) -> str:
        """Its mix of formats by llama.cpp's name, e.g. `Q4_K_M`; the most frequent type if that is not named."""
        from gguf import LlamaFileType

        try:
            return LlamaFileType(self.value("general.file_type")).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        except ValueError:
            sizes: dict[str, int] = {}
            for tensor in self.reader.tensors:
                sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
            return max(sizes, key=lambda name: sizes[name])

    @property
    def stored_bits(self) -> float:
        """Bits of a quantized weight, with its share of scales."""
        quantized = [tensor for tensor in self.reader.tensors if tensor.tensor_type.name not in BITS]
        weights = sum(int(tensor.n_elements) for tensor in quantized)
        return sum(int(tensor.n_bytes) for tensor in quantized) * 8 / weights if weights else 16.0


def check_of_model(file: GgufFile, baseline: Path) -> None:
    """Raise PrerequisiteError with all that differs unless the file is a form of the model in the folder."""
    if different := [*shape_differences(file, baseline), *vocabulary_differences(file, baseline)]:
        raise PrerequisiteError(
            f"{file.path} is not a form of the run's model: {'; '.join(different)}. Give a file that was made from this"
            " model, or run it with the model from which it was made."
        )


def shape_differences(file: GgufFile, baseline: Path) -> Iterator[str]:
    """Each setting of the shape that the two name differently."""
    config, architecture = model_config(baseline), file.value("general.architecture")
    for theirs, ours in SHAPE.items():
        value = file.value(f"{architecture}.{theirs}")
        if theirs == "block_count":  # the layers that predict further tokens are no layers in config.json
            value = value and value - (file.value(f"{architecture}.nextn_predict_layers") or 0)
        if isinstance(value, int) and ours in config and value != config[ours]:
            yield f"{theirs} is {value}, and the model's {ours} {config[ours]}"


def vocabulary_differences(file: GgufFile, baseline: Path) -> Iterator[str]:
    """How the vocabularies differ; the file may have more tokens at the end, which fill up its table."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(baseline)
    tokens = file.value("tokenizer.ggml.tokens") or []
    expected = {at: token for token, at in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder  # llama.cpp's converter writes the spaces of these as such
    names = {at: {token, token.replace("▁", " ")} if at in added else {token} for at, token in expected.items()}
    different = [at for at in sorted(expected) if at >= len(tokens) or tokens[at] not in names[at]]
    if different:
        at = different[0]
        theirs = repr(tokens[at]) if at < len(tokens) else "missing"
        yield f"{len(different)} tokens of the vocabulary differ, as token {at}: {theirs}, the model's {expected[at]!r}"
    end = file.value("tokenizer.ggml.eos_token_id")
    if end is not None and end != tokenizer.eos_token_id:
        yield f"its end of text is token {end}, the model's {tokenizer.eos_token_id}"
