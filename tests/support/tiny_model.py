"""A very small language model, made on the spot: real files, random weights.

PyTorch and transformers are imported by who makes one: every session imports this module.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlavaConfig, Qwen3MoeConfig


def small_llama(**settings: Any) -> "LlamaConfig":
    """Two layers of 64, unless the settings say otherwise."""
    from transformers import LlamaConfig

    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    return LlamaConfig(**{**sizes, "num_attention_heads": 2, "num_key_value_heads": 2, **settings})


def small_moe(**settings: Any) -> "Qwen3MoeConfig":
    """Two layers of 64 with four experts, two for a token."""
    from transformers import Qwen3MoeConfig

    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 32}
    return Qwen3MoeConfig(**{**small_llama(**settings).to_dict(), "model_type": "qwen3_moe", **experts})


def small_llava(**settings: Any) -> "LlavaConfig":
    """A small Llama with a vision tower whose layers have names like the Llama's."""
    from transformers import CLIPVisionConfig, LlavaConfig

    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    images: dict[str, Any] = {"num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 64}
    tower = CLIPVisionConfig(**sizes, **images)
    return LlavaConfig(text_config=small_llama(**settings), vision_config=tower, image_token_index=250)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a two-layer Llama whose tokenizer knows every byte and has no merges."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(["<eos>", *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = small_llama(vocab_size=len(alphabet) + 1, eos_token_id=0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder
