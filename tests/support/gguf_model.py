"""A model of transformers as a GGUF file, written with the gguf package: as llama.cpp's own converter does it."""

from pathlib import Path
from typing import Any

from quantgate.components.models.window import model_config

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(model: Path, file: Path, weights: str = "Q8_0", **changed: Any) -> Path:
    """Write the Llama in the folder with its matrices in that format; `changed` are fields of the metadata."""
    import gguf
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    config, tokenizer = model_config(model), AutoTokenizer.from_pretrained(model)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    tokens = tokenizer.convert_ids_to_tokens([*range(len(tokenizer))])
    facts = {"end": tokenizer.eos_token_id, "width": config["hidden_size"], "tokens": tokens} | changed
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if weights == 'F32' else 'MOSTLY'}_{weights}"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(facts["width"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(facts["tokens"])
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(facts["tokens"]) - 1)])
    writer.add_token_merges(["a b"])  # llama.cpp wants one; the merged token does not exist
    writer.add_eos_token_id(facts["end"])
    if "parts" in facts:
        writer.add_uint16("split.count", facts["parts"])
    for name, tensor in load_file(model / "model.safetensors").items():
        values = tensor.float().numpy()
        for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if part in name:  # llama.cpp rotates neighbours, transformers the halves
                rows = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
                values = rows.swapaxes(1, 2).reshape(values.shape)
        kind = gguf.GGMLQuantizationType[weights if values.ndim > 1 else "F32"]
        writer.add_tensor(renamed(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def renamed(name: str) -> str:
    """GGUF's name of a tensor."""
    stem = name.removesuffix(".weight")
    if stem in TOP:
        return f"{TOP[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"
