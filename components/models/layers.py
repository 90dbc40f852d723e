"""The width rule: which group size each layer gets.

llm-compressor refuses a layer whose input width is not a multiple of the group size. So a layer gets the variant's
group size if it fits, and otherwise the largest of its half, quarter ... that fits.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from quantgate.components.errors import PrerequisiteError
from quantgate.components.models.parts import is_expert
from quantgate.components.models.variants import AUTO_ROUND, Variant

SMALLEST_GROUP = 32


@dataclass(frozen=True)
class Layout:
    """How a layer's weights are stored."""

    bits: int
    group_size: int | None
    """Number of weights that share a scale; None: a row of the matrix."""
    symmetric: bool = True
    """False: each scale has a zero point."""
    packed: bool = True
    """Whether a stored number has several weights; else each has a byte of its own."""
    number: str = "int"
    """`int` or `float`."""
    block_size: int | None = None
    """Height and width of the blocks that share a scale."""
    signed: bool = False
    """Whether its scales may be negative, as AutoRound's are."""

    def __str__(self) -> str:
        scales = f"groups of {self.group_size}" if self.group_size else "one scale a channel"
        scales = f"blocks of {self.block_size} x {self.block_size}" if self.block_size else scales
        kind = "" if self.number == "int" else f" as {self.number}"
        return f"{self.bits} bits{kind}, {scales}{'' if self.symmetric else ', zero points'}"

    def scales_of(self, rows: int, columns: int) -> tuple[int, int]:
        """The shape of the scales of a matrix of weights."""
        if self.block_size:
            return math.ceil(rows / self.block_size), math.ceil(columns / self.block_size)
        return rows, columns // self.group_size if self.group_size else 1


@dataclass(frozen=True)
class LayerGroup:
    """The layers that share a group size."""

    group_size: int | None
    """None: a channel is a group."""
    kinds: tuple[str, ...]
    """The last parts of the layers' names, e.g. `down_proj`."""
    layers: int

    @property
    def targets(self) -> list[str]:
        """The layers as regular expressions for a recipe."""
        return [rf"re:.*\.{kind}$" for kind in self.kinds]


def group_layers(widths: Mapping[str, int], group_size: int) -> list[LayerGroup]:
    """The layers, given by name and input width, grouped by group size; the largest size first.

    Layers of one kind (the last part of the name) share a size, because vLLM fuses some of them, and so do all kinds
    of an expert's layers. Raises PrerequisiteError when not even SMALLEST_GROUP fits.
    """
    kinds: dict[str, list[int]] = {}
    for name, width in widths.items():
        kinds.setdefault(name.rsplit(".", 1)[-1], []).append(width)
    sizes = {kind: fitting_size(kind, values, group_size) for kind, values in kinds.items()}
    of_experts = {name.rsplit(".", 1)[-1] for name in widths if is_expert(name)}
    sizes |= dict.fromkeys(of_experts, min((sizes[kind] for kind in of_experts), default=group_size))
    return [
        LayerGroup(
            size,
            kinds=tuple(sorted(kind for kind in kinds if sizes[kind] == size)),
            layers=sum(len(values) for kind, values in kinds.items() if sizes[kind] == size),
        )
        for size in sorted(set(sizes.values()), reverse=True)
    ]


def groups_for(widths: Mapping[str, int], variant: Variant) -> list[LayerGroup]:
    """The layers by the group size that they get; raises PrerequisiteError when none fits a layer."""
    if variant.group_size is None or variant.one_size:
        return [one_group(widths, variant)]
    return group_layers(widths, variant.group_size)


def one_group(widths: Mapping[str, int], variant: Variant) -> LayerGroup:
    """All layers together: a scale a channel, or the group or block size that the variant's format prescribes.

    Raises PrerequisiteError with the layers whose width is not a multiple of it.
    """
    size = variant.block_size or variant.group_size
    misfits = [name for name, width in widths.items() if size and width % size]
    if misfits:
        raise PrerequisiteError(
            f"{variant.name} has groups of {size} weights, which do not fit {len(misfits)} of {len(widths)} layers, as "
            f"{misfits[0]} with its input width of {widths[misfits[0]]}. Use int8 or fp8-dynamic, which need no groups."
        )
    kinds = tuple(sorted({name.rsplit(".", 1)[-1] for name in widths}))
    return LayerGroup(variant.group_size, kinds, layers=len(widths))


def layouts(groups: list[LayerGroup], widths: Mapping[str, int], variant: Variant) -> dict[str, Layout]:
    """The layout of each layer by the variant."""
    sizes = {kind: group.group_size for group in groups for kind in group.kinds}
    return {
        name: Layout(
            variant.bits,
            sizes[name.rsplit(".", 1)[-1]],
            variant.symmetric,
            variant.packed,
            variant.number,
            variant.block_size,
            signed=variant.algorithm == AUTO_ROUND,
        )
        for name in widths
    }


def fitting_size(kind: str, widths: list[int], group_size: int) -> int:
    """The largest of group_size, its half, its quarter ... that divides every width."""
    size = group_size
    while size >= SMALLEST_GROUP:
        if all(width % size == 0 for width in widths):
            return size
        size //= 2
    misfits = ", ".join(str(width) for width in sorted(set(widths)))
    raise PrerequisiteError(
        f"No group of {group_size} down to {SMALLEST_GROUP} weights fits the layers {kind}: their input width "
        f"({misfits}) is not a multiple of it. Use int8, which needs no groups."
    )


def describe_layout(groups: list[LayerGroup], widths: Mapping[str, int], group_size: int) -> str:
    """E.g. `g128 on 30 of 210 layers, g64 on 180: width 576 is not a multiple of 128`."""
    total = sum(group.layers for group in groups)
    if [group.group_size for group in groups] == [group_size]:
        return f"g{group_size} on all {total} layers"
    first, *others = groups
    parts = [f"g{first.group_size} on {first.layers} of {total} layers"]
    parts += [f"g{group.group_size} on {group.layers}" for group in others]
    misfits = Counter(width for width in widths.values() if width % group_size)
    odd = " and ".join(str(width) for width in sorted(misfits))
    return f"{', '.join(parts)}: width {odd} is not a multiple of {group_size}"
