"""A very small language model, made on the spot: real files, random weights.

PyTorch and transformers are imported by who makes one: every session imports this module.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import LlamaConfig


def small_llama(**settings: Any) -> "LlamaConfig":
    """Two layers of 64, unless the settings say otherwise."""
    from transformers import LlamaConfig

    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    return LlamaConfig(**{**sizes, "num_attention_heads": 2, "num_key_value_heads": 2, **settings})


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
