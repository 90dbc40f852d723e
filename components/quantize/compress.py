"""Compress one model with llm-compressor: a separate program, so that running out of memory ends only this process.

    python -m quantgate.components.quantize.compress --model FOLDER --variant NAME \\
        --calibration TEXTS.jsonl --samples N --tokens N --out FOLDER --facts FILE [--slow-16-bits] [--recipe FILE] \\
        [--errors FILE]

It writes the compressed checkpoint and then the facts: a JSON file with the layout's description, the number of bits
and the group size of each layer, the algorithm, what transformed weights before, and all linear layers. On one
kind of machine the same inputs and the same number of ranks give the same bytes.

With PyTorch's launcher before it, each process is a rank with a GPU and a part of the texts (ranks.py), and rank 0
writes.
"""

import argparse
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from compressed_tensors import ModelCompressor
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.pipelines.cache import IntermediatesCache
from torch.distributed.elastic.multiprocessing.errors import record
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from quantgate.components.models.parts import part_of
from quantgate.components.models.recipe_file import own_rows
from quantgate.components.models.tokenizer_files import copy_beside_weights
from quantgate.components.models.variants import Variant, variant_named
from quantgate.components.quantize import process_group
from quantgate.components.quantize.loading import load, stored_names
from quantgate.components.quantize.recipe import Recipe, mixed_recipe, own_recipe, recipe_for
from quantgate.components.quantize.sensitive import most_sensitive, together
from quantgate.components.quantize.tensors import check_stored


@record  # the launcher reads from it why a rank ended
def main() -> None:
    """Compress the model of the command line's options."""
    options = parse()
    with process_group.joined(options.facts.with_name("ranks")):
        compress(options)


def parse() -> argparse.Namespace:
    """The options of the command line."""
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
    return parser.parse_args()


def compress(options: argparse.Namespace) -> None:
    """Quantize the model, and write the checkpoint and the facts."""
    writes = process_group.rank() == 0
    variant = variant_of(options.variant, options.recipe)
    transformers.set_seed(variant.seed)
    with process_group.not_shared_yet():
        model = load(options.model, without_weights=not writes)
    if writes:
        model.config.save_pretrained(options.out)
    model.generation_config = GenerationConfig()
    stored, dtypes = model.dtype, {name: weight.dtype for name, weight in model.named_parameters()}
    in_float32 = options.slow_16_bits and not torch.cuda.is_available()
    if in_float32:
        model.float()
    widths = linear_widths(model)
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    stored_as = stored_names(model, linears)
    check_stored(options.model, [stored_as[name] for name in widths])
    recipe = chosen_recipe(variant, model, stored_as, options.errors)
    process_group.share(model)
    apply(recipe, model, options, variant.seed)
    # AutoRound too computes in float32 where a CPU lacks 16 bits, and leaves the decoder layers so
    if in_float32 or any(weight.dtype != dtypes.get(name, weight.dtype) for name, weight in model.named_parameters()):
        # to integers before the rest to 16 bits, which would round the weights off their grid
        ModelCompressor.from_pretrained_model(model).compress_model(model)
        torch.nn.Module.to(model, stored)
    model.save_pretrained(options.out, save_compressed=True)  # on all ranks; it writes on rank 0
    peaks = process_group.peak_memory()
    if writes:
        copy_beside_weights(options.model, options.out)
        facts = {
            "layout": recipe.layout,
            "layers": {stored_as[name]: asdict(layer) for name, layer in recipe.layers.items()},
            "algorithm": algorithm(recipe.method, in_float32=in_float32),
            "transform": recipe.transform,
            "linears": list(stored_as.values()),
            **peaks,
        }
        options.facts.write_text(json.dumps(facts), encoding="utf-8")


def apply(recipe: Recipe, model: PreTrainedModel, options: argparse.Namespace, seed: int) -> None:
    """Apply the recipe to the model, with this rank's calibration texts."""
    if not torch.accelerator.is_available():  # AWQ pins memory without asking for an accelerator
        IntermediatesCache.pin_memory = lambda *_: None  # type: ignore[method-assign]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows = samples_of(options.calibration, options.samples, seed)
    texts = process_group.own_part(calibration_set(rows, tokenizer, options.tokens))
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=texts,
        recipe=recipe.modifiers,
        max_seq_length=options.tokens,
        num_calibration_samples=len(texts),
        shuffle_calibration_samples=False,  # GPTQ's sums depend on the order
        moe_calibrate_all_experts=True,
    )
    process_group.barrier()


def algorithm(method: str, *, in_float32: bool) -> str:
    """The method, and what else decides about the weights: `GPTQ in float32`, `GPTQ on 2 GPUs`."""
    ranks, devices = process_group.count(), "GPUs" if torch.cuda.is_available() else "processes"
    return f"{method}{' in float32' if in_float32 else ''}{f' on {ranks} {devices}' if ranks > 1 else ''}"


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
