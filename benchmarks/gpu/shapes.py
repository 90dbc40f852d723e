"""The models of the GPU benchmark: the demo model, and Llama's shapes with random weights or without weights.

Speed does not depend on the weights' values. Quantizing needs random weights on the disk. For serving, vLLM creates
them itself (`--load-format dummy`), so a folder with a configuration and the demo's tokenizer is enough.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scoring_speed import demo_model
from quantgate.components.models.variants import BASELINE, VARIANTS, variant_named
from quantgate.components.quantize.recipe import scheme_for

DEMO = "demo"
SERVED = (BASELINE, "int8", "int4-g128", "int4-g64", "fp8-dynamic")
"""The variants that are measured unless --models names others."""
REHEARSED_LAYERS = 2
"""The demo model's layers in the rehearsal."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def variants(models: tuple[str, ...]) -> list[str]:
    """The variants to measure: those that `models` names, alone or after a model's name, or else SERVED."""
    named = {name.rpartition(".")[2] for name in models}
    further = [name for name in VARIANTS if name in named and name not in SERVED]
    return [*SERVED, *further]


@dataclass(frozen=True)
class Shape:
    """The size of a Llama model."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    tied: bool
    quantized_layers: int
    """The number of layers in the quantizing part; GPTQ's time grows with it."""

    def config(self, layers: int) -> dict[str, Any]:
        """config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "hidden_act": "silu",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
        }


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llama-3.2-1b", 16, 2048, 8192, 32, 8, tied=True, quantized_layers=16),
        Shape("llama-3.1-8b", 32, 4096, 14336, 32, 8, tied=False, quantized_layers=4),
    )
}


def tokenizer(data: Path) -> Path:
    """A folder with the demo model's tokenizer; carry.py puts one beside the rows."""
    carried = data / "tokenizer"
    return carried if carried.exists() else demo_model()


def demo(folder: Path, *, cut: bool) -> Path:
    """The demo model's folder; `cut` to its first layers for a rehearsal."""
    whole = demo_model()
    if not cut:
        return whole
    target = folder / "models" / f"demo-{REHEARSED_LAYERS}-layers"
    if not target.exists():
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.bfloat16)
        model.model.layers = model.model.layers[:REHEARSED_LAYERS]
        model.config.num_hidden_layers = REHEARSED_LAYERS
        if getattr(model.config, "layer_types", None):
            model.config.layer_types = model.config.layer_types[:REHEARSED_LAYERS]
        model.save_pretrained(target)
        copy_tokenizer(whole, target)
    return target


def random_model(shape: Shape, folder: Path, tokenizer: Path) -> Path:
    """A checkpoint of the shape with random weights and `quantized_layers` layers."""
    target = folder / "models" / f"{shape.name}-{shape.quantized_layers}-layers"
    if target.exists():
        return target
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(LlamaConfig(**shape.config(shape.quantized_layers)))
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(target)
    copy_tokenizer(tokenizer, target)
    return target


def weightless(shape: Shape, variant: str, folder: Path, tokenizer: Path) -> Path:
    """A folder for vLLM's `--load-format dummy`: the whole shape in the variant's format, without weights."""
    target = folder / "models" / f"{shape.name}-{variant}-without-weights"
    target.mkdir(parents=True, exist_ok=True)
    config = shape.config(shape.layers)
    if variant != BASELINE:
        config["quantization_config"] = quantization_config(variant)
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    copy_tokenizer(tokenizer, target)
    return target


def quantization_config(variant: str) -> dict[str, object]:
    """What llm-compressor writes into config.json for the variant of a model whose layers all fit its groups."""
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import QuantizationConfig
    from torch.nn import Linear

    row = variant_named(variant)
    scheme = scheme_for(row, ["Linear"], row.group_size)
    form = infer_module_format(Linear, scheme).value
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=["lm_head"],
        format=form,
        quantization_status="compressed",
    )
    return dict(config.model_dump(mode="json"))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copy(source / name, target / name)
