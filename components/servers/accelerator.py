"""The accelerator that serves the variants: this machine's, or that of a cluster's nodes by their labels."""

import re
from collections.abc import Mapping

from quantgate.components.environments import serving_environment
from quantgate.components.models.rungs import Accelerator
from quantgate.components.run import machine
from quantgate.components.servers.cluster_settings import LOCAL, from_environment
from quantgate.components.servers.local_vllm import find_engine

MAJOR, MINOR, PRODUCT = "nvidia.com/gpu.compute.major", "nvidia.com/gpu.compute.minor", "nvidia.com/gpu.product"
"""Labels of NVIDIA's GPU feature discovery."""
CAPABILITIES = {
    (10, 3): ("B300", "GB300"),
    (10, 0): ("B100", "B200", "GB200"),
    (9, 0): ("H100", "H200", "H800", "H20", "GH200"),
    (8, 9): ("L4", "L40", "L40S", "L20"),
    (8, 6): ("A10", "A10G", "A2", "A16", "A40"),
    (8, 0): ("A30", "A100", "A800"),
    (7, 5): ("T4",),
}
"""Compute capability and names of data center GPUs (https://developer.nvidia.com/cuda-gpus)."""


def accelerator_there() -> Accelerator:
    """What serves the variants of a run here: vLLM on this machine, or the cluster that the environment describes."""
    settings = from_environment()
    if settings.kind != LOCAL:
        labels = dict(settings.node_selector)
        return Accelerator(on_cpu=not settings.gpus, capability=capability_by(labels) if settings.gpus else None)
    on_cpu = vllm_on_cpu()
    return Accelerator(on_cpu, None if on_cpu else machine.compute_capability())


def vllm_on_cpu() -> bool:
    """Whether vLLM runs on this machine's CPU; also known before its environment is made."""
    if serving_environment.find_python():
        return find_engine().on_cpu
    return serving_environment.environment_in_cache().accelerator == "cpu"


def capability_by(labels: Mapping[str, str]) -> tuple[int, int] | None:
    """The compute capability of nodes with these labels; None if the labels do not say it."""
    major, minor = labels.get(MAJOR, ""), labels.get(MINOR, "0")
    if major.isdecimal() and minor.isdecimal():
        return int(major), int(minor)
    words = re.split("[^A-Z0-9]+", labels.get(PRODUCT, "").upper())
    return next((found for found, names in CAPABILITIES.items() if not set(names).isdisjoint(words)), None)
