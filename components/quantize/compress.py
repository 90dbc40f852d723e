"""Compress one model with llm-compressor: a separate program, so that running out of memory ends only this process.

    python -m components.quantize.compress --model FOLDER --variant NAME --calibration TEXTS.jsonl --samples N \\
        --tokens N --out FOLDER --facts FILE [--slow-16-bits]

It writes the compressed checkpoint and then the facts: a JSON file with the layout's description, the number of bits
and the group size of each layer, and the algorithm. On one kind of machine the same inputs give the same bytes.
"""

import argparse
import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
import transformers
from compressed_tensors import ModelCompressor
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from components.models.tokenizer_files import copy_beside_weights
from components.models.variants import variant_named
from components.quantize.recipe import UNQUANTIZED, recipe_for

SEED = 0


def main() -> None:
    """Compress the model of the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="JSON lines with `text` and `templated`")
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True, help="length to which a sample is cut")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--slow-16-bits", action="store_true", help="the CPU computes 16 bits in software")
    options = parser.parse_args()

    transformers.set_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype="auto")
    model.config.save_pretrained(options.out)
    model.generation_config = GenerationConfig()
    stored = model.dtype
    in_float32 = options.slow_16_bits and not torch.cuda.is_available()
    if in_float32:
        model.float()
    widths = linear_widths(model)
    if not torch.accelerator.is_available():  # AWQ pins memory without asking for an accelerator
        IntermediatesCache.pin_memory = lambda *_: None  # type: ignore[method-assign]
    variant = variant_named(options.variant)
    recipe = recipe_for(variant, widths)
    oneshot(
        model=model,
        dataset=calibration_set(options.calibration, tokenizer, options.samples, options.tokens),
        recipe=recipe.modifiers,
        max_seq_length=options.tokens,
        num_calibration_samples=options.samples,
        shuffle_calibration_samples=False,  # GPTQ's sums depend on the order
    )
    if in_float32:  # to integers before the rest to 16 bits, which would round the weights off GPTQ's grid
        ModelCompressor.from_pretrained_model(model).compress_model(model)
        torch.nn.Module.to(model, stored)
    model.save_pretrained(options.out, save_compressed=True)
    copy_beside_weights(options.model, options.out)
    facts = {
        "layout": recipe.layout,
        "layers": {name: asdict(layer) for name, layer in recipe.layers.items()},
        "algorithm": f"{variant.method} in float32" if in_float32 else variant.method,
    }
    options.facts.write_text(json.dumps(facts), encoding="utf-8")


def linear_widths(model: PreTrainedModel) -> dict[str, int]:
    """Name and input width of each linear layer that is quantized."""
    return {
        name: module.in_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] != UNQUANTIZED
    }


def calibration_set(file: Path, tokenizer: PreTrainedTokenizerBase, samples: int, tokens: int) -> Dataset:
    """The first `samples` texts, each cut to `tokens` tokens; a `templated` one has its special tokens already."""
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, samples)]
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
