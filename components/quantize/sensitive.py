"""Which layers of a mixed variant get 8 bits: those whose weights changed most in the variant of 4 bits.

Layers that a server fuses must have one format. It fuses those that read the same values: q, k and v; gate and up; all
experts of a decoder layer. So layers of one parent with one input width are chosen together.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

OF_DECODER = re.compile(r"(?:.*\.)?([^.]+\.\d+\..+)")
EXPERTS = ".experts."


@dataclass(frozen=True)
class Together:
    """Layers that get the same format."""

    parent: str
    layers: tuple[str, ...]

    @property
    def target(self) -> str:
        """These layers as a regular expression for a recipe, without the names before the decoder layer's."""
        beginning = OF_DECODER.fullmatch(self.parent)
        parent = re.escape(beginning[1] if beginning else self.parent)
        number = r"\.\d+" if self.parent.endswith(EXPERTS.rstrip(".")) else ""
        kinds = "|".join(sorted({re.escape(name.rsplit(".", 1)[-1]) for name in self.layers}))
        return rf"re:(.*\.)?{parent}{number}\.({kinds})$"


def together(widths: Mapping[str, int]) -> list[Together]:
    """The layers, given by name and input width, in the groups that must have one format."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name, width in widths.items():
        before, experts, _ = name.partition(EXPERTS)
        key = (f"{before}{EXPERTS.rstrip('.')}", 0) if experts else (name.rpartition(".")[0], width)
        groups.setdefault(key, []).append(name)
    return [Together(parent, tuple(layers)) for (parent, _), layers in groups.items()]


def most_sensitive(
    groups: Iterable[Together], errors: Mapping[str, float], weights: Mapping[str, int], share: float
) -> set[Together]:
    """The groups whose weights changed most, with at most `share` of all weights together, but at least one.

    `errors` are relative errors by layer, and `weights` the numbers of weights.
    """

    def error(group: Together) -> float:
        squares = math.fsum(errors[name] ** 2 * weights[name] for name in group.layers)
        return math.sqrt(squares / size(group))

    def size(group: Together) -> int:
        return sum(weights[name] for name in group.layers)

    left, chosen = share * sum(weights.values()), set[Together]()
    for group in sorted(groups, key=lambda group: (-error(group), group.parent, group.layers)):
        left -= size(group)
        if chosen and left < 0:
            break
        chosen.add(group)
    return chosen


def names_in(groups: Collection[Together]) -> set[str]:
    """The names of all layers in these groups."""
    return {name for group in groups for name in group.layers}
