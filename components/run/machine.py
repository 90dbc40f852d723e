"""What this machine has: its memory, its GPUs and their abilities, and whether its CPU multiplies 16 bits."""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field

from quantgate.components.storage.artifact import Artifact

CPUINFO = Path("/proc/cpuinfo")
NODES = Path("/sys/devices/system/node")
CGROUP = Path("/sys/fs/cgroup/memory.max")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
LEFT_TO_PROGRAMS = "the GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES leaves are"
"""Before the number that `gpu_count` gives."""


class Gpu(Artifact):
    """GPUs of one kind in one machine."""

    name: str
    memory_bytes: int | None
    """Memory of each GPU; None when the driver does not report it, as for memory shared with the CPU."""
    driver: str
    count: Annotated[int, Field(ge=1)]


def gpus_here(timeout_s: float = 5.0) -> list[Gpu]:
    """This machine's NVIDIA GPUs, each kind once; empty when nvidia-smi is missing, fails or hangs."""
    try:
        answer = subprocess.run(SMI, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    kinds = Counter(tuple(part.strip() for part in line.rsplit(",", 2)) for line in lines)
    return [
        Gpu(name=kind[0], memory_bytes=int(kind[1]) * 2**20 if kind[1].isdecimal() else None, driver=kind[2], count=n)
        for kind, n in kinds.items()
        if len(kind) == 3  # old drivers say "No devices were found" and exit with 0
    ]


def gpu_count(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this machine's GPUs that CUDA_VISIBLE_DEVICES leaves to a program, as LEFT_TO_PROGRAMS says it.

    CUDA's rule: the list ends at the first entry that is no GPU, such as -1.
    """
    here = sum(gpu.count for gpu in gpus_here())
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return here
    return min(here, len(list(takewhile(lambda entry: entry.strip() not in ("", "-1"), visible.split(",")))))


def compute_capability(timeout_s: float = 5.0) -> tuple[int, int] | None:
    """The lowest compute capability of this machine's GPUs; None when nvidia-smi does not say it."""
    command = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    capabilities = re.findall(r"^(\d+)\.(\d+)$", answer.stdout, re.MULTILINE) if answer.returncode == 0 else []
    return min(((int(major), int(minor)) for major, minor in capabilities), default=None)


def multiplies_16_bits() -> bool:
    """Whether the CPU has instructions that multiply bfloat16; True where /proc/cpuinfo is missing (macOS).

    A CPU without them computes bfloat16 in software, several times as slowly as float32.
    """
    if not CPUINFO.exists():
        return True
    lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), None)  # x86, ARM
    return flags is None or not BF16_FLAGS.isdisjoint(flags)


def has_avx512() -> bool:
    """Whether the CPU has AVX-512; False where /proc/cpuinfo is missing (macOS)."""
    return CPUINFO.exists() and "avx512f" in CPUINFO.read_text(encoding="utf-8", errors="replace").split()


def memory_bytes() -> int:
    """The memory that this process may use: the machine's, or its control group's if that is less."""
    limit = CGROUP.read_text(encoding="utf-8").strip() if CGROUP.exists() else "max"
    total: int = psutil.virtual_memory().total
    return min(total, int(limit)) if limit.isdecimal() else total


def numa_nodes() -> int:
    """The number of this machine's NUMA nodes, at least 1."""
    return max(1, len(list(NODES.glob("node[0-9]*"))))


def usable_cores() -> int:
    """The number of physical cores that this process may use, at least 1."""
    physical = psutil.cpu_count(logical=False) or 1
    return min(physical, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else physical
