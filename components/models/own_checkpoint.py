"""A quantized checkpoint of the user's own as a variant: compared with the baseline, and stored with its tokenizer."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models import gguf_file, rungs, sources
from quantgate.components.models.content import GGUF
from quantgate.components.models.digest import digest_of, model_files, weights_size
from quantgate.components.models.tokenizer_files import copy_beside_weights, tokenizer_files
from quantgate.components.models.window import model_config
from quantgate.components.run.checkpoint import GGUF_METHOD, Checkpoint
from quantgate.components.run.plan import EvaluationPlan
from quantgate.components.storage.store import Store

METHODS = ("compressed-tensors", "awq", "gptq")
"""The quant_method of a checkpoint that vLLM serves and quantgate takes."""
SHAPE = (
    *("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "num_experts", "num_local_experts"),
)
"""The settings that the checkpoint and the baseline must share, if both name them."""
SAMPLES = (
    "The quick brown fox jumps over 13 lazy dogs.\n\n\tdef f(x): return x ** 2  # √π ≈ 1.77\n",
    " leading space, naïve café, 東京, Привет, 🙂, 1234567890",
)
"""Texts that the two tokenizers must encode alike."""


def with_checkpoints(plan: EvaluationPlan, baseline: Path, store: Store, cache: Path) -> EvaluationPlan:
    """The plan with its checkpoints, each compared with the model in the folder `baseline`, and stored."""
    kept = {}
    for entry in plan.variant:
        name, _, source = entry.partition("=")
        kept[name] = stored(source, baseline, store, cache)
    return plan.model_copy(update={"variant_kept": kept})


def stored(source: str, baseline: Path, store: Store, cache: Path) -> Checkpoint:
    """The checkpoint of that source in the store.

    Raises PrerequisiteError if it is not a quantized form of the baseline, with everything that differs.
    """
    if gguf_file.is_gguf(source):
        return stored_gguf(source, baseline, store, cache)
    folder, _ = sources.found(source, cache, quantized=True)
    config = quantization_of(folder, source)
    if different := [*shape_differences(folder, baseline), *tokenizer_differences(folder, baseline)]:
        raise PrerequisiteError(
            f"{source} is not a quantized form of the run's model: {'; '.join(different)}. Give a checkpoint that was"
            " made from this model, or run it with the model from which it was made."
        )
    own = tokenizer_files(folder)
    files = {name: path for name, path in model_files(folder).items() if name not in own}
    kept = with_tokenizer(files, baseline, store, cache)
    about = {"scheme": scheme_of(config), "method": str(config["quant_method"]), "stored_bits": rungs.bits_of(config)}
    return Checkpoint(source=source, **kept | about)


def stored_gguf(source: str, baseline: Path, store: Store, cache: Path) -> Checkpoint:
    """The same of a GGUF file, which gets the baseline's configuration too."""
    file = gguf_file.GgufFile(gguf_file.fetched(source, cache))
    gguf_file.check_of_model(file, baseline)
    kept = with_tokenizer({GGUF: file.path, "config.json": baseline / "config.json"}, baseline, store, cache)
    about = {"scheme": file.scheme, "method": GGUF_METHOD, "stored_bits": file.stored_bits}
    return Checkpoint(source=source, **kept | about)


def with_tokenizer(files: Mapping[str, Path], baseline: Path, store: Store, cache: Path) -> dict[str, Any]:
    """Store the files with the baseline's tokenizer; returns the digest, address and size of what is stored."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=cache) as scratch:
        copy = Path(scratch)
        for name, path in files.items():
            linked(path, copy / name)
        copy_beside_weights(baseline, copy)
        digest = digest_of(copy)
        uri = store.put_folder(copy, f"models/{digest}", digest, only=model_files(copy))
        return {"digest": digest, "uri": uri, "size_bytes": weights_size(copy)}


def quantization_of(folder: Path, source: str) -> Mapping[str, Any]:
    """The quantization of the checkpoint; raises PrerequisiteError if it has none, or one of another kind."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config: Mapping[str, Any] = content.get("quantization_config") or {}
    method = config.get("quant_method")
    if method not in METHODS:
        found = f"its quant_method is {method!r}" if config else "its config.json has no quantization_config"
        raise PrerequisiteError(f"{source} is no quantized checkpoint of {', '.join(METHODS)}: {found}.")
    return config


def shape_differences(folder: Path, baseline: Path) -> Iterator[str]:
    """Each setting of the shape that the two name differently."""
    ours, theirs = model_config(folder), model_config(baseline)
    for key in SHAPE:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            yield f"{key} is {ours[key]}, the model's {theirs[key]}"


def tokenizer_differences(folder: Path, baseline: Path) -> Iterator[str]:
    """How the tokenizers differ; files that differ only in their form do not."""
    from transformers import AutoTokenizer

    ours, theirs = (AutoTokenizer.from_pretrained(place) for place in (folder, baseline))
    own, others = ours.get_vocab(), theirs.get_vocab()
    if different := sorted(token for token in own.keys() | others.keys() if own.get(token) != others.get(token)):
        ids = f"{different[0]!r} is {own.get(different[0])}, the model's {others.get(different[0])}"
        yield f"{len(different)} tokens of the vocabulary have other ids, as {ids}"
    elif any(ours(text).input_ids != theirs(text).input_ids for text in SAMPLES):
        yield "its tokenizer encodes the same text differently"
    if ours.eos_token_id != theirs.eos_token_id:
        yield f"its end of text is token {ours.eos_token_id}, the model's {theirs.eos_token_id}"


def scheme_of(config: Mapping[str, Any]) -> str:
    """E.g. `W4A16`; several are joined by `+`."""
    groups = list((config.get("config_groups") or {}).values())
    if not groups:
        return f"W{config.get('bits') or config.get('w_bit')}A16"
    return " + ".join(dict.fromkeys(scheme_of_group(group) for group in groups if group.get("weights")))


def scheme_of_group(group: Mapping[str, Any]) -> str:
    """The scheme of one group of compressed-tensors, e.g. `W8A8 float`."""
    weights, activations = group["weights"], group.get("input_activations") or {}
    kind = "" if weights.get("type") == "int" else f" {weights.get('type')}"
    return f"W{weights['num_bits']}A{activations.get('num_bits', 16)}{kind}"


def linked(path: Path, place: Path) -> None:
    """The file at another place: the same bytes on the disk where that is possible, else a copy."""
    try:
        os.link(path.resolve(), place)
    except OSError:
        shutil.copyfile(path, place)
