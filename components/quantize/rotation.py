"""SpinQuant's rotations R1 and R2, which are merged into the weights: for which models, and what they change.

Both leave the lengths of vectors as they are (arXiv:2405.16406, figure 1). R1 rotates what passes between the layers:
the rows of the embeddings, centred before, and those of the output layer. The scale of each norm moves into the layers
that read it. So the output layer is no longer the embeddings, where it was.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.variants import Variant
from quantgate.components.models.window import model_config

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, Callable[[], torch.Tensor]]

ROTATES = tuple(f"{family}ForCausalLM" for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "Granite"))
"""The architectures whose answers llm-compressor 0.14's rotations leave as they were; a MoE's router is left out."""
EMBEDDING, OUTPUT, LAST_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
MERGED = re.compile(r"(^|\.)(input_layernorm|post_attention_layernorm|norm)\.weight$")
ROTATED = re.compile(f"{MERGED.pattern}|^{re.escape(EMBEDDING)}$|^{re.escape(OUTPUT)}$")
"""What changes beside the quantized layers."""
ROUNDING = 0.01
"""Of a length, by storing its rotated vector in 16 bits."""


def check_rotates(model: Path, variant: Variant) -> None:
    """Raise PrerequisiteError if the variant is rotated, and llm-compressor does not know how for the model."""
    found = [str(name) for name in model_config(model).get("architectures") or ["an unnamed architecture"]]
    if variant.transform == "SpinQuant" and not set(found) <= set(ROTATES):
        raise PrerequisiteError(
            f"{variant.name} rotates models of {', '.join(ROTATES)}, and this one is {', '.join(found)}. Leave it out,"
            " or use int4-awq-g128."
        )


def not_rotated(compressed: "Tensors", original: "Tensors") -> list[str]:
    """The names of the tensors that have changed in another way than a rotation changes them."""
    import torch

    faults = [name for name in compressed if MERGED.search(name) and not bool((compressed[name]() == 1).all())]
    embeddings = original[EMBEDDING]().float()
    output = original.get(OUTPUT, original[EMBEDDING])().float() * original[LAST_NORM]().float()
    for name, before in ((EMBEDDING, embeddings - embeddings.mean(dim=-1, keepdim=True)), (OUTPUT, output)):
        after = compressed[name]().float() if name in compressed else before.new_zeros(0, 0)
        lengths = before.norm(dim=-1)
        tolerance = ROUNDING * float(lengths.mean())
        if after.shape != before.shape or not torch.allclose(after.norm(dim=-1), lengths, ROUNDING, tolerance):
            faults.append(name)
    return faults
