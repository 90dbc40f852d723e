"""Compress one model with llm-compressor: a separate program, so that running out of memory ends only this process.

    python -m quantgate.components.quantize.compress --model FOLDER --variant NAME \\
        --calibration TEXTS.jsonl --samples N --tokens N --out FOLDER --facts FILE [--slow-16-bits] [--recipe FILE] \\
        [--errors FILE]

It writes the compressed checkpoint and then the facts: a JSON file with the layout's description, the number of bits
and the group size of each layer, the algorithm, what transformed weights before, and all linear layers. On one
kind of machine the same inputs give the same bytes.
"""

import argparse
import json
import random
import resource
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from compressed_tensors import ModelCompressor
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from quantgate.components.models.parts import part_of
from quantgate.components.models.recipe_file import own_rows
from quantgate.components.models.tokenizer_files import copy_beside_weights
from quantgate.components.models.variants import Variant, variant_named
from quantgate.components.quantize.loading import load, stored_names
from quantgate.components.quantize.recipe import Recipe, mixed_recipe, own_recipe, recipe_for
from quantgate.components.quantize.sensitive import most_sensitive, together
from quantgate.components.quantize.tensors import check_stored


def main() -> None:
    """Compress the model of the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--recipe", type=Path, help="YAML file of a recipe of the user's own, which is the variant's")
    parser.add_argument("--errors", type=Path, help="JSON with the error of each layer in the row without 8 bits")
    parser.add_argument("--calibration", type=Path, required=True, help="JSON lines with `text` and `templated`")
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True, help="length to which a sample is cut")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--slow-16-bits", action="store_true", help="the CPU computes 16 bits in software")
    options = parser.parse_args()

    variant = variant_of(options.variant, options.recipe)
    transformers.set_seed(variant.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = load(options.model)
    model.config.save_pretrained(options.out)
    model.generation_config = GenerationConfig()
    stored, dtypes = model.dtype, {name: weight.dtype for name, weight in model.named_parameters()}
    in_float32 = options.slow_16_bits and not torch.cuda.is_available()
    if in_float32:
        model.float()
    widths = linear_widths(model)
    if not torch.accelerator.is_available():  # AWQ pins memory without asking for an accelerator
        IntermediatesCache.pin_memory = lambda *_: None  # type: ignore[method-assign]
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    stored_as = stored_names(model, linears)
    check_stored(options.model, [stored_as[name] for name in widths])
    recipe = chosen_recipe(variant, model, stored_as, options.errors)
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=calibration_set(
            samples_of(options.calibration, options.samples, variant.seed), tokenizer, options.tokens
        ),
        recipe=recipe.modifiers,
        max_seq_length=options.tokens,
        num_calibration_samples=options.samples,
        shuffle_calibration_samples=False,  # GPTQ's sums depend on the order
        moe_calibrate_all_experts=True,
    )
    # AutoRound too computes in float32 where a CPU lacks 16 bits, and leaves the decoder layers so
    if in_float32 or any(weight.dtype != dtypes.get(name, weight.dtype) for name, weight in model.named_parameters()):
        # to integers before the rest to 16 bits, which would round the weights off their grid
        ModelCompressor.from_pretrained_model(model).compress_model(model)
        torch.nn.Module.to(model, stored)
    model.save_pretrained(options.out, save_compressed=True)
    copy_beside_weights(options.model, options.out)
    facts = {
        "layout": recipe.layout,
        "layers": {stored_as[name]: asdict(layer) for name, layer in recipe.layers.items()},
        "algorithm": f"{recipe.method} in float32" if in_float32 else recipe.method,
        "transform": recipe.transform,
        "linears": list(stored_as.values()),
        **peak_memory(),
    }
    options.facts.write_text(json.dumps(facts), encoding="utf-8")


def peak_memory() -> dict[str, int]:
    """The most memory that this process had, resident and on all GPUs together."""
    resident_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    on_gpus = sum(map(torch.cuda.max_memory_reserved, range(torch.cuda.device_count())))
    return {"peak_memory_bytes": resident_kib * 1024, "peak_gpu_memory_bytes": on_gpus}


def variant_of(name: str, recipe: Path | None) -> Variant:
    """The variant of that name; `recipe` is the file of its recipe if it has one of the user's own."""
    own = own_rows([f"{name.partition('.')[0]}={recipe.read_text(encoding='utf-8')}"] if recipe else [])
    return variant_named(name, own)


def chosen_recipe(variant: Variant, model: PreTrainedModel, stored_as: dict[str, str], errors: Path | None) -> Recipe:
    """The variant's recipe; a mixed one needs the file with the errors of the layers, by the names in `stored_as`."""
    if variant.recipe:
        return own_recipe(variant)
    widths = linear_widths(model)
    if errors is None:
        return recipe_for(variant, widths)
    by_layer = json.loads(errors.read_text(encoding="utf-8"))
    known = {name: by_layer[stored_as[name]] for name in widths}
    weights = {name: layer.weight.numel() for name, layer in linear_layers(model).items()}
    chosen = most_sensitive(together(widths), known, weights, variant.sensitive_share)
    return mixed_recipe(variant, widths, sorted(chosen, key=lambda group: group.layers))


def linear_widths(model: PreTrainedModel) -> dict[str, int]:
    """Name and input width of each linear layer that is quantized."""
    return {name: layer.in_features for name, layer in linear_layers(model).items()}


def linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """The linear layers that are quantized, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and part_of(name) is None
    }


def samples_of(file: Path, samples: int, seed: int) -> list[dict[str, Any]]:
    """The first `samples` texts of the file; with a seed, of its texts in an order drawn by it."""
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if seed:
        random.Random(seed).shuffle(rows)
    return rows[:samples]


def calibration_set(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, tokens: int) -> Dataset:
    """The texts, each cut to `tokens` tokens; a `templated` one has its special tokens already."""
    ids = [
        tokenizer(
            row["text"], truncation=True, max_length=tokens, add_special_tokens=not row.get("templated")
        ).input_ids
        for row in rows
    ]
    return Dataset.from_dict(
        {"input_ids": ids, "attention_mask": [[1] * len(tokens_of_text) for tokens_of_text in ids]}
    )


if __name__ == "__main__":
    main()
