"""vLLM's images, and its options and variables on a CPU: one place for this machine and for both ways on a cluster."""

from pathlib import Path

from components.models.window import model_config

VLLM_IMAGE, VLLM_CPU_IMAGE = "docker.io/vllm/vllm-openai:v0.32.0", "docker.io/vllm/vllm-openai-cpu:v0.32.0"
"""vLLM's own images: they lack our plugin (manifests/images/vllm.Containerfile adds it) and score more slowly."""
NEUTRAL = ("--generation-config", "vllm")
"""Without it vLLM applies the model's generation_config.json: a repetition penalty, a temperature of its own."""
CPU_OPTIONS = ("--enforce-eager", "--block-size", "32", "--max-num-batched-tokens", "2048")
"""Eager: compiling costs a minute more than it saves. Small blocks (multiples of 32 on CPU) make the prefix cache
fine-grained. Small batches bound the memory for the logits of a whole prompt."""
FLOAT32 = ("--dtype", "float32")
"""Six times as fast on prompts as 16 bits that the CPU emulates, see docs/results.md."""
CONCURRENT_SEQUENCES = 16
KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""The variable with the GiB that vLLM reserves on a CPU."""


def cpu_variables(model_path: Path, window: int, value_bytes: int) -> dict[str, str]:
    """The environment variables of vLLM on a CPU, which change no answer; a cached number has `value_bytes` bytes."""
    return {
        KV_CACHE: str(kv_cache_gib(model_path, window, value_bytes)),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # by default vLLM leaves one core unused
    }


def kv_cache_gib(model_path: Path, window: int, value_bytes: int = 2) -> int:
    """GiB of key-value cache for CONCURRENT_SEQUENCES full windows, at least 1."""
    config = model_config(model_path)
    heads = int(config.get("num_attention_heads", 32))
    head_dim = int(config.get("head_dim") or int(config.get("hidden_size", 4096)) // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    per_token_bytes = 2 * int(config.get("num_hidden_layers", 32)) * kv_heads * head_dim * value_bytes
    return max(1, -(-per_token_bytes * window * CONCURRENT_SEQUENCES // 2**30))
