"""The parts of a model that every variant leaves as they are, by the names of their layers.

llm-compressor has no list of them but in its examples, one for each family of models:
https://github.com/vllm-project/llm-compressor/tree/ab1ba3e/examples. A part's pattern joins what they name.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Layers with one purpose, in all families of models."""

    name: str
    pattern: str
    """Matches the names of its layers, in the model and in its files."""
    sources: tuple[str, ...]
    """The examples of llm-compressor that leave it as it is."""
    counted: bool = True
    """Whether a variant's description has the number of its layers."""


ROUTERS = Part(
    "routers",
    r".*\.(gate|router|shared_expert_gate)(\.[^.]+)?$",
    (
        "quantizing_moe/qwen_example.py",
        "quantizing_moe/mixtral_example.py",
        "quantizing_moe/granite_moe_example.py",
        "multimodal_vision/llama4_example.py",
    ),
)
LEFT = (
    Part("the output layer", r"(.*\.)?lm_head$", ("quantization_w4a16/llama3_example.py",), counted=False),
    Part(
        "the vision tower",
        r"(.*\.)?[^.]*(vision|visual)[^.]*\..*",
        (
            "multimodal_vision/qwen2_vl_example.py",
            "multimodal_vision/llava_example.py",
            "multimodal_vision/mllama_example.py",
            "multimodal_vision/phi3_vision_example.py",
            "multimodal_vision/gemma4_example.py",
        ),
    ),
    Part(
        "the audio tower",
        r"(.*\.)?[^.]*(audio|code2wav)[^.]*\..*",
        ("multimodal_vision/gemma4_example.py", "multimodal_vision/qwen3_omni_example.py"),
    ),
    Part(
        "the projector",
        r"(.*\.)?(multi_modal_projector|connector)\..*",
        ("multimodal_vision/llava_example.py", "multimodal_vision/idefics3_example.py"),
    ),
    Part(
        "embeddings",
        r"(.*\.)?embed[^.]*(\..*)?$",
        ("multimodal_vision/gemma4_example.py", "quantization_w4a4_fp4/qwen3_5_example.py"),
        counted=False,
    ),
    ROUTERS,
    Part("linear attention", r".*\.linear_attn\..*", ("quantization_w4a4_fp4/qwen3_next_example.py",)),
)
IGNORED = [f"re:{part.pattern}" for part in LEFT]
"""As the ignore list of a recipe."""
EXPERT = re.compile(r".*\.(experts\.\d+|shared_experts?)\.")
"""The beginning of the name of a layer of an expert."""


def part_of(layer: str) -> Part | None:
    """The part that the layer belongs to; None for one that a variant quantizes."""
    return next((part for part in LEFT if re.match(part.pattern, layer)), None)


def is_expert(layer: str) -> bool:
    """Whether the layer is an expert's, and thus to be quantized."""
    return EXPERT.match(layer) is not None and part_of(layer) is None
