"""A model as llm-compressor can quantize it: with its whole checkpoint, and each expert's layers apart."""

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from llmcompressor.modeling.moe.conversion_mappings import (
    get_linearize_load_mappings,
    has_linearize_load_mappings,
    set_save_conversion_mapping,
)
from llmcompressor.modeling.moe.linearize import linearize_moe
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from quantgate.components.quantize.tensors import WEIGHT


def load(folder: Path, *, without_weights: bool = False) -> PreTrainedModel:
    """The model in the folder; one with a vision tower has it too, so that it is saved.

    One `without_weights` is on PyTorch's device `meta`, which has shapes alone.

    transformers keeps the experts of a layer in one tensor. They are made linear layers, which are quantized one by
    one. llm-compressor's load_quantizable_moe does the same while it loads, but needs torchvision.
    """
    config = AutoConfig.from_pretrained(folder)
    whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    has_vision = whole is not None and whole in (config.architectures or ())
    auto = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_pretrained(folder, dtype="auto", device_map="meta" if without_weights else None)
    with torch.device("meta") if without_weights else nullcontext():
        linearize_moe(model)
    if has_linearize_load_mappings(config.model_type):
        *_, names = get_linearize_load_mappings(config.model_type)
        set_save_conversion_mapping(model, names)
    return model


def stored_names(model: PreTrainedModel, layers: Iterable[str]) -> dict[str, str]:
    """The name that each layer has in the files of the model, which transformers may load by another."""
    conversions: Any = model._weight_conversions or []
    renamings = [conversion.reverse_transform() for conversion in reversed(conversions)]
    names = {}
    for layer in layers:
        name = layer + WEIGHT
        for renaming in renamings:
            other, matched = renaming.rename_source_key(name)
            name = name if matched is None else other
        names[layer] = name.removesuffix(WEIGHT)
    return names
