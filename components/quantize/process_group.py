"""A rank's place in the process group, where the program `compress` runs on several GPUs at once.

Without PyTorch's launcher there is no group, and the functions do what one process alone needs.
"""

import functools
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from compressed_tensors.offload import from_accelerate
from compressed_tensors.utils import patch_attr
from datasets import Dataset
from llmcompressor.modeling.moe import linear_experts
from llmcompressor.modifiers.gptq import base as gptq
from llmcompressor.modifiers.quantization.quantization import base as rounding
from transformers import PreTrainedModel

from quantgate.components.processes.guard import die_with_parent
from quantgate.components.run import machine

WAITS = timedelta(hours=3)
"""How long a rank waits for the others, e.g. until rank 0 has read the model; PyTorch's 10 minutes are too short."""


@contextmanager
def joined(store: Path) -> Iterator[None]:
    """In the block, this process is a rank of the group that the launcher has started, if it has.

    The ranks find each other by the file `store`, not by a TCP store, which would listen on all interfaces.

    compressed-tensors' `init_dist` needs a GPU. This also joins on a CPU, where tests run it.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if sys.platform == "linux":
        die_with_parent()
    place: dict[str, Any] = {
        "init_method": f"file://{store}",
        "rank": int(os.environ["RANK"]),
        "world_size": int(os.environ["WORLD_SIZE"]),
        "timeout": WAITS,
    }
    if torch.cuda.is_available():
        gpu = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(gpu)
        dist.init_process_group("nccl", **place, device_id=torch.device("cuda", gpu))
    else:
        dist.init_process_group("gloo", **place)
    torch.set_num_threads(max(1, machine.usable_cores() // count()))  # the launcher allows one
    for module in (gptq, rounding):
        _wait_after_each_layer(module)
    yield
    dist.barrier()
    dist.destroy_process_group()


def rank() -> int:
    """This process's number in the group; 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def not_shared_yet() -> Iterator[None]:
    """In the block, experts that are taken apart stay as they are: llm-compressor would share them at once.

    It cannot share those on PyTorch's device `meta`. `share` shares them with all other weights.
    """
    with patch_attr(linear_experts, "offload_module", lambda *_, **__: None) if count() > 1 else nullcontext():
        yield


def share(model: PreTrainedModel) -> None:
    """Let all ranks have rank 0's weights, in shared memory; the model of the others is on PyTorch's device `meta`."""
    if count() > 1:
        from_accelerate(model)


def own_part(texts: Dataset) -> Dataset:
    """This rank's part of the texts, which all ranks have read.

    llm-compressor 0.14 divides them itself if all ranks have the same, and then each rank reads the first part: its
    sampler counts from the beginning of the part, and its DataLoader from that of the whole (datasets/utils.py). It
    leaves them as they are if their fingerprints differ.
    """
    if count() == 1:
        return texts
    return texts.select(range(rank(), len(texts), count()), new_fingerprint=f"rank-{rank()}")


def barrier() -> None:
    """Wait until all ranks are here."""
    if count() > 1:
        dist.barrier()


def peak_memory() -> dict[str, int]:
    """The most memory of all ranks together, resident and on their GPUs.

    Each rank's peak counts the weights that they share, and the peaks may be at different times: with several ranks
    the sum is an upper bound.
    """
    on_gpus = sum(map(torch.cuda.max_memory_reserved, range(torch.cuda.device_count())))
    peaks = [(peak_resident_bytes(), on_gpus)]
    if count() > 1:
        of_ranks: list[Any] = [None] * count()
        dist.all_gather_object(of_ranks, peaks[0])
        peaks = of_ranks
    resident, reserved = (sum(sizes) for sizes in zip(*peaks, strict=True))
    return {"peak_memory_bytes": resident, "peak_gpu_memory_bytes": reserved}


def peak_resident_bytes() -> int:
    """The most memory that this process had, resident.

    Where Linux says it, by its own count: getrusage's begins with the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    said = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    return 1024 * (int(said[1]) if said else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _wait_after_each_layer(module: ModuleType) -> None:
    """Let no rank go on before each has written its matrices of the layer.

    On a CPU the ranks write into shared memory, and llm-compressor sends nothing and does not wait: a rank that was
    done first passed its texts through matrices that were not rounded yet, so that two runs gave different bytes.
    """
    send: Callable[..., None] = module.broadcast_qparams_and_cleanup

    @functools.wraps(send)
    def send_and_wait(*arguments: Any, **settings: Any) -> None:
        send(*arguments, **settings)
        dist.barrier()

    module.broadcast_qparams_and_cleanup = send_and_wait  # type: ignore[attr-defined]
