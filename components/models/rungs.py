"""The variants that an accelerator serves well, and the order in which a search tries variants: the smallest first."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import yaml

from quantgate.components.models.variants import BASELINES, DEFAULT, VARIANTS, Variant, variant_named
from quantgate.components.run.checkpoint import Checkpoint

AUTO = "auto"
"""In place of a variant's name: those of the accelerator that is there."""
PRESET = re.compile(r"(?P<float>NVFP4|MXFP4|W4AFP8|FP8)|W(?P<bits>\d+)")
PRESET_BITS = {"NVFP4": 4.5, "MXFP4": 4.25, "W4AFP8": 4.125, "FP8": 8.0, "4": 4.125}
"""Of compressed-tensors' presets with scales for groups; others have a scale for each channel."""
UNKNOWN_BITS = 16.0


@dataclass(frozen=True)
class Accelerator:
    """What serves the variants."""

    on_cpu: bool
    capability: tuple[int, int] | None = None
    """The GPU's compute capability; None on a CPU, or if it is not known."""

    def serves(self, row: Variant) -> bool:
        """Whether vLLM has a kernel for the row; on a GPU that is not known, whether it has one for most."""
        if self.on_cpu or not row.quantized:
            return row.on_cpus or not row.quantized
        if row.on_gpus_since is None:
            return False
        here = self.capability or row.on_gpus_since
        return row.on_gpus_since <= here and not (row.on_gpus_before and here >= row.on_gpus_before)


@dataclass(frozen=True)
class Ladder:
    """The variants for GPUs from a compute capability on."""

    since: tuple[int, int]
    gpus: str
    variants: tuple[str, ...]


INTEGERS = ("int4-g128", "int4-g64", "int4-g128-mixed", "int8")
LADDERS = (
    Ladder((10, 0), "Blackwell", ("nvfp4", "fp8-dynamic")),
    Ladder((8, 9), "Ada, Hopper", ("int4-g128", "int4-g64", "int4-g128-mixed", "fp8-dynamic")),
    Ladder((0, 0), "Turing, Ampere, or not known", INTEGERS),
)
"""The newest first: the formats that it multiplies itself, and the smallest that it serves."""


def ladder(accelerator: Accelerator) -> tuple[str, ...]:
    """The variants that `auto` stands for, the smallest first."""
    if accelerator.on_cpu:
        return INTEGERS
    return next(row.variants for row in LADDERS if (accelerator.capability or (0, 0)) >= row.since)


def expanded(names: Iterable[str], accelerator: Accelerator) -> tuple[str, ...]:
    """The names, with the accelerator's variants in place of `auto`."""
    return tuple(dict.fromkeys(part for name in names for part in (ladder(accelerator) if name == AUTO else (name,))))


def by_default(accelerator: Accelerator) -> list[str]:
    """The variants of a run that names none: the three, or the accelerator's where it does not serve them."""
    served = all(accelerator.serves(VARIANTS[name]) for name in DEFAULT)
    return DEFAULT if served else list(ladder(accelerator))


def by_size(names: Iterable[str], own: Mapping[str, Variant], kept: Mapping[str, Checkpoint]) -> list[str]:
    """The names from the smallest variant to the largest, the baseline first; equal ones stay in their order.

    `own` are the rows of the user's own recipes and checkpoints. A checkpoint that is not among `kept` is the last.
    """

    def size(name: str) -> tuple[bool, float]:
        row = variant_named(name, own)
        if row.recipe:
            return name not in BASELINES, bits_of_recipe(row.recipe)
        if row.checkpoint:
            checkpoint = kept.get(row.stored.name)
            return name not in BASELINES, checkpoint.stored_bits if checkpoint else UNKNOWN_BITS
        return name not in BASELINES, row.stored_bits

    return sorted(names, key=size)


def bits_of(config: Mapping[str, Any]) -> float:
    """Of a quantized weight, with its share of a scale, by a checkpoint's quantization_config; several: the mean."""
    groups = [group.get("weights") for group in (config.get("config_groups") or {}).values()]
    weights = [settings for settings in groups if settings] or [config]
    return fmean(_stored_bits(settings) for settings in weights)


def bits_of_recipe(text: str) -> float:
    """The same, by the text of a recipe of llm-compressor's; of one that names no number of bits it is that of bf16."""
    return fmean([*_bits_in(yaml.safe_load(text))] or [UNKNOWN_BITS])


def _bits_in(part: Any) -> Iterator[float]:
    if isinstance(part, Mapping):
        if isinstance(scheme := part.get("scheme"), str) and (preset := PRESET.search(scheme.upper())):
            name = preset["float"] or preset["bits"]
            yield PRESET_BITS.get(name) or float(name)
        if isinstance(weights := part.get("weights"), Mapping) and "num_bits" in weights:
            yield _stored_bits(weights)
        for inner in part.values():
            yield from _bits_in(inner)
    elif isinstance(part, Sequence) and not isinstance(part, str):
        for inner in part:
            yield from _bits_in(inner)


def _stored_bits(settings: Mapping[str, Any]) -> float:
    """By the settings of compressed-tensors (`num_bits`), GPTQ (`bits`) or older AWQ (`w_bit`)."""
    bits = float(settings.get("num_bits") or settings.get("bits") or settings.get("w_bit") or UNKNOWN_BITS)
    group = int(settings.get("group_size") or settings.get("q_group_size") or 0)
    scale = 8 if settings.get("type") == "float" else 16
    return bits + (scale / group if group > 0 else 0.0)
