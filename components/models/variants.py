"""The variants that a run can make of a model, one row each; the baseline is a row too."""

from collections.abc import Iterable
from dataclasses import dataclass

from components.errors import PrerequisiteError


@dataclass(frozen=True)
class Variant:
    """One way to store a model's weights, in the terms of compressed-tensors and llm-compressor."""

    name: str
    scheme: str
    """A preset of compressed-tensors: W4A16 has weights of 4 bits and activations of 16."""
    bits: int = 16
    """Of a stored weight."""
    group_size: int | None = None
    """Number of weights that share a scale; None: one scale per channel, or no scale."""
    symmetric: bool = True
    """False: each scale has a zero point beside it."""
    observer: str = "minmax"
    """How a scale is found: `minmax` from the largest weights, `mse` by the smallest squared error."""
    transform: str = ""
    """What moves difficult channels into other weights before: `SmoothQuant` or `AWQ`."""
    algorithm: str = "GPTQ"
    """How the weights are rounded: by GPTQ, in the static order of its activations, or to the nearest (`RTN`)."""
    quantized: bool = True
    default: bool = False
    """Made by a run that names no variants."""
    number: str = "int"
    """The kind of number of a stored weight: `int` or `float`."""
    block_size: int | None = None
    """Height and width of the blocks of weights that share a scale, in place of a channel or a group."""
    on_cpus: bool = True
    """Whether vLLM's CPU build has a kernel for it."""
    on_gpus_since: tuple[int, int] = (7, 5)
    """The least compute capability of a GPU with a kernel for it, by vLLM's compressed-tensors schemes."""

    @property
    def method(self) -> str:
        """E.g. `GPTQ` or `RTN after AWQ`; empty for the baseline."""
        return " after ".join(part for part in (self.algorithm, self.transform) if part)

    @property
    def packed(self) -> bool:
        """Whether a stored number has several weights; else each has a byte of its own."""
        return self.scheme != "W8A8" and (self.number == "int" or self.bits < 8)


BASELINE = "bf16"

VARIANTS = {
    row.name: row
    for row in (
        Variant(BASELINE, scheme="BF16", algorithm="", quantized=False),
        Variant("int8", scheme="W8A8", bits=8, default=True),
        Variant("int4-g128", scheme="W4A16", bits=4, group_size=128, default=True),
        Variant("int4-g64", scheme="W4A16", bits=4, group_size=64, default=True),
        Variant("int4-g32", scheme="W4A16", bits=4, group_size=32),
        Variant("int4-channel", scheme="W4A16", bits=4),
        Variant("int4-g128-asym", scheme="W4A16_ASYM", bits=4, group_size=128, symmetric=False),
        Variant("int4-g64-asym", scheme="W4A16_ASYM", bits=4, group_size=64, symmetric=False),
        Variant("int4-g128-mse", scheme="W4A16", bits=4, group_size=128, observer="mse"),
        Variant("int4-awq-g128", "W4A16", 4, 128, transform="AWQ", algorithm="RTN"),
        Variant("int4-awq-g64", "W4A16", 4, 64, transform="AWQ", algorithm="RTN"),
        Variant("int8-smooth", scheme="W8A8", bits=8, transform="SmoothQuant"),
        Variant("int8-w8a16", scheme="W8A16", bits=8, on_cpus=False),
        Variant("fp8-dynamic", "FP8_DYNAMIC", 8, number="float", algorithm="RTN", on_cpus=False),
        Variant("fp8-block", "FP8_BLOCK", 8, number="float", algorithm="RTN", on_cpus=False, block_size=128),
        Variant("nvfp4", "NVFP4", 4, 16, number="float", algorithm="RTN", on_cpus=False),
        Variant("nvfp4-a16", "NVFP4A16", 4, 16, number="float", algorithm="RTN", on_cpus=False),
        Variant("mxfp4", "MXFP4", 4, 32, number="float", algorithm="RTN", on_cpus=False),
        Variant("mxfp4-a16", "MXFP4A16", 4, 32, number="float", algorithm="RTN", on_cpus=False),
    )
}

DEFAULT = [name for name, row in VARIANTS.items() if row.default]
"""The variants that a run makes unless it names others."""


def variant_named(name: str) -> Variant:
    """The row of that name; raises PrerequisiteError with the valid names."""
    if name not in VARIANTS:
        raise PrerequisiteError(f"Unknown variant {name!r}. Choose from: {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def with_baseline(names: Iterable[str]) -> list[str]:
    """The checked variant names, without duplicates: the baseline first, then the others in their order."""
    return list(dict.fromkeys([BASELINE, *(variant_named(name).name for name in names)]))
