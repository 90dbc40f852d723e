"""The memory that llm-compressor needs for a model, compared with what there is before hours are spent.

The arithmetic is that of its sequential pipeline (llmcompressor/pipelines/sequential/pipeline.py, modifiers/gptq and
modifiers/transform/awq of version 0.14), in bytes. b is the size of a number that the model computes with, h the hidden
size, i the largest input width of a layer, d the size of an attention head, v the vocabulary; T is the tokens of all
texts, and t those of a text on average, so that the longest has no fewer.

    weights       b for each weight: the whole model is in the CPU's memory
    activations   T (h + 2 d + t) b + 24 T: between two decoder layers, the cache has for each text the hidden
                  states, the rotary embeddings, the attention mask (a square of its tokens), and three rows of int64
    layer         b for each weight of one decoder layer: the one that is calibrated
    hessians      4 w² for each linear layer of width w in it, all at once, in float32
    working       12 w² + 12 o w for the largest of them, with o outputs: reordered Hessians, and float32 weights
    forward       t (4 i + v b): a text in float32 for a Hessian, and at the end the logits
    AWQ           T (4 h + i) b: the inputs of four modules and their outputs, kept for its search

Several ranks (ranks.py) have one copy of the weights, in /dev/shm, and the activations of all texts once. Each has a
process, and on its GPU all from `layer` on.

GPTQ alone has Hessians and works on them. With a GPU, all from `layer` on is in its memory, and the CPU has the rest;
without one, the layer is among the weights. PROCESS is Python with its libraries. What a forward pass needs for a
moment is left out, as is what the allocator keeps, so that only what cannot fit is refused. Measured peaks of
SmolLM2-135M, int4-g64 on a CPU: 1.31 GiB for 1.15 estimated (4 texts, 717 tokens, in float32), and 1.56 for 0.93 (256
texts, 33,552 tokens, in bf16).
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import safe_open

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.content import WEIGHTS
from quantgate.components.models.digest import model_files
from quantgate.components.models.variants import Variant
from quantgate.components.models.window import model_config
from quantgate.components.run import machine
from quantgate.components.run.calibration import Calibration

PROCESS = 600_000_000
"""Of Python with PyTorch, transformers and llm-compressor, measured as 530 MB."""
SHARED, MAPS = Path("/dev/shm"), Path("/proc/sys/vm/max_map_count")
LAYER = re.compile(r"(.+?\.\d+)\.")
"""The name of a decoder layer before that of its tensor, e.g. `model.layers.3`."""


@dataclass(frozen=True)
class Linear:
    """The linear layers of one tensor; a tensor of several experts has one for each."""

    outputs: int
    width: int
    count: int = 1


@dataclass(frozen=True)
class Needed:
    """The bytes by what they are for, as in the module's table."""

    on_cpu: dict[str, int]
    on_gpu: dict[str, int]
    """Empty without a GPU."""


def check_memory(model: Path, variant: Variant, calibration: Calibration, *, in_float32: bool, ranks: int = 1) -> None:
    """Raise PrerequisiteError if the machine, its control group or a GPU has less memory than is needed."""
    import torch

    gpus = [gpu.memory_bytes for gpu in machine.gpus_here() if gpu.memory_bytes]
    on_gpu = torch.cuda.is_available()
    needed = memory_needed(model, variant, calibration, in_float32=in_float32 and not on_gpu, on_gpu=on_gpu)
    on_cpu = needed.on_cpu | {"process": PROCESS * ranks}
    check_fits(on_cpu, machine.memory_bytes(), "this machine")
    if on_gpu and gpus and ranks == 1:
        check_fits(needed.on_gpu, max(gpus), "its GPU")
    elif on_gpu and gpus:
        used = (torch.cuda.get_device_properties(gpu).total_memory for gpu in range(ranks))
        check_fits(needed.on_gpu, min(used), "the smallest of its GPUs")
    if ranks > 1:
        check_shared(needed.on_cpu["weights"], sum(prod(shape[:-2]) for _, shape in shapes(model)))


def check_shared(weights_bytes: int, tensors: int, shared: Path = SHARED, maps: Path = MAPS) -> None:
    """Raise PrerequisiteError if ranks cannot share so many bytes of weights, or so many tensors with their scales."""
    free = shutil.disk_usage(shared).free
    if weights_bytes > free:
        raise PrerequisiteError(
            f"Several GPUs share the weights in {shared}: {in_gib(weights_bytes)} GiB, and {in_gib(free)} GiB are free"
            " there. Make it larger, or leave --quantize-gpus out."
        )
    allowed = int(maps.read_text(encoding="utf-8")) if maps.exists() else 2 * tensors
    if 2 * tensors > allowed:
        raise PrerequisiteError(
            f"Several GPUs share each tensor and its scales by a mapping of memory: at least {2 * tensors:,}, and Linux"
            f" allows a process {allowed:,}. Set vm.max_map_count higher, or leave --quantize-gpus out."
        )


def check_fits(needed: dict[str, int], available: int, place: str) -> None:
    """Raise PrerequisiteError with the numbers if the sum of these bytes is more than what the place has."""
    total = sum(needed.values())
    if total <= available:
        return
    parts = ", ".join(f"{name} {in_gib(size)}" for name, size in sorted(needed.items(), key=lambda part: -part[1]))
    texts = needed.get("activations", 0) + needed.get("AWQ", 0) + needed.get("forward", 0)
    fewer = "give fewer texts (--calibration-samples) or shorter ones (--calibration-tokens), or "
    raise PrerequisiteError(
        f"llm-compressor needs about {in_gib(total)} GiB of memory ({parts}), and {place} has {in_gib(available)} GiB."
        f" To quantize this model, {fewer if total - texts < available else ''}use a larger machine."
    )


def memory_needed(model: Path, variant: Variant, calibration: Calibration, *, in_float32: bool, on_gpu: bool) -> Needed:
    """The memory to quantize the model in the folder; `in_float32`: it computes so, whatever its weights are."""
    weights, layers = 0, dict[str, list[Linear]]()
    for name, shape in shapes(model):
        weights += prod(shape)
        if (layer := LAYER.match(name)) and len(shape) in (2, 3):
            layers.setdefault(layer[1], []).append(Linear(shape[-2], shape[-1], prod(shape[:-2])))
    largest = max(
        layers.values(), key=lambda linears: sum(linear.width**2 * linear.count for linear in linears), default=[]
    )
    config = model_config(model)
    size = 4 if in_float32 or "float32" in (config.get("dtype"), config.get("torch_dtype")) else 2
    hidden, heads = int(config.get("hidden_size") or 0), int(config.get("num_attention_heads") or 1)
    head, vocabulary = int(config.get("head_dim") or hidden // heads), int(config.get("vocab_size") or 0)
    tokens = calibration.used_tokens or calibration.samples * calibration.tokens
    of_one = tokens // calibration.samples
    widest = max((linear.width for linear in largest), default=0)
    whole = {"process": PROCESS, "weights": weights * size}
    whole["activations"] = tokens * ((hidden + 2 * head + of_one) * size + 24)
    one_layer = (
        {"layer": size * sum(linear.outputs * linear.width * linear.count for linear in largest)} if on_gpu else {}
    )
    one_layer["forward"] = of_one * (4 * widest + vocabulary * size)
    if variant.algorithm == "GPTQ":
        one_layer["hessians"] = 4 * sum(linear.width**2 * linear.count for linear in largest)
        one_layer["working"] = max(
            (12 * (linear.width**2 + linear.outputs * linear.width) for linear in largest), default=0
        )
    if variant.transform == "AWQ":
        one_layer["AWQ"] = tokens * (4 * hidden + widest) * size
    return Needed(whole, one_layer) if on_gpu else Needed(whole | one_layer, {})


def shapes(model: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of each tensor, from the headers of the model's weight files."""
    for file in (path for name, path in model_files(model).items() if name.endswith(WEIGHTS)):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                yield name, opened.get_slice(name).get_shape()


def in_gib(size_bytes: int) -> str:
    """The size in GiB."""
    return f"{size_bytes / 2**30:.1f}"
