"""vLLM's images, and its options and variables on a CPU: one place for this machine and for both ways on a cluster."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from quantgate.components.models.window import model_config
from quantgate.components.run.machine import numa_nodes, usable_cores

THREADS = "VLLM_CPU_OMP_THREADS_BIND"
"""With this variable the user binds vLLM's threads to cores."""
VLLM_IMAGE, VLLM_CPU_IMAGE = "docker.io/vllm/vllm-openai:v0.32.0", "docker.io/vllm/vllm-openai-cpu:v0.32.0"
"""vLLM's own images: they lack our plugin (manifests/images/vllm.Containerfile adds it) and score more slowly."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
"""The variables with which vLLM and its load test ask no hub, and report nothing."""
NEUTRAL = ("--generation-config", "vllm")
"""Without it vLLM applies the model's generation_config.json: a repetition penalty, a temperature of its own."""
CPU_OPTIONS = ("--enforce-eager", "--block-size", "32", "--max-num-batched-tokens", "2048")
"""Eager: compiling costs a minute more than it saves. Small blocks (multiples of 32 on CPU) make the prefix cache
fine-grained. Small batches bound the memory for the logits of a whole prompt."""
FLOAT32 = ("--dtype", "float32")
"""Six times as fast on prompts as 16 bits that the CPU emulates, see docs/results.md."""
CONCURRENT_SEQUENCES = 16
IN_ENGINE = ("--distributed-executor-backend", "uni")
"""On a CPU vLLM computes in a process of its own, so that it can bind its threads to the cores of a NUMA node. With one
node that gains nothing, and importing PyTorch once more takes a third of the start, see docs/results.md."""
OTHER_LAYOUTS = re.compile(r"--(distributed-executor-backend|(tensor|pipeline|data)-parallel-size)(=.*)?|-[tpd]p")
"""Options with which vLLM needs more processes, or gets what the user wants."""
KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""The variable with the GiB that vLLM reserves on a CPU."""


def cpu_variables(model_path: Path, window: int, value_bytes: int) -> dict[str, str]:
    """The environment variables of vLLM on a CPU, which change no answer; a cached number has `value_bytes` bytes."""
    return {
        KV_CACHE: str(kv_cache_gib(model_path, window, value_bytes)),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # by default vLLM leaves one core unused
    }


def cpu_layout(options: Collection[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The options and variables for computing in the engine's process, where this machine has one NUMA node.

    Both are empty where `options` or the environment lay out vLLM's processes and threads.
    """
    if numa_nodes() > 1 or THREADS in os.environ or any(OTHER_LAYOUTS.fullmatch(option) for option in options):
        return (), {}
    threads = os.environ.get("OMP_NUM_THREADS") or str(usable_cores())
    return IN_ENGINE, {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": threads}


def kv_cache_gib(model_path: Path, window: int, value_bytes: int = 2) -> int:
    """GiB of key-value cache for CONCURRENT_SEQUENCES full windows, at least 1."""
    config = model_config(model_path)
    heads = int(config.get("num_attention_heads", 32))
    head_dim = int(config.get("head_dim") or int(config.get("hidden_size", 4096)) // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    per_token_bytes = 2 * int(config.get("num_hidden_layers", 32)) * kv_heads * head_dim * value_bytes
    return max(1, -(-per_token_bytes * window * CONCURRENT_SEQUENCES // 2**30))
