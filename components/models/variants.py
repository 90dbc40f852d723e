"""The variants that a run can make of a model, one row each; the baseline is a row too."""

from collections.abc import Iterable
from dataclasses import dataclass

from components.errors import PrerequisiteError


@dataclass(frozen=True)
class Variant:
    """One way to store a model's weights, in the terms of compressed-tensors."""

    name: str
    scheme: str
    group_size: int | None = None
    """Number of weights that share a scale; None: one scale per channel, or no scale."""
    quantized: bool = True


BASELINE = "bf16"

VARIANTS = {
    row.name: row
    for row in (
        Variant(BASELINE, scheme="BF16", quantized=False),
        Variant("int8", scheme="W8A8"),
        Variant("int4-g128", scheme="W4A16", group_size=128),
        Variant("int4-g64", scheme="W4A16", group_size=64),
    )
}

QUANTIZED = [name for name, row in VARIANTS.items() if row.quantized]
"""The variants that a run makes unless it names others."""


def variant_named(name: str) -> Variant:
    """The row of that name; raises PrerequisiteError with the valid names."""
    if name not in VARIANTS:
        raise PrerequisiteError(f"Unknown variant {name!r}. Choose from: {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def with_baseline(names: Iterable[str]) -> list[str]:
    """The checked variant names, without duplicates: the baseline first, then the others in their order."""
    return list(dict.fromkeys([BASELINE, *(variant_named(name).name for name in names)]))
