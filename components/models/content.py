"""Which of the files beside a model are its own, and what its configuration says about its weights.

Read before the weights are downloaded or copied.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.variants import NATIVE
from quantgate.components.storage.store import MARKER

Read = Callable[[str], str]
"""Returns the text of one of the model's files by its name: from a folder, S3 or the hub."""

WEIGHTS = ".safetensors"
GGUF = "model.gguf"
"""The weights of a GGUF file that was given as a variant, as a run stores them."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""What transformers loads: the one file, or the files that the index names."""
OTHER_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Configuration and tokenizer."""
ADAPTER = "adapter_config.json"
ADAPTER_PREFIX = "adapter"
"""peft writes adapter_model.safetensors, MLX adapters.safetensors."""
QUANTIZED_KEYS = ("quantization_config", "compression_config", "quantization")
"""Of transformers, of older compressed-tensors, and of MLX."""
QUANTIZED_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Of ModelOpt, of older AutoGPTQ, and of older AutoAWQ: vLLM reads them as a quantization_config."""
COPY = "Copy the model again."
METHOD_KEYS = ("quant_method", "quant_algo", "bits", "w_bit")
INSTEAD = (
    "quantgate quantizes original weights and compares the variants with them. Give the model that this one was made "
    "from; on the hub its card names it as base_model."
)


def chosen_files(names: Collection[str], read: Read) -> list[str]:
    """The sorted names of a model's files: its weights, configuration and tokenizer; no pickles, no adapter's.

    Only these count in its size, are hashed, stored and served. A loader that took the others would serve another
    model: vLLM prefers `consolidated*.safetensors`, transformers applies an adapter that lies beside merged weights.
    Raises as `chosen_weights`.
    """
    return sorted([*beside_weights(names), *chosen_weights(names, read)])


def beside_weights(names: Collection[str]) -> list[str]:
    """The sorted names of a model's configuration, tokenizer and index; an adapter's are not among them."""
    return sorted(
        name
        for name in names
        if "/" not in name
        and name.endswith(OTHER_SUFFIXES)
        and not name.startswith(f"{ADAPTER_PREFIX}_")
        and name != MARKER
    )


def chosen_weights(names: Collection[str], read: Read) -> list[str]:
    """The sorted names of the weight files that the index names, or else model.safetensors.

    Raises PrerequisiteError, with the names, when there are none of them or one is missing.
    """
    if INDEX in names:
        shards = json_object(INDEX, read).get("weight_map")
        named = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        if not named:
            raise PrerequisiteError(f"{INDEX} names no weights: its `weight_map` is missing or empty. {COPY}")
        if others := [name for name in named if "/" in name or not name.endswith(WEIGHTS)]:
            raise PrerequisiteError(
                f"{INDEX} names files that are not *{WEIGHTS} files beside it: {', '.join(others)}. {COPY}"
            )
        if missing := [name for name in named if name not in names]:
            raise PrerequisiteError(f"{INDEX} names missing files: {', '.join(missing)}. {COPY}")
        return named
    if SINGLE in names:
        return [SINGLE]
    if GGUF in names:
        return [GGUF]
    present = ", ".join(sorted(name for name in names if "/" not in name and name.endswith(WEIGHTS)))
    raise PrerequisiteError(
        f"The model has neither {SINGLE} nor {INDEX}, which say what its weights are{present and f', only {present}'}. "
        f"If one file holds all weights, name it {SINGLE}; otherwise save the model again with save_pretrained."
    )


def reader(files: Mapping[str, Path]) -> Read:
    """Reads the files of a folder, given by name."""
    return lambda name: files[name].read_text(encoding="utf-8")


def check_not_adapter(names: Collection[str], read: Read) -> None:
    """Raise PrerequisiteError for an adapter (LoRA) without merged weights."""
    weights = [name for name in names if name.endswith(".safetensors") or name.startswith("pytorch_model")]
    if ADAPTER not in names or not all(name.startswith(ADAPTER_PREFIX) for name in weights):
        return
    base = json_object(ADAPTER, read).get("base_model_name_or_path")
    raise PrerequisiteError(
        f"This is an adapter ({ADAPTER}) without merged weights{f', for the model {base!r}' if base else ''}. Merge it "
        "first: load both with peft, call merge_and_unload(), and save_pretrained for the model and its tokenizer."
    )


def check_no_remote_code(names: Collection[str], read: Read) -> None:
    """Raise PrerequisiteError for a model that asks for remote code."""
    for name in ("config.json", "tokenizer_config.json"):
        if name in names and "auto_map" in json_object(name, read):
            raise PrerequisiteError(
                f"{name} asks for remote code (`auto_map`), which quantgate never runs. If transformers knows the "
                "architecture, remove `auto_map` from a copy of the model and use the copy."
            )


def native_format(read: Read) -> str:
    """The quant_method of a model whose own weights are FP8 or MXFP4; empty for 16 bits, and for another method."""
    config = json_object("config.json", read)
    for part in (config, config.get("text_config")):
        settings = part.get("quantization_config") if isinstance(part, dict) else None
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        if method in NATIVE:
            return str(method)
    return ""


def check_unquantized(names: Collection[str], read: Read) -> None:
    """Raise PrerequisiteError for a model that is already quantized, unless that is how it was trained."""
    if native_format(read):
        return
    config = json_object("config.json", read)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in QUANTIZED_KEYS:
            if part.get(key):
                raise PrerequisiteError(
                    f"The model is already quantized: config.json has a `{key}`{_method(part[key])}. {INSTEAD}"
                )
    if quantized := [name for name in QUANTIZED_FILES if name in names]:
        raise PrerequisiteError(f"The model is already quantized: it has {quantized[0]}. {INSTEAD}")


def _method(settings: object) -> str:
    """The settings that name the method, e.g. ` (quant_method 'gptq', bits 4)`."""
    known = settings if isinstance(settings, dict) else {}
    named = ", ".join(f"{key} {known[key]!r}" for key in METHOD_KEYS if key in known)
    return f" ({named})" if named else ""


def json_object(name: str, read: Read) -> dict[str, object]:
    """The JSON object in the file `name`; raises PrerequisiteError when it is none."""
    try:
        value = json.loads(read(name))
    except (ValueError, RecursionError) as error:
        raise PrerequisiteError(f"{name} is not JSON: {error}. {COPY}") from error
    if not isinstance(value, dict):
        raise PrerequisiteError(f"{name} is not a JSON object. {COPY}")
    return value
