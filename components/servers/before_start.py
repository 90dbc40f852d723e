"""What is known to end a vLLM server on this machine, checked before it is started."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.variants import FP8_CACHE, Variant, known_variant
from quantgate.components.models.window import model_config
from quantgate.components.run import machine

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
SPARE_BYTES = 50_000_000
"""For the log, the sockets and what vLLM compiles."""
QUANTIZED_SINCE = (7, 5)
"""The compute capability from which vLLM runs compressed-tensors' 4 and 8 bits: `get_min_capability` of its schemes."""


def obstacle(model_path: Path, results: Path, kv_cache_gib: str | None) -> str:
    """Why a server for the model would end before it is ready; "" when no reason is known.

    `kv_cache_gib` is what vLLM reserves on a CPU; None on a GPU.
    """
    if not any((model_path / name).exists() for name in TOKENIZERS) and not [*model_path.glob("*.tiktoken")]:
        return f"{model_path} has no tokenizer. Add the model's tokenizer.json."
    if full := full_disk(results):
        return full
    return beyond_the_gpu(model_path) if kv_cache_gib is None else beyond_the_memory(model_path, int(kv_cache_gib))


def full_disk(results: Path) -> str:
    """That the disk of the results or of temporary files has no room for a server's files; "" if it has."""
    for folder in (results, Path(tempfile.gettempdir())):
        if folder.exists() and shutil.disk_usage(folder).free < SPARE_BYTES:
            return f"the disk of {folder} is full. Make room."
    return ""


def check_kernels(variants: Iterable[str], on_cpu: bool) -> None:
    """Raise PrerequisiteError for variants that vLLM cannot serve here, by its CPU build or on this machine's GPU."""
    rows = {name: known_variant(name) for name in variants}
    if refused := [name for name, row in rows.items() if on_cpu and row and not row.on_cpus]:
        raise PrerequisiteError(
            f"{', '.join(refused)}: vLLM's CPU build has no kernel for it. Leave it out, or run it where a GPU is."
        )
    cached = [name for name in rows if name.endswith(FP8_CACHE)]
    if on_cpu and cached and not machine.has_avx512():
        raise PrerequisiteError(
            f"{', '.join(cached)}: vLLM keeps keys and values in FP8 on a CPU only with AVX-512, which this one lacks."
            " Leave it out, or run it where a GPU is."
        )
    capability = None if on_cpu else machine.compute_capability()
    for name, row in rows.items():
        if not on_cpu and row and row.quantized and (fault := _without_kernel(row, capability)):
            raise PrerequisiteError(f"{name}: vLLM has a kernel for it {fault}.")


def _without_kernel(row: Variant, capability: tuple[int, int] | None) -> str:
    """Where vLLM has a kernel, if not on a GPU of that compute capability; None: on one that is not known."""
    if row.on_gpus_since is None:
        return "on CPUs only. Leave it out, or run it where no GPU is"
    first, past = row.on_gpus_since, row.on_gpus_before
    if not capability or (first <= capability and not (past and capability >= past)):
        return ""
    here = f"and this GPU has {_version(capability)}. Leave it out"
    if past:
        return f"from compute capability {_version(first)} to before {_version(past)}, {here}, or use such a GPU"
    return f"from compute capability {_version(first)} on, {here}, or use a newer GPU"


def _version(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def beyond_the_memory(model_path: Path, kv_cache_gib: int) -> str:
    """Whether weights and key-value cache exceed the machine's memory, free or not."""
    needed = sum(file.stat().st_size for file in model_path.glob("*.safetensors")) + kv_cache_gib * 2**30
    available = machine.memory_bytes()
    if needed <= available:
        return ""
    return (
        f"its weights and {kv_cache_gib} GiB of key-value cache need {needed / 2**30:.1f} GiB, and this machine has "
        f"{available / 2**30:.1f} GiB of memory. Use a larger machine, or a shorter window (--max-model-len)."
    )


def beyond_the_gpu(model_path: Path) -> str:
    """Whether the weights have a format that the GPU is too old for."""
    capability = machine.compute_capability()
    if capability is None or capability >= QUANTIZED_SINCE or "quantization_config" not in model_config(model_path):
        return ""
    return (
        f"the GPU has compute capability {_version(capability)}, and vLLM runs quantized weights from "
        f"{_version(QUANTIZED_SINCE)} on. Use a newer GPU, or its CPU build (ACCELERATOR=cpu)."
    )
