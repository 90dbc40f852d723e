"""What a checkpoint says about its layers: by its configuration, where a recipe of the user's own has no row."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantgate.components.models.layers import Layout
from quantgate.components.models.own_checkpoint import scheme_of_group
from quantgate.components.models.parts import LEFT, is_expert, part_of
from quantgate.components.models.variants import AUTO_ROUND
from quantgate.components.quantize.check import matches
from quantgate.components.quantize.memory_needed import shapes
from quantgate.components.quantize.tensors import WEIGHT

UNPACKED = ("int-quantized", "float-quantized")
KNOWN_FORMATS = (*UNPACKED, "pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized")
KNOWN_STRATEGIES = ("group", "channel", "block", "tensor_group")
REORDERED = ("group", "dynamic")
"""Orders of activations by which a layer's columns are stored in another order."""


@dataclass(frozen=True)
class Written:
    """The layers that a checkpoint's configuration calls quantized."""

    layers: dict[str, Layout | None]
    """By name; None: in a format whose weights `check` does not restore."""
    formats: dict[str, str]
    """By name, the layout in words."""
    scheme: str
    """E.g. `W4A16`, or `W8A8 float`; several are joined by `+`."""
    linears: int
    """How many linear layers the model has."""

    @classmethod
    def read(cls, folder: Path, linears: Iterable[str], method: str = "") -> "Written":
        """Read the configuration in `folder`; `linears` are the names of the model's linear layers.

        That scales may be negative is not in it: `method` says how the weights were made.
        """
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = content.get("quantization_config") or {}
        names = list(linears)
        groups = {name: group for name in names if (group := _group_of(name, config))}
        return cls(
            layers={name: _layout(group, config, AUTO_ROUND in method) for name, group in groups.items()},
            formats={name: _words(group["weights"]) for name, group in groups.items()},
            scheme=" + ".join(dict.fromkeys(scheme_of_group(group) for group in groups.values())),
            linears=len(names),
        )

    def describe(self) -> str:
        """E.g. `4 bits, groups of 64 on 12 of 15 linear layers; 8 bits, one scale a channel on 2`."""
        (first, count), *others = Counter(self.formats.values()).most_common()
        return "; ".join(
            [f"{first} on {count} of {self.linears} linear layers", *(f"{words} on {n}" for words, n in others)]
        )


def describe_parts(folder: Path) -> str:
    """E.g. `24 of 24 layers of experts; as before: 2 of routers`, from the files in `folder`; empty without such parts.

    Every layer with a matrix of weights counts, whatever its kind.
    """
    found = dict(shapes(folder))
    quantized = {name.removesuffix(".weight_scale") for name in found if name.endswith(".weight_scale")}
    matrices = {name.removesuffix(WEIGHT) for name, shape in found.items() if name.endswith(WEIGHT) and len(shape) > 1}
    kept = matrices - quantized
    done, left = (sum(map(is_expert, layers)) for layers in (quantized, kept))
    experts = [f"{done} of {done + left} layers of experts"] if done + left else []
    parts = Counter(part for layer in kept if (part := part_of(layer)) and part.counted)
    counts = ", ".join(f"{parts[part]} of {part.name}" for part in LEFT if parts[part])
    return "; ".join([*experts, *([f"as before: {counts}"] if counts else [])])


def _group_of(name: str, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The group of the configuration that quantizes the layer's weights."""
    if any(matches(target, name) for target in config.get("ignore") or ()):
        return None
    groups: list[Mapping[str, Any]] = list((config.get("config_groups") or {}).values())
    return next(
        (
            group
            for group in groups
            if group.get("weights") and any(matches(target, name) for target in group["targets"])
        ),
        None,
    )


def _layout(group: Mapping[str, Any], config: Mapping[str, Any], signed: bool) -> Layout | None:
    weights, stored = group["weights"], group.get("format") or config.get("format")
    known = stored in KNOWN_FORMATS and weights.get("strategy") in KNOWN_STRATEGIES
    if not known or weights.get("actorder") in REORDERED:
        return None
    return Layout(
        bits=int(weights["num_bits"]),
        group_size=weights.get("group_size") or None,
        symmetric=bool(weights.get("symmetric")),
        packed=stored not in UNPACKED,
        number=str(weights.get("type")),
        block_size=(weights.get("block_structure") or [None])[0],
        signed=signed,
    )


def _words(weights: Mapping[str, Any]) -> str:
    kind = "" if weights.get("type") == "int" else f" ({weights.get('type')})"
    size, strategy = weights.get("group_size"), weights.get("strategy")
    scales = f"groups of {size}" if size else f"one scale a {strategy}"
    return f"{weights['num_bits']} bits{kind}, {scales}{'' if weights.get('symmetric') else ', zero points'}"
